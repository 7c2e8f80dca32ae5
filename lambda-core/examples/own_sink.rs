//! A sink of your own: a journal, which is a file with one line of JSON for each claim and each
//! commit.
//!
//! A line is a transaction: the rows, dead letters, counts and positions of a commit are in the
//! file together or not at all. Before a process appends a line, it reads what others have
//! appended, under the file's lock. What the lines amount to is kept by [`MemorySink`], whose
//! rules depend on the lines and their order only. Consumer groups are not kept apart: every
//! claim succeeds.

use std::fs::File;
use std::io::{BufRead, BufReader, Error as Io, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use lambda_core::Error;
use lambda_core::batch::{Batch, Body, Entry, Slice, Span};
use lambda_core::dead_letter::{Reason, Reject};
use lambda_core::delivery::settle;
use lambda_core::job::JobRef;
use lambda_core::memory::{Contents, MemorySink};
use lambda_core::outcome::Authority;
use lambda_core::progress::{ClaimId, Fingerprint, LaneId, LaneName, Progress};
use lambda_core::sink::{ClaimRequest, Committed, Durability, Sink};
use lambda_core::source::{FirstPosition, Gained};
use lambda_core::testing::sink::{CASES, Subject};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

/// A sink on a file.
pub struct Journal {
    file: File,
    state: Mutex<State>,
}

/// What the file's first `read` bytes amount to.
#[derive(Default)]
struct State {
    read: u64,
    table: MemorySink,
}

/// The lock of a file.
struct Locked<'f>(&'f File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Should this fail, the lock ends with the process.
        let _ = self.0.unlock();
    }
}

impl Journal {
    /// Opens a journal, and creates it if there is none.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut options = File::options();
        let file = options.read(true).append(true).create(true).open(path).map_err(unavailable)?;
        Ok(Self { file, state: Mutex::default() })
    }

    /// Everything stored.
    pub async fn contents(&self) -> Result<Contents, Error> {
        let mut state = self.state.lock().await;
        let _locked = self.catch_up(&mut state).await?;
        Ok(state.table.contents())
    }

    /// Locks the file, and applies the lines that were appended since the last time.
    async fn catch_up(&self, state: &mut State) -> Result<Locked<'_>, Error> {
        self.file.lock().map_err(unavailable)?;
        let locked = Locked(&self.file);
        let mut reader = BufReader::new(&self.file);
        reader.seek(SeekFrom::Start(state.read)).map_err(unavailable)?;
        let mut text = Vec::new();
        while reader.read_until(b'\n', &mut text).map_err(unavailable)? > 0 {
            if text.last() != Some(&b'\n') {
                // Its process crashed while it appended this, so it is no transaction.
                self.file.set_len(state.read).map_err(unavailable)?;
                break;
            }
            match serde_json::from_slice(&text).map_err(|error| damaged(&error))? {
                Line::Claim(line) => drop(state.claim(&line).await?),
                Line::Commit(line) => drop(state.commit(&line).await?),
            }
            state.read += text.len() as u64;
            text.clear();
        }
        Ok(locked)
    }

    /// Appends a line; a durable one is on disk when this returns.
    fn append(&self, state: &mut State, line: &Line, durability: Durability) -> Result<(), Error> {
        let mut text = serde_json::to_vec(line).map_err(|error| damaged(&error))?;
        text.push(b'\n');
        let written = (&self.file).write_all(&text).and_then(|()| match durability {
            Durability::Durable => self.file.sync_data(),
            Durability::Visible => Ok(()),
        });
        if let Err(error) = written {
            // An error means that nothing is stored.
            let _ = self.file.set_len(state.read);
            return Err(unavailable(error));
        }
        state.read += text.len() as u64;
        Ok(())
    }
}

/// With the lock held, nothing here waits for another task, so a call that is dropped has
/// appended its line or has not. It blocks its thread while the disk works: a sink for much
/// traffic has a thread of its own for that.
#[async_trait]
impl Sink for Journal {
    async fn claim(&self, request: &ClaimRequest) -> Result<Progress, Error> {
        let mut state = self.state.lock().await;
        let _locked = self.catch_up(&mut state).await?;
        let line = ClaimLine::new(request);
        self.append(&mut state, &Line::Claim(line.clone()), Durability::Durable)?;
        state.claim(&line).await
    }

