//! Dead letters taken again: decoded by the codec of their origin, stored by the steps of
//! the commit, counted anew in their lanes, and marked, in one transaction.
//!
//! Its locks are taken in the order of everybody else: the job's row (as a start does),
//! lanes, then the dead letters by number, then what the commit's steps lock (R4). Nobody
//! who holds a dead letter waits for any of the former.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;

use bb8::ManageConnection;
use tokio_postgres::Row;

use crate::batch::Batch;
use crate::dead_letter::{Reject, Status};
use crate::delivery::bisect;
use crate::error::{Error, Server};
use crate::job::JobRef;
use crate::outcome::Outcome;
use crate::postgres::commit::{self, Failure, Path};
use crate::postgres::connect::{LOCK_TIMEOUT, answered, connect_waiting};
use crate::postgres::dead_letters::origin::{Origin, Undecoded};
use crate::postgres::dead_letters::{DeadLetters, Filter, PATIENCE, SETTINGS, filter, owning};
use crate::postgres::jobs::Patience;
use crate::postgres::lanes::LockedLanes;
use crate::postgres::probe::JobCache;
use crate::postgres::session::{Session, SessionManager};
use crate::postgres::{lanes, lease};
use crate::progress::LaneId;
use crate::record::Record;
use crate::remedy;
use crate::resolve::Resolution;

/// Most dead letters of one transaction.
const RECORDS: usize = 1_000;

/// Bytes of payloads beyond which a transaction takes no further one.
const BYTES: u64 = 8 << 20;

/// What became of a dead letter that was to be taken again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is replayed, with this outcome.
    Replayed(Outcome),
    /// It is rejected again, and stays open.
    StillBad(Reject),
    /// It was not tried.
    Skipped(Skip),
}

/// Why a dead letter was not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It is not open: it was replayed or discarded before.
    Resolved(Status),
    /// Its payload was deleted, and no other one given.
    Purged,
    /// It is not a record of this table.
    OtherPipeline,
}

/// How dead letters are taken again.
#[derive(Debug, Default)]
pub struct Replay {
    /// What to take instead of the payload; for one dead letter only.
    pub edited: Option<Vec<u8>>,
    /// Do everything, then roll back. Each transaction of up to 1,000 dead letters is
    /// tried as if it were the only one.
    pub dry_run: bool,
}

/// A dead letter as it is chosen, before it is locked.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: i64,
    lane: i32,
    bytes: u64,
}

/// Dead letters of one source that one transaction takes.
#[derive(Debug)]
struct Piece {
    origin: Arc<Origin>,
    /// In the order (partition, position) (R1).
    letters: Vec<Candidate>,
    /// For one alone: why the database has refused it.
    refused: Option<Reject>,
}

impl Piece {
    /// Takes the latter half away.
    fn split(&mut self) -> Option<Self> {
        let half = self.letters.len() / 2;
        (half > 0).then(|| Self {
            origin: Arc::clone(&self.origin),
            letters: self.letters.split_off(half),
            refused: None,
        })
    }

    fn lanes(&self) -> Vec<LaneId> {
        let mut lanes: Vec<LaneId> =
            self.letters.iter().map(|letter| LaneId(letter.lane)).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }
}

/// A dead letter, locked.
#[derive(Debug)]
struct Locked {
    id: i64,
    lane: LaneId,
    position: i64,
    payload: Option<Vec<u8>>,
    status: Status,
    purged: bool,
}

