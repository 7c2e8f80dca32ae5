//! Replays dead letters: decodes them by the codec of their origin, stores them by the
//! steps of the commit, updates their lanes' counts, and marks them, in one transaction.
//!
//! It takes locks in the order of all others: the job's row (as a start does), lanes, then
//! the dead letters by number, then the locks of the commit's steps (rule R4,
//! docs/protocol.md). No holder of a dead letter waits for any of the former.
//!
//! No loader terminates its session, which has no loader's mark, so a frozen replay must
//! lose its locks by itself. While it holds any, it waits for the client only between two
//! messages or statements, where the server's timeouts end it: not inside a COPY, and not
//! within an answer, as long as the sockets' buffers hold the existing rows of one
//! transaction's ids: 200 rows, some hundred KiB.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::mem;
use std::pin::pin;
use std::sync::Arc;

use bb8::ManageConnection;
use tokio_postgres::Row;

use crate::batch::Batch;
use crate::dead_letter::{Reject, Status};
use crate::delivery::bisect;
use crate::error::{Error, Server};
use crate::job::JobRef;
use crate::outcome::Outcome;
use crate::pipeline::Pipeline;
use crate::postgres::commit::lanes;
use crate::postgres::commit::lanes::LockedLanes;
use crate::postgres::commit::probe::JobCache;
use crate::postgres::commit::session::{Session, SessionManager};
use crate::postgres::commit::{self, Path};
use crate::postgres::connection::request::{PREPARE, Request};
use crate::postgres::connection::{Connection, connect_waiting};
use crate::postgres::dead_letters::origin::{Origin, OriginFile, Undecoded};
use crate::postgres::dead_letters::taken::{self, Locked, Payload};
use crate::postgres::dead_letters::{DeadLetters, Filter, filter, owning, settings};
use crate::postgres::jobs::Patience;
use crate::postgres::jobs::attempt;
use crate::postgres::timing;
use crate::progress::LaneId;
use crate::resolve::Resolution;
use crate::stop::Stop;

/// Maximum number of dead letters in one transaction: the answer with their existing rows
/// arrives while locks are held.
const RECORDS: usize = 200;

/// Number of payload bytes at which a transaction takes no further dead letter.
const BYTES: u64 = 64 << 10;

/// One transaction. The server ends it ([`timing::REPLAY_FROZEN`]) if this process is frozen
/// between the messages of one statement: a statement's timeout does not run while a message
/// is read, and that of idle sessions begins at the statement's end.
const REPLAY: Request = Request::to("replay dead letters in PostgreSQL").within(timing::REPLAY);

/// Result of replaying a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is replayed, with this outcome.
    Replayed(Outcome),
    /// It is rejected again, and stays open.
    StillBad(Reject),
    /// It was not tried.
    Skipped(Skip),
}

/// Reason why a dead letter was not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It is not open: it was replayed or discarded before.
    Resolved(Status),
    /// Its payload was deleted, and no other was given.
    Purged,
    /// It is not a record of this table.
    OtherPipeline,
}

/// Options of a replay.
#[derive(Debug, Default)]
pub struct Replay {
    /// The payload to use instead; for one dead letter only.
    pub edited: Option<Vec<u8>>,
    /// Do everything, then roll back. Each transaction of up to 200 dead letters is
    /// tried as if it were the only one.
    pub dry_run: bool,
}

/// A selected dead letter, before it is locked.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: i64,
    lane: i32,
    bytes: u64,
}

/// Dead letters of one source that one transaction replays.
#[derive(Debug)]
struct Piece {
    origin: Arc<Origin>,
    /// In the order (partition, position), since repeats are taken in order (rule R1,
    /// docs/protocol.md).
    letters: Vec<Candidate>,
    /// For a single one: why the database has refused it.
    refused: Option<Reject>,
}

impl Piece {
    /// Splits off the second half.
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

/// Verdicts on dead letters in a transaction whose COMMIT is not acknowledged yet, with the
/// versions that it gave their rows: a version that is found again was stored.
type Unacknowledged = HashMap<i64, (String, Verdict)>;

/// A replay in progress.
struct Run<'a> {
    replay: &'a Replay,
    jobs: JobCache,
    session: Option<Session>,
    unacknowledged: Unacknowledged,
}