    async fn commit(&self, batch: &Batch, durability: Durability) -> Result<Committed, Error> {
        let mut state = self.state.lock().await;
        let _locked = self.catch_up(&mut state).await?;
        let lanes: Vec<LaneId> = batch.spans().iter().map(|span| span.lane).collect();
        let lanes = state.table.stored(&lanes).await?;
        let held = |span: &Span| lanes.iter().any(|lane| settle::holds(span, lane));
        let (batch, fenced) = settle::fence(batch, held);
        let line = CommitLine::new(&batch);
        self.append(&mut state, &Line::Commit(line), durability)?;
        let Committed { stored, .. } = state.table.commit(&batch, durability).await?;
        Ok(Committed { stored, fenced })
    }

    async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error> {
        let mut state = self.state.lock().await;
        let _locked = self.catch_up(&mut state).await?;
        state.table.stored(lanes).await
    }
}

impl State {
    async fn claim(&mut self, line: &ClaimLine) -> Result<Progress, Error> {
        let mut progress = self.table.claim(&line.request()).await?;
        // The sink in memory makes a claim of its own. The line's is the one that counts.
        progress.claim = Some(ClaimId(Uuid::from_u128(line.claim)));
        let mut contents = self.table.contents();
        contents.lanes.insert(progress.lane, progress.clone());
        self.table.rewind(contents);
        Ok(progress)
    }

    async fn commit(&mut self, line: &CommitLine) -> Result<Committed, Error> {
        self.table.commit(&line.batch()?, Durability::Durable).await
    }
}

#[derive(Serialize, Deserialize)]
enum Line {
    Claim(ClaimLine),
    Commit(CommitLine),
}

#[derive(Clone, Serialize, Deserialize)]
struct ClaimLine {
    pipeline: String,
    source: String,
    partition: i32,
    format: String,
    owner: String,
    position: i64,
    gained: Option<(i64, i32)>,
    given_up: Option<i32>,
    claim: u128,
}

impl ClaimLine {
    fn new(request: &ClaimRequest) -> Self {
        let ClaimRequest { name, first_position, format, owner, given_up, .. } = request.clone();
        Self {
            pipeline: name.pipeline,
            source: name.source,
            partition: name.partition,
            format,
            owner,
            position: first_position.position,
            gained: first_position.gained.map(|gained| (gained.beginning, gained.partitions)),
            given_up: given_up.map(|lane| lane.0),
            claim: ClaimId::random().0.as_u128(),
        }
    }

    fn request(&self) -> ClaimRequest {
        let Self { pipeline, source, partition, format, owner, .. } = self.clone();
        let gained = self.gained.map(|(beginning, partitions)| Gained { beginning, partitions });
        ClaimRequest {
            name: LaneName { pipeline, source, partition },
            first_position: FirstPosition { position: self.position, gained },
            format,
            owner,
            group: None,
            take_over: false,
            given_up: self.given_up.map(LaneId),
        }
    }
}

/// A batch. Bytes are hexadecimal.
#[derive(Serialize, Deserialize)]
struct CommitLine {
    /// Effective time and number of the job; nothing for the stream.
    job: Option<(i64, i64)>,
    spans: Vec<SpanLine>,
    records: Vec<RecordLine>,
}

#[derive(Serialize, Deserialize)]
struct SpanLine {
    lane: i32,
    partition: i32,
    claim: u128,
    from: i64,
    to: i64,
    last: Option<(i64, i64, i64)>,
}

#[derive(Serialize, Deserialize)]
struct RecordLine {
    span: u32,
    position: i64,
    line: Option<i64>,
    timestamp_ms: Option<i64>,
    key: Option<String>,
    headers: Option<String>,
    payload: String,
    body: BodyLine,
}

#[derive(Serialize, Deserialize)]
enum BodyLine {
    Row { content: String, key: String },
    Rejected { reason: String, field: Option<String>, detail: String },
    Skipped,
}

impl CommitLine {
    fn new(batch: &Batch) -> Self {
        let span = |span: &Span| SpanLine {
            lane: span.lane.0,
            partition: span.partition,
            claim: span.claim.0.as_u128(),
            from: span.from,
            to: span.to,
            last: span.last.map(|last| (last.position, last.timestamp_ms, last.checksum)),
        };
        let record = |entry: &Entry| RecordLine {
            span: entry.span,
            position: entry.position,
            line: entry.line,
            timestamp_ms: entry.timestamp_ms,
            key: batch.message_key(entry).map(|key| HEXLOWER.encode(key)),
            headers: batch.headers(entry).map(|headers| HEXLOWER.encode(headers)),
            payload: HEXLOWER.encode(batch.payload(entry)),
            body: match &entry.body {
                Body::Row { content, key } => BodyLine::Row {
                    content: HEXLOWER.encode(batch.row(*content)),
                    key: HEXLOWER.encode(batch.row(*key)),
                },
                Body::Rejected(reject) => {
                    let Reject { reason, field, detail, .. } = (**reject).clone();
                    BodyLine::Rejected { reason: reason.to_string(), field, detail }
                }
                Body::Skipped => BodyLine::Skipped,
            },
        };
        Self {
            job: batch.authority.job().map(|job| (job.as_of_micros, job.number)),
            spans: batch.spans().iter().map(span).collect(),
            records: batch.entries().iter().map(record).collect(),
        }
    }