impl DeadLetters {
    /// Takes the dead letters that `filter` lets through again, as records of `R`, and
    /// hands `told` what became of each. Those of one source go in the order in which
    /// they were read, up to 1,000 a transaction; what the database refuses is found by
    /// halves (R11). Lanes keep their claims and positions: consumers and loads that
    /// run on them lose nothing. The schema's owner may.
    ///
    /// Safe to repeat after whatever happened: what is replayed is skipped.
    ///
    /// # Errors
    /// `Transient` or `Fatal`; what was told stays so.
    pub async fn replay<R: Record>(
        &self,
        filter: &Filter,
        replay: &Replay,
        mut told: impl FnMut(i64, Verdict),
    ) -> Result<(), Error> {
        let (mut pieces, foreign) = self.choose(filter, R::TABLE.name).await?;
        for id in foreign {
            told(id, Verdict::Skipped(Skip::OtherPipeline));
        }
        let chosen: usize = pieces.iter().map(|piece| piece.letters.len()).sum();
        if replay.edited.is_some() && chosen > 1 {
            return Err(Error::misconfigured(
                format!("one payload is given for {chosen} dead letters"),
                "name one of them",
            ));
        }
        let jobs = JobCache::default();
        let (mut session, mut patience) = (None, Patience::default());
        while let Some(piece) = pieces.pop_front() {
            let error = match self.attempt::<R>(&mut session, &piece, replay, &jobs).await {
                Ok(verdicts) => {
                    patience = Patience::default();
                    for (id, verdict) in verdicts {
                        told(id, verdict);
                    }
                    continue;
                }
                Err(Failure::Aborted(error)) => error,
                // Whether it was committed is seen when it is tried again: its locks are
                // waited for, and its status was stored with it.
                Err(Failure::Unknown(source)) => {
                    Error::Unreachable { server: Server::Postgres, source: Box::new(source) }
                }
            };
            if !matches!(error, Error::Refused { .. } | Error::Contended { .. }) {
                session = None;
            }
            put_back(&mut pieces, piece, error, &mut patience).await?;
        }
        Ok(())
    }

    /// The dead letters meant, by source and in the order in which they were read, and
    /// those that are records of another table.
    async fn choose(
        &self,
        filter: &Filter,
        pipeline: &str,
    ) -> Result<(VecDeque<Piece>, Vec<i64>), Error> {
        let sql = format!(
            "select d.id, d.lane, \
                    coalesce(octet_length(coalesce(d.edited_payload, d.payload)), 0) as bytes \
             from {} where {} order by p.pipeline, p.source, p.partition, d.position",
            filter::FROM,
            filter::WHERE,
        );
        let connection = self.connect().await?;
        let rows = filter.query(&connection, &sql).await.map_err(owning)?;
        let candidates = rows.iter().map(candidate).collect::<Result<Vec<_>, _>>();
        let candidates = candidates.map_err(owning)?;
        drop(rows);
        let origins = origins(&connection, &candidates).await?;
        let (mut pieces, mut foreign) = (VecDeque::<Piece>::new(), Vec::new());
        let mut bytes = 0;
        for letter in candidates {
            let origin = origins.get(&letter.lane).filter(|origin| origin.pipeline == pipeline);
            let Some(origin) = origin else {
                foreign.push(letter.id);
                continue;
            };
            bytes += letter.bytes;
            match pieces.back_mut() {
                Some(piece)
                    if piece.origin == *origin
                        && piece.letters.len() < RECORDS
                        && bytes <= BYTES =>
                {
                    piece.letters.push(letter);
                }
                _ => {
                    bytes = letter.bytes;
                    let origin = Arc::clone(origin);
                    pieces.push_back(Piece { origin, letters: vec![letter], refused: None });
                }
            }
        }
        Ok((pieces, foreign))
    }

    /// One transaction. The session is left without one, or is gone.
    async fn attempt<R: Record>(
        &self,
        session: &mut Option<Session>,
        piece: &Piece,
        replay: &Replay,
        jobs: &JobCache,
    ) -> Result<Vec<(i64, Verdict)>, Failure> {
        let mut taken = match session.take() {
            Some(session) => session,
            None => self.session::<R>().await?,
        };
        let work = async {
            let result = transact::<R>(&mut taken, piece, replay, jobs).await;
            if let Err(Failure::Aborted(_)) = result {
                taken.roll_back().await;
            }
            Ok(result)
        };
        // Not answered, it is dropped with its connection, as if it had never been asked.
        let result = answered(LOCK_TIMEOUT, "replay dead letters", work).await?;
        if !matches!(result, Err(Failure::Unknown(_))) {
            *session = Some(taken);
        }
        result
    }

    async fn session<R: Record>(&self) -> Result<Session, Error> {
        connect_waiting(&self.database, "replay", Some(PATIENCE)).await?;
        let manager = SessionManager {
            config: self.database.clone(),
            purpose: "replay".into(),
            table: const { &R::TABLE },
        };
        let session = manager.connect().await?;
        session.client().batch_execute(SETTINGS).await.map_err(owning)?;
        Ok(session)
    }
}