impl DeadLetters {
    /// Replays the dead letters of `pipeline` that match `filter`, and passes each
    /// verdict to `told`. Those of one source are taken in the order in which they were
    /// read, up to 200 in a transaction; records that the database refuses are found by
    /// halves (rule R11, docs/protocol.md). Lanes keep their claims and positions, so
    /// running consumers and loads lose nothing. Only the schema's owner may.
    ///
    /// Once the stop is requested, the current transaction is ended and reported, and no other
    /// one begins. After a COMMIT without an answer it first finds out what that has
    /// stored, which takes as long as the server is away, up to some minutes. Safe to
    /// repeat at any time: replayed dead letters are skipped.
    ///
    /// # Errors
    /// `Transient` or `Fatal`, `Interrupted` when it was stopped; reported verdicts stay
    /// valid.
    pub async fn replay(
        &self,
        pipeline: &Pipeline,
        filter: &Filter,
        replay: &Replay,
        mut told: impl FnMut(i64, Verdict),
        stop: &Stop,
    ) -> Result<(), Error> {
        let mut stop = pin!(stop.stopped());
        let chosen = unless(stop.as_mut(), self.choose(filter, pipeline.name()));
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
                    None => Box::pin(self.session(pipeline)).await,
                }
            };
            let tried = match unless(run.settled(stop.as_mut()), session).await {
                Ok(session) => Box::pin(run.attempt(session, &piece)).await,
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

    /// Selects the dead letters, by source and in the order in which they were read, and
    /// those that are records of another table.
    async fn choose(
        &self,
        filter: &Filter,
        pipeline: &str,
    ) -> Result<(VecDeque<Piece>, Vec<i64>), Error> {
        let sql = format!(
            "select d.id, d.lane, \
                    coalesce(octet_length(coalesce(d.edited_payload, d.payload)), 0) \
                        + coalesce(octet_length(d.key), 0) \
                        + coalesce(octet_length(d.headers::text), 0) as bytes \
             from {} where {} order by p.pipeline, p.source, p.partition, d.position",
            filter::FROM,
            filter::WHERE,
        );
        let connection = self.connect().await?;
        let rows = async { filter.query(&connection, &sql).await.map_err(owning) };
        let look_up = Request::to("look up dead letters in PostgreSQL");
        let look_up = look_up.within(timing::DEAD_LETTERS);
        let rows = look_up.limit(rows).await?;
        let candidates = rows.iter().map(candidate).collect::<Result<Vec<_>, _>>();
        let candidates = candidates.map_err(owning)?;
        drop(rows);
        let origins = Request::to("look up lanes in PostgreSQL")
            .within(timing::DEAD_LETTERS)
            .limit(origins(&connection, &candidates))
            .await?;
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

    async fn session(&self, pipeline: &Pipeline) -> Result<Session, Error> {
        connect_waiting(&self.database, "replay", Some(timing::SERVER_AWAY)).await?;
        let manager = SessionManager {
            config: self.database.clone(),
            purpose: "replay".into(),
            mark: None,
            pipeline: pipeline.clone(),
        };
        let session = manager.connect().await?;
        let prepare = async {
            session.connection().batch_execute(&settings()).await?;
            let limit = timing::set("transaction_timeout", timing::REPLAY_FROZEN);
            session.connection().batch_execute(&limit).await
        };
        PREPARE.limit(async { prepare.await.map_err(owning) }).await?;
        Ok(session)
    }
}

impl Run<'_> {
    /// Waits for `stop`, and for the outcome of a COMMIT without an answer.
    async fn settled(&self, stop: impl Future<Output = ()>) {
        if self.unacknowledged.is_empty() { stop.await } else { pending().await }
    }

    /// Runs one transaction. The session is left without one, or is closed.
    async fn attempt(
        &mut self,
        mut session: Session,
        piece: &Piece,
    ) -> Result<Vec<(i64, Verdict)>, Error> {
        let work = async {
            let result = self.transact(&mut session, piece).await;
            if result.is_err() {
                session.roll_back().await;
            }
            Ok(result)
        };
        // Without an answer, it is dropped with its connection. Whether it was stored shows
        // in the next attempt, which waits for its locks.
        let result = match REPLAY.limit(work).await {
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

/// Returns the result of `work`, unless `stop` is ready before.
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
            what: "stopped; run it again: finished dead letters are skipped".into(),
        }),
        done = work => done,
    }
}

/// Puts back a piece that met an error, in halves if one of its records may be the cause.
///
/// # Errors
/// The same one, if another attempt is not worth it.
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

