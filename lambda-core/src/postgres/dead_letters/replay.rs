//! Dead letters taken again: decoded by the codec of their origin, stored by the steps of
//! the commit, counted anew in their lanes, and marked, in one transaction.
//!
//! Its locks are taken in the order of everybody else: the job's row (as a start does),
//! lanes, then the dead letters by number, then what the commit's steps lock (R4). Nobody
//! who holds a dead letter waits for any of the former.
//!
//! No loader ends its session, which has no mark of a loader, so that one which is frozen
//! must lose its locks by itself. While it holds any, it waits for the client
//! between two messages or statements only, where the server's timeouts end it: not inside
//! a COPY, and not amid an answer, as long as sockets' buffers hold what stands under the
//! ids of one transaction: 200 rows, some hundred KiB.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bb8::ManageConnection;
use tokio_postgres::Row;

use crate::batch::Batch;
use crate::dead_letter::{Reject, Status};
use crate::delivery::bisect;
use crate::error::{Error, Server};
use crate::job::JobRef;
use crate::outcome::Outcome;
use crate::postgres::commit::{self, Path};
use crate::postgres::connect::{ANSWER_TIMEOUT, answered, connect_waiting};
use crate::postgres::dead_letters::origin::{Origin, Undecoded};
use crate::postgres::dead_letters::taken::{self, Locked, Payload};
use crate::postgres::dead_letters::{
    CHUNK_TIMEOUT, DeadLetters, Filter, PATIENCE, SETTINGS, filter, owning,
};
use crate::postgres::jobs::Patience;
use crate::postgres::lanes::LockedLanes;
use crate::postgres::probe::JobCache;
use crate::postgres::session::{Session, SessionManager};
use crate::postgres::{lanes, lease};
use crate::progress::LaneId;
use crate::record::Record;
use crate::remedy;
use crate::resolve::Resolution;

/// Most dead letters of one transaction: what stands under their ids is answered while
/// locks are held.
const RECORDS: usize = 200;

/// Bytes of payloads beyond which a transaction takes no further one.
const BYTES: u64 = 64 << 10;

/// How long one transaction may take before it is tried with fewer dead letters.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);

/// What ends a replay that is frozen between the messages of one statement: a statement's
/// timeout is held off while a message is read, and that of idle sessions begins with the
/// statement's end. Later than [`TRANSACTION_TIMEOUT`], by which we give it up ourselves.
const TRANSACTION_SETTINGS: &str = "set transaction_timeout = '20s'";

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
    /// Do everything, then roll back. Each transaction of up to 200 dead letters is
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

    fn ids(&self) -> Vec<i64> {
        self.letters.iter().map(|letter| letter.id).collect()
    }

    fn lanes(&self) -> Vec<LaneId> {
        let mut lanes: Vec<LaneId> =
            self.letters.iter().map(|letter| LaneId(letter.lane)).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }
}

/// What is said about dead letters in a transaction whose COMMIT was not acknowledged
/// yet, and the versions that it gave their rows: one that is found again was stored.
type Unacknowledged = HashMap<i64, (String, Verdict)>;

/// A replay under way.
struct Run<'a> {
    replay: &'a Replay,
    jobs: JobCache,
    session: Option<Session>,
    unacknowledged: Unacknowledged,
}