/// Puts a piece back that met an error, in halves if that may lie in one of its records.
///
/// # Errors
/// The same one, if another try is not worth it.
async fn put_back(
    pieces: &mut VecDeque<Piece>,
    mut piece: Piece,
    error: Error,
    patience: &mut Patience,
) -> Result<(), Error> {
    let refused = match &error {
        Error::Refused { code, object, .. } => Some(bisect::refusal(code, object)),
        _ => None,
    };
    let in_halves = refused.is_some() || matches!(error, Error::Contended { .. });
    if in_halves && let Some(rest) = piece.split() {
        pieces.push_front(rest);
    } else if refused.is_some() && piece.refused.is_none() {
        piece.refused = refused;
    } else if !patience.again(&error).await {
        return Err(error);
    }
    pieces.push_front(piece);
    Ok(())
}

fn candidate(row: &Row) -> Result<Candidate, tokio_postgres::Error> {
    let bytes: i32 = row.try_get("bytes")?;
    let bytes = u64::from(bytes.unsigned_abs());
    Ok(Candidate { id: row.try_get("id")?, lane: row.try_get("lane")?, bytes })
}

/// Where the lanes of these dead letters come from.
async fn origins(
    client: &tokio_postgres::Client,
    letters: &[Candidate],
) -> Result<HashMap<i32, Arc<Origin>>, Error> {
    let sql = "\
        select p.lane, p.pipeline, p.source, j.id, \
               (extract(epoch from j.as_of) * 1000000)::bigint as as_of, j.header \
        from ingest_progress p \
        left join batch_jobs j on j.pipeline = p.pipeline and j.source = p.source \
        where p.lane = any($1) order by p.pipeline, p.source";
    let mut lanes: Vec<i32> = letters.iter().map(|letter| letter.lane).collect();
    lanes.sort_unstable();
    lanes.dedup();
    let mut origins = HashMap::with_capacity(lanes.len());
    let read = async {
        let mut last: Option<Arc<Origin>> = None;
        for row in client.query(sql, &[&lanes]).await? {
            let origin = origin(&row)?;
            let shared = last.filter(|last| **last == origin).unwrap_or_else(|| Arc::new(origin));
            origins.insert(row.try_get("lane")?, Arc::clone(&shared));
            last = Some(shared);
        }
        Ok(origins)
    };
    read.await.map_err(owning)
}

fn origin(row: &Row) -> Result<Origin, tokio_postgres::Error> {
    let number: Option<i64> = row.try_get("id")?;
    let file = match number {
        Some(number) => {
            let as_of_micros = row.try_get("as_of")?;
            Some((JobRef { as_of_micros, number }, row.try_get("header")?))
        }
        None => None,
    };
    Ok(Origin { pipeline: row.try_get("pipeline")?, source: row.try_get("source")?, file })
}

async fn transact<R: Record>(
    session: &mut Session,
    piece: &Piece,
    replay: &Replay,
    jobs: &JobCache,
) -> Result<Vec<(i64, Verdict)>, Failure> {
    session.begin(true).await.map_err(owning)?;
    let job = piece.origin.file.as_ref().map(|(job, _)| job.number);
    if let Some(number) = job {
        lease::lock(session.client(), number).await.map_err(owning)?;
    }
    let locked = lanes::lock(session, &piece.lanes()).await?;
    let mut letters = lock(session, piece).await.map_err(owning)?;
    let mut verdicts = Vec::with_capacity(letters.len());
    letters.retain(|letter| match letter.skip(replay) {
        Some(skip) => {
            verdicts.push((letter.id, Verdict::Skipped(skip)));
            false
        }
        None => true,
    });
    if letters.is_empty() {
        session.roll_back().await;
        return Ok(verdicts);
    }
    let batch = decode::<R>(piece, &letters, &locked, replay)?;
    let (resolution, sums, _) =
        commit::store_rows(session, &batch, locked.xid, Path::Probe, jobs).await?;
    lanes::recount(session, &batch, &locked, &resolution.counts, &sums).await?;
    let places: HashMap<(LaneId, i64), i64> =
        letters.iter().map(|letter| ((letter.lane, letter.position), letter.id)).collect();
    let ids: Vec<i64> = batch
        .entries()
        .iter()
        .map(|entry| places[&(batch.span(entry).lane, entry.position)])
        .collect();
    mark(session, &ids, &resolution, replay.edited.as_deref()).await?;
    if let Some(number) = job {
        lease::recount(session.client(), number).await.map_err(owning)?;
    }
    let immediate = session.client().batch_execute("set constraints all immediate").await;
    immediate.map_err(|error| remedy::postgres(error, "replay dead letters"))?;
    verdicts.extend(told(&ids, resolution));
    if replay.dry_run {
        session.roll_back().await;
    } else {
        session.commit().await.map_err(Failure::Unknown)?;
    }
    Ok(verdicts)
}