    fn batch(&self) -> Result<Batch, Error> {
        let job = |(as_of_micros, number)| Authority::Batch(JobRef { as_of_micros, number });
        let last =
            |(position, timestamp_ms, checksum)| Fingerprint { position, timestamp_ms, checksum };
        let span = |line: &SpanLine| Span {
            lane: LaneId(line.lane),
            partition: line.partition,
            claim: ClaimId(Uuid::from_u128(line.claim)),
            from: line.from,
            to: line.to,
            last: line.last.map(last),
        };
        let (mut raw, mut rows, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for record in &self.records {
            let body = match &record.body {
                BodyLine::Row { content, key } => {
                    Body::Row { content: put(&mut rows, content)?, key: put(&mut rows, key)? }
                }
                BodyLine::Rejected { reason, field, detail } => {
                    let reason = Reason::parse(reason).ok_or_else(|| damaged(reason))?;
                    let mut reject = Reject::new(reason, detail);
                    reject.field.clone_from(field);
                    Body::Rejected(Box::new(reject))
                }
                BodyLine::Skipped => Body::Skipped,
            };
            entries.push(Entry {
                span: record.span,
                position: record.position,
                line: record.line,
                timestamp_ms: record.timestamp_ms,
                payload: put(&mut raw, &record.payload)?,
                message_key: record.key.as_ref().map(|key| put(&mut raw, key)).transpose()?,
                headers: record.headers.as_ref().map(|it| put(&mut raw, it)).transpose()?,
                body,
            });
        }
        let spans = self.spans.iter().map(span).collect();
        let authority = self.job.map_or(Authority::Stream, job);
        Ok(Batch::new(authority, spans, entries, Arc::new(raw), Arc::new(rows)))
    }
}

/// Appends the bytes to a buffer of a batch.
fn put(buffer: &mut Vec<u8>, hexadecimal: &str) -> Result<Slice, Error> {
    let start = buffer.len();
    let bytes = HEXLOWER.decode(hexadecimal.as_bytes()).map_err(|error| damaged(&error))?;
    buffer.extend_from_slice(&bytes);
    Ok(Slice::new(start..buffer.len()))
}

fn unavailable(error: Io) -> Error {
    Error::Unavailable { what: "could not use the journal".into(), source: error.into() }
}

fn damaged(by: &dyn std::fmt::Display) -> Error {
    Error::misconfigured(format!("the journal has a damaged line: {by}"), "restore the file")
}

/// A journal that is tested, and its file.
struct Tested {
    journal: Journal,
    path: PathBuf,
    jobs: AtomicI64,
}

#[async_trait]
impl Subject for Tested {
    fn sink(&self) -> &dyn Sink {
        &self.journal
    }

    async fn reopen(&self) -> Arc<dyn Sink> {
        Arc::new(Journal::open(&self.path).expect("a journal"))
    }

    async fn job(&self, as_of_micros: i64) -> JobRef {
        JobRef { as_of_micros, number: self.jobs.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    async fn contents(&self) -> Contents {
        let from_the_file = Journal::open(&self.path).expect("a journal");
        from_the_file.contents().await.expect("the contents")
    }
}

/// Tests the promises of every sink, each on a journal of its own; a broken one panics. Returns
/// their names.
pub async fn run(folder: &Path) -> Result<Vec<&'static str>, Error> {
    for (number, (_, case)) in CASES.iter().enumerate() {
        let path = folder.join(format!("{number}.jsonl"));
        let journal = Journal::open(&path)?;
        case(&Tested { journal, path, jobs: AtomicI64::default() }).await;
    }
    Ok(CASES.iter().map(|(promise, _)| *promise).collect())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("own_sink-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    for promise in run(&folder).await? {
        writeln!(std::io::stdout(), "kept: {promise}")?;
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