impl DeadLetters {
    /// Takes the dead letters that `filter` lets through again, as records of `R`, and
    /// hands `told` what became of each. Those of one source go in the order in which
    /// they were read, up to 200 a transaction; what the database refuses is found by
    /// halves (R11). Lanes keep their claims and positions: consumers and loads that
    /// run on them lose nothing. The schema's owner may.
    ///
    /// Once `stop` is ready, the transaction under way is ended and told, and no other one
    /// begun; after a COMMIT without an answer it is found out first what that has stored,
    /// which takes as long as the server is away, up to some minutes. Safe to repeat after
    /// whatever happened: what is replayed is skipped.
    ///
    /// # Errors
    /// `Transient` or `Fatal`, `Interrupted` when it was stopped; what was told stays so.
    pub async fn replay<R: Record>(
        &self,
        filter: &Filter,
        replay: &Replay,
        mut told: impl FnMut(i64, Verdict),
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let mut stop = pin!(stop);
        let chosen = unless(stop.as_mut(), self.choose(filter, R::TABLE.name));
        let (mut pieces, foreign) = chosen.await?;
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
        let mut run = Run {
            replay,
            jobs: JobCache::default(),
            session: None,
            unacknowledged: Unacknowledged::new(),
        };
        let mut patience = Patience::default();
        while let Some(piece) = pieces.pop_front() {
            let kept = run.session.take();
            let session = async {
                match kept {
                    Some(session) => Ok(session),
                    None => Box::pin(self.session::<R>()).await,
                }
            };
            let tried = match unless(run.settled(stop.as_mut()), session).await {
                Ok(session) => Box::pin(run.attempt::<R>(session, &piece)).await,
                Err(stopped @ Error::Interrupted { .. }) => return Err(stopped),
                Err(error) => Err(error),
            };
            match tried {
                Ok(verdicts) => {
                    patience = Patience::default();
                    for (id, verdict) in verdicts {
                        run.unacknowledged.remove(&id);
                        told(id, verdict);
                    }
                }
                Err(error) => {
                    let stop = run.settled(stop.as_mut());
                    put_back(&mut pieces, piece, error, &mut patience, stop).await?;
                }
            }
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
        let asking = async { filter.query(&connection, &sql).await.map_err(owning) };
        let rows = answered(CHUNK_TIMEOUT, "look up dead letters in PostgreSQL", asking).await?;
        let candidates = rows.iter().map(candidate).collect::<Result<Vec<_>, _>>();
        let candidates = candidates.map_err(owning)?;
        drop(rows);
        let asking = origins(&connection, &candidates);
        let origins = answered(CHUNK_TIMEOUT, "look up lanes in PostgreSQL", asking).await?;
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

    async fn session<R: Record>(&self) -> Result<Session, Error> {
        connect_waiting(&self.database, "replay", Some(PATIENCE)).await?;
        let manager = SessionManager {
            config: self.database.clone(),
            purpose: "replay".into(),
            mark: None,
            table: const { &R::TABLE },
        };
        let session = manager.connect().await?;
        let prepare = async {
            session.client().batch_execute(SETTINGS).await?;
            session.client().batch_execute(TRANSACTION_SETTINGS).await
        };
        let prepare = async { prepare.await.map_err(owning) };
        answered(ANSWER_TIMEOUT, "prepare a session in PostgreSQL", prepare).await?;
        Ok(session)
    }
}

impl Run<'_> {
    /// `stop`, but not before it is known what a COMMIT without an answer has stored.
    async fn settled(&self, stop: impl Future<Output = ()>) {
        if self.unacknowledged.is_empty() { stop.await } else { pending().await }
    }

    /// One transaction. The session is left without one, or is gone.
    async fn attempt<R: Record>(
        &mut self,
        mut session: Session,
        piece: &Piece,
    ) -> Result<Vec<(i64, Verdict)>, Error> {
        let work = async {
            let result = self.transact::<R>(&mut session, piece).await;
            if result.is_err() {
                session.roll_back().await;
            }
            Ok(result)
        };
        // Not answered, it is dropped with its connection; whether it was stored is seen
        // when it is tried again: its locks are waited for.
        let result = match answered(TRANSACTION_TIMEOUT, "replay dead letters in PostgreSQL", work).await {
            Err(_) if piece.letters.len() > 1 => return Err(Error::Contended { tries: 1 }),
            result => result?,
        };
        let usable =
            |error: &Error| matches!(error, Error::Refused { .. } | Error::Contended { .. });
        if result.as_ref().err().is_none_or(usable) {
            self.session = Some(session);
        }
        result
    }
}

/// What comes of `work`, unless `stop` is ready before.
///
/// # Errors
/// Those of `work`; `Interrupted`.
async fn unless<T>(
    stop: impl Future<Output = ()>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = stop => Err(Error::Interrupted {
            what: "stopped; run it again: what is done already is passed over".into(),
        }),
        done = work => done,
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
    stop: impl Future<Output = ()>,
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
    } else if !unless(stop, async { Ok(patience.again(&error).await) }).await? {
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

impl Run<'_> {
    async fn transact<R: Record>(
        &mut self,
        session: &mut Session,
        piece: &Piece,
    ) -> Result<Vec<(i64, Verdict)>, Error> {
        session.begin(true).await.map_err(owning)?;
        let ids = piece.ids();
        // Before anything is locked that a loader waits for, should it never be read.
        let payloads = taken::payloads(session, &ids).await.map_err(owning)?;
        let job = piece.origin.file.as_ref().map(|(job, _)| job.number);
        if let Some(number) = job {
            lease::lock(session.client(), number).await.map_err(owning)?;
        }
        let locked = lanes::lock(session, &piece.lanes()).await?;
        let letters = taken::lock(session, &ids).await.map_err(owning)?;
        let (mut verdicts, letters) = self.sort_out(letters);
        if letters.is_empty() {
            session.roll_back().await;
            return Ok(verdicts);
        }
        let batch = decode::<R>(piece, &letters, &payloads, &locked, self.replay)?;
        let (resolution, sums, _) =
            commit::store_rows(session, &batch, locked.xid, Path::Statement, &self.jobs).await?;
        lanes::recount(session, &batch, &locked, &resolution.counts, &sums).await?;
        let ids = in_order_of_entries(&letters, &batch);
        let versions =
            taken::mark(session, &ids, &resolution, self.replay.edited.as_deref()).await?;
        if let Some(number) = job {
            lease::recount(session.client(), number).await.map_err(owning)?;
        }
        let immediate = session.client().batch_execute("set constraints all immediate").await;
        immediate.map_err(|error| remedy::postgres(error, "replay dead letters in PostgreSQL"))?;
        let marked: Vec<(i64, Verdict)> = told(&ids, resolution).collect();
        if self.replay.dry_run {
            session.roll_back().await;
        } else {
            self.commit(session, &marked, versions).await?;
        }
        verdicts.extend(marked);
        Ok(verdicts)
    }

    /// Commits, and keeps in mind what that would store until it is known that it is.
    async fn commit(
        &mut self,
        session: &mut Session,
        marked: &[(i64, Verdict)],
        mut versions: HashMap<i64, String>,
    ) -> Result<(), Error> {
        for (id, verdict) in marked {
            let version = versions.remove(id).unwrap_or_default();
            self.unacknowledged.insert(*id, (version, verdict.clone()));
        }
        session.commit().await.map_err(|source| Error::Unreachable {
            server: Server::Postgres,
            source: Box::new(source),
        })?;
        // Those of an earlier attempt, too: its backend is gone, or this one would still
        // wait for its locks.
        self.unacknowledged.clear();
        Ok(())
    }

    /// What is known about dead letters without trying them, and those to be tried.
    fn sort_out(&self, letters: Vec<Locked>) -> (Vec<(i64, Verdict)>, Vec<Locked>) {
        let mut known = Vec::new();
        let mut tried = Vec::with_capacity(letters.len());
        for letter in letters {
            match self.unacknowledged.get(&letter.id) {
                Some((version, verdict)) if *version == letter.version => {
                    known.push((letter.id, verdict.clone()));
                }
                _ => match letter.skip(self.replay.edited.is_some()) {
                    Some(skip) => known.push((letter.id, Verdict::Skipped(skip))),
                    None => tried.push(letter),
                },
            }
        }
        (known, tried)
    }
}

/// The numbers of the letters whose records the batch has.
fn in_order_of_entries(letters: &[Locked], batch: &Batch) -> Vec<i64> {
    let places: HashMap<(LaneId, i64), i64> =
        letters.iter().map(|letter| ((letter.lane, letter.position), letter.id)).collect();
    let entries = batch.entries().iter();
    entries.map(|entry| places[&(batch.span(entry).lane, entry.position)]).collect()
}

/// The batch that the letters make.
///
/// # Errors
/// `Transient`, if somebody has changed one since its payload was read; `Fatal`.
fn decode<R: Record>(
    piece: &Piece,
    letters: &[Locked],
    payloads: &HashMap<i64, Payload>,
    lanes: &LockedLanes,
    replay: &Replay,
) -> Result<Batch, Error> {
    let mut records = Vec::with_capacity(letters.len());
    for letter in letters {
        let read = payloads.get(&letter.id).filter(|read| read.version == letter.version);
        let payload = read.ok_or_else(|| letter.changed())?.bytes.as_deref();
        records.push(Undecoded {
            lane: lanes.get(letter.lane).ok_or_else(|| lane_gone(letter))?,
            position: letter.position,
            payload: replay.edited.as_deref().or(payload),
            refused: piece.refused.as_ref(),
        });
    }
    piece.origin.decode::<R>(&records)
}

fn lane_gone(letter: &Locked) -> Error {
    Error::misconfigured(
        format!("{} has no row in ingest_progress, and dead letters name it", letter.lane),
        "rows there are written by this program only: restore what was changed",
    )
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