fn decode<R: Record>(
    piece: &Piece,
    letters: &[Locked],
    lanes: &LockedLanes,
    replay: &Replay,
) -> Result<Batch, Error> {
    let mut records = Vec::with_capacity(letters.len());
    for letter in letters {
        records.push(Undecoded {
            lane: lanes.get(letter.lane).ok_or_else(|| lane_gone(letter))?,
            position: letter.position,
            payload: replay.edited.as_deref().or(letter.payload.as_deref()),
            refused: piece.refused.as_ref(),
        });
    }
    piece.origin.decode::<R>(&records)
}

impl Locked {
    /// Why it is not to be tried, if it is not.
    fn skip(&self, replay: &Replay) -> Option<Skip> {
        if self.status != Status::Open {
            return Some(Skip::Resolved(self.status));
        }
        let gone = self.purged && self.payload.is_none() && replay.edited.is_none();
        gone.then_some(Skip::Purged)
    }
}

fn lane_gone(letter: &Locked) -> Error {
    Error::misconfigured(
        format!("{} has no row in ingest_progress, and dead letters name it", letter.lane),
        "rows there are written by this program only: restore what was changed",
    )
}

/// Locks the dead letters of a piece by number. Gives them in the piece's order.
async fn lock(session: &Session, piece: &Piece) -> Result<Vec<Locked>, tokio_postgres::Error> {
    let sql = "\
        select id, lane, position, coalesce(edited_payload, payload) as payload, status, \
               purged_at is not null as purged \
        from dead_letters where id = any($1) order by id for update";
    let ids: Vec<i64> = piece.letters.iter().map(|letter| letter.id).collect();
    let mut found = HashMap::with_capacity(ids.len());
    for row in session.client().query(sql, &[&ids]).await? {
        let status: String = row.try_get("status")?;
        let letter = Locked {
            id: row.try_get("id")?,
            lane: LaneId(row.try_get("lane")?),
            position: row.try_get("position")?,
            payload: row.try_get("payload")?,
            // The column's check admits no other names.
            status: Status::parse(&status).unwrap_or(Status::Open),
            purged: row.try_get("purged")?,
        };
        found.insert(letter.id, letter);
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

/// Writes what became of the letters, one for each entry. What they were rejected for is
/// kept of those that are replayed. One that is given a payload has one to be purged.
async fn mark(
    session: &Session,
    ids: &[i64],
    resolution: &Resolution,
    edited: Option<&[u8]>,
) -> Result<(), Error> {
    let sql = "\
        update dead_letters d \
        set attempts = d.attempts + 1, edited_payload = coalesce($4, d.edited_payload), \
            purged_at = case when $4::bytea is null then d.purged_at end, \
            status = case when n.reason is null then 'replayed' else 'open' end, \
            resolved_at = case when n.reason is null then now() end, \
            reason = coalesce(n.reason, d.reason), detail = coalesce(n.detail, d.detail) \
        from unnest($1::int8[], $2::text[], $3::text[]) as n(id, reason, detail) \
        where d.id = n.id";
    let (mut reasons, mut details) = (vec![None; ids.len()], vec![None; ids.len()]);
    for (index, reject) in &resolution.dead_letters {
        reasons[*index] = Some(reject.reason.as_str());
        details[*index] = Some(reject.detail.as_str());
    }
    let marked = session.client().execute(sql, &[&ids, &reasons, &details, &edited]).await;
    lanes::expect_rows("marked in dead_letters", marked.map_err(owning)?, ids.len())
}

/// What became of the letters, one for each entry.
fn told(ids: &[i64], mut resolution: Resolution) -> impl Iterator<Item = (i64, Verdict)> {
    let mut rejects: HashMap<usize, Reject> =
        mem::take(&mut resolution.dead_letters).into_iter().collect();
    ids.iter().copied().enumerate().map(move |(index, id)| {
        let verdict = match rejects.remove(&index) {
            Some(reject) => Verdict::StillBad(reject),
            None => Verdict::Replayed(resolution.outcomes[index]),
        };
        (id, verdict)
    })
}