/// Reads the origins of the lanes of these dead letters.
async fn origins(
    connection: &Connection,
    letters: &[Candidate],
) -> Result<HashMap<i32, Arc<Origin>>, Error> {
    let sql = "\
        select p.lane, p.pipeline, p.source, p.format, j.id, \
               (extract(epoch from j.as_of) * 1000000)::bigint as as_of, j.header, \
               j.dialect::text as dialect \
        from lambda.ingest_progress p \
        left join lambda.batch_jobs j on j.pipeline = p.pipeline and j.source = p.source \
        where p.lane = any($1) order by p.pipeline, p.source";
    let mut lanes: Vec<i32> = letters.iter().map(|letter| letter.lane).collect();
    lanes.sort_unstable();
    lanes.dedup();
    let mut origins = HashMap::with_capacity(lanes.len());
    let read = async {
        let mut last: Option<Arc<Origin>> = None;
        for row in connection.query(sql, &[&lanes]).await? {
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
            let job = JobRef { as_of_micros, number };
            let (header, dialect) = (row.try_get("header")?, row.try_get("dialect")?);
            Some(OriginFile { job, header, dialect })
        }
        None => None,
    };
    Ok(Origin {
        pipeline: row.try_get("pipeline")?,
        source: row.try_get("source")?,
        format: row.try_get("format")?,
        file,
    })
}

impl Run<'_> {
    async fn transact(
        &mut self,
        session: &mut Session,
        piece: &Piece,
    ) -> Result<Vec<(i64, Verdict)>, Error> {
        session.begin(true).await.map_err(owning)?;
        let ids = piece.ids();
        // Before locks are taken that a loader waits for, in case the answer is never read.
        let payloads = taken::payloads(session, &ids).await.map_err(owning)?;
        let job = piece.origin.file.as_ref().map(|file| file.job.number);
        if let Some(number) = job {
            attempt::lock(session.connection(), number).await.map_err(owning)?;
        }
        let locked = lanes::lock(session, &piece.lanes()).await?;
        let letters = taken::lock(session, &ids).await.map_err(owning)?;
        let (mut verdicts, letters) = self.sort_out(letters);
        if letters.is_empty() {
            session.roll_back().await;
            return Ok(verdicts);
        }
        let batch = decode(&session.pipeline, piece, &letters, &payloads, &locked, self.replay)?;
        let (resolution, sums, _) =
            commit::store_rows(session, &batch, locked.xid, Path::Statement, &self.jobs).await?;
        lanes::recount(session, &batch, &locked, &resolution.counts, &sums).await?;
        let ids = in_order_of_entries(&letters, &batch);
        let versions =
            taken::mark(session, &ids, &resolution, self.replay.edited.as_deref()).await?;
        if let Some(number) = job {
            attempt::recount(session.connection(), number).await.map_err(owning)?;
        }
        let immediate = session.connection().batch_execute("set constraints all immediate").await;
        immediate.map_err(|error| REPLAY.failed(error))?;
        let marked: Vec<(i64, Verdict)> = told(&ids, resolution).collect();
        if self.replay.dry_run {
            session.roll_back().await;
        } else {
            self.commit(session, &marked, versions).await?;
        }
        verdicts.extend(marked);
        Ok(verdicts)
    }

    /// Commits, and remembers what that would store until it is known to be stored.
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
        // This includes those of an earlier attempt: its backend is gone, or this attempt
        // would still wait for its locks.
        self.unacknowledged.clear();
        Ok(())
    }

    /// Returns verdicts that need no attempt, and the dead letters to try.
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

/// Numbers of the dead letters whose records are in the batch.
fn in_order_of_entries(letters: &[Locked], batch: &Batch) -> Vec<i64> {
    let places: HashMap<(LaneId, i64), i64> =
        letters.iter().map(|letter| ((letter.lane, letter.position), letter.id)).collect();
    let entries = batch.entries().iter();
    entries.map(|entry| places[&(batch.span(entry).lane, entry.position)]).collect()
}

/// Builds the batch of the dead letters.
///
/// # Errors
/// `Transient`, if one has changed since its payload was read; `Fatal`.
fn decode(
    pipeline: &Pipeline,
    piece: &Piece,
    letters: &[Locked],
    payloads: &HashMap<i64, Payload>,
    lanes: &LockedLanes,
    replay: &Replay,
) -> Result<Batch, Error> {
    let mut records = Vec::with_capacity(letters.len());
    for letter in letters {
        let read = payloads.get(&letter.id).filter(|read| read.version == letter.version);
        let read = read.ok_or_else(|| letter.changed())?;
        records.push(Undecoded {
            lane: lanes.get(letter.lane).ok_or_else(|| lane_gone(letter))?,
            position: letter.position,
            read,
            edited: replay.edited.as_deref(),
            refused: piece.refused.as_ref(),
        });
    }
    piece.origin.decode(pipeline, &records)
}

fn lane_gone(letter: &Locked) -> Error {
    Error::misconfigured(
        format!("{} has no row in ingest_progress, and dead letters name it", letter.lane),
        "only this program may write there: restore the changed rows",
    )
}

/// Verdicts on the dead letters, one for each entry.
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
