//! The chunks of a job as a [`Source`]. Workers take chunks from one queue, read each
//! whole, verify it against the plan, and decode it while the batch before it is being
//! committed.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lambda_core::batch::{Batch, Body, Entry, Slice, Span};
use lambda_core::decode::csv::Marks;
use lambda_core::decode::{Decode, Message};
use lambda_core::outcome::Authority;
use lambda_core::postgres::jobs::attempt::JobLane;
use lambda_core::progress::{ClaimId, Progress};
use lambda_core::record::Scratch;
use lambda_core::source::{Event, Source};
use lambda_core::{Error, Pipeline};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::content::{Content, Encoding, Reader};
use crate::frame::{Frame, Framer, Window};
use crate::tally::Tally;

/// Records of a batch (rule R24 in docs/protocol.md).
pub const BATCH_ROWS: usize = 20_000;

/// Bytes of encoded rows after which a batch takes no more records.
const BATCH_BYTES: usize = 16 << 20;

/// The chunks of one job that are not stored yet, in the order of the file.
#[derive(Debug)]
pub struct Chunks {
    content: Arc<Content>,
    marks: Marks,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    lanes: VecDeque<JobLane>,
    /// The one decompressor of a compressed file, which reads it once (rule R20 in
    /// docs/protocol.md). One worker reads a chunk while the others wait for the queue.
    decompressor: Option<Reader>,
}

impl Chunks {
    /// The chunks of `lanes` that are not at their end.
    pub fn new(content: Arc<Content>, marks: Marks, lanes: &[JobLane]) -> Self {
        let unfinished = |lane: &&JobLane| lane.progress.position < lane.chunk.end;
        let lanes = lanes.iter().filter(unfinished).cloned().collect();
        Self { content, marks, queue: Mutex::new(Queue { lanes, decompressor: None }) }
    }

    /// Reads and verifies the next chunk, into a reused buffer.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the file is not what was planned.
    fn take(&self, mut bytes: Vec<u8>) -> Result<Option<OpenChunk>, Error> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lane) = queue.lanes.pop_front() else { return Ok(None) };
        if queue.lanes.is_empty() {
            self.content.unchanged()?;
        }
        let range = lane.chunk.start.cast_unsigned()..lane.chunk.end.cast_unsigned();
        if self.content.encoding() == Encoding::Plain {
            drop(queue);
            self.content.read_range(range, &mut bytes)?;
        } else {
            let reader = match &mut queue.decompressor {
                Some(reader) => reader,
                none => none.insert(self.content.reader()?),
            };
            let whole = reader.read_range(range, &mut bytes);
            drop(queue);
            match whole {
                Ok(true) => {}
                // The file was not truncated when it was planned.
                Ok(false) | Err(Error::Input { .. }) => return Err(self.content.changed()),
                Err(error) => return Err(error),
            }
        }
        if Sha256::digest(&bytes)[..] != lane.chunk.digest {
            return Err(self.content.changed());
        }
        OpenChunk::new(lane, bytes, self.marks).map(Some)
    }
}

/// A chunk in memory, and how much of it was handed out.
#[derive(Debug)]
struct OpenChunk {
    lane: JobLane,
    claim: ClaimId,
    bytes: Vec<u8>,
    framer: Framer,
    /// The next record, if there is one.
    next: Option<Frame>,
    /// Records before it are already in batches.
    position: i64,
}

impl OpenChunk {
    fn new(lane: JobLane, bytes: Vec<u8>, marks: Marks) -> Result<Self, Error> {
        let claim = lane
            .progress
            .claim
            .ok_or_else(|| Error::Fenced { what: lane.progress.lane.to_string() })?;
        let (start, first_line) = (lane.chunk.start, lane.chunk.first_line);
        let mut chunk = Self {
            claim,
            bytes,
            framer: Framer::resume(marks, start.cast_unsigned(), first_line.cast_unsigned()),
            next: None,
            position: lane.progress.position.max(start),
            lane,
        };
        // Stored records are framed again only to count lines.
        loop {
            chunk.next = chunk.frame()?;
            match chunk.next {
                Some(frame) if frame.start.cast_signed() < chunk.position => {}
                _ => return Ok(chunk),
            }
        }
    }

    fn frame(&mut self) -> Result<Option<Frame>, Error> {
        let window = Window::new(&self.bytes, self.lane.chunk.start.cast_unsigned());
        let frame = match self.framer.next(window) {
            Ok(None) => self.framer.finish_chunk(),
            other => other,
        };
        frame.map_err(|endless| Error::Input { what: endless.to_string() })
    }

    /// Range of a record's bytes in `bytes`.
    fn range(&self, frame: &Frame) -> Range<usize> {
        let offset = |at: u64| (at.cast_signed() - self.lane.chunk.start) as usize;
        offset(frame.start)..offset(frame.end)
    }
}

/// How the rows of one file are decoded, and the pipeline that they belong to.
#[derive(Clone)]
pub struct Rows {
    /// Decoder of the file, below its header.
    pub decoder: Arc<dyn Decode>,
    /// The pipeline.
    pub pipeline: Pipeline,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("pipeline", &self.pipeline).finish_non_exhaustive()
    }
}

/// Turns chunks into batches.
#[derive(Debug)]
pub struct Decoding {
    chunks: Arc<Chunks>,
    rows: Rows,
    scratch: Scratch,
    authority: Authority,
    batch_rows: usize,
    open: Option<OpenChunk>,
    /// Buffer of the last chunk, reused for the next one: allocating it again would cost half
    /// as much memory on top.
    buffer: Vec<u8>,
    /// Bytes of the last batch's rows: an estimate for the next one.
    rows_bytes: usize,
}

impl Decoding {
    /// Batches of at most `batch_rows` records ([`BATCH_ROWS`]) of `authority`.
    pub fn new(chunks: Arc<Chunks>, rows: Rows, authority: Authority, batch_rows: usize) -> Self {
        let (scratch, buffer) = (Scratch::default(), Vec::new());
        Self { chunks, rows, scratch, authority, batch_rows, open: None, buffer, rows_bytes: 0 }
    }

    /// The next batch: records of one chunk, whose last batch ends at the chunk's end.
    /// Blocks while it reads and decodes.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the file is not what was planned.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, Error> {
        let mut chunk = match self.open.take() {
            Some(chunk) => chunk,
            None => match self.chunks.take(mem::take(&mut self.buffer))? {
                Some(chunk) => chunk,
                None => return Ok(None),
            },
        };
        let batch = self.batch(&mut chunk)?;
        if chunk.position < chunk.lane.chunk.end {
            self.open = Some(chunk);
        } else {
            self.buffer = chunk.bytes;
        }
        Ok(Some(batch))
    }

    fn batch(&mut self, chunk: &mut OpenChunk) -> Result<Batch, Error> {
        let mut entries = Vec::with_capacity(self.batch_rows.min(BATCH_ROWS));
        let mut rows = Vec::with_capacity(self.rows_bytes + self.rows_bytes / 16);
        // A batch copies its records' bytes, so that the chunk is freed once it is decoded, not
        // when its last batch is stored.
        let first = chunk.next.map_or(0, |frame| chunk.range(&frame).start);
        let mut end = first;
        while let Some(frame) = chunk.next {
            if entries.len() >= self.batch_rows || rows.len() >= BATCH_BYTES {
                break;
            }
            let range = chunk.range(&frame);
            end = range.end;
            entries.push(self.entry(
                &chunk.bytes[range.clone()],
                range.start - first,
                &frame,
                &mut rows,
            ));
            chunk.next = chunk.frame()?;
        }
        let to = chunk.next.map_or(chunk.lane.chunk.end, |frame| frame.start.cast_signed());
        let progress = &chunk.lane.progress;
        let span = Span {
            lane: progress.lane,
            partition: progress.name.partition,
            claim: chunk.claim,
            from: chunk.position,
            to,
            last: None,
        };
        chunk.position = to;
        self.rows_bytes = rows.len();
        let raw = Arc::new(chunk.bytes[first..end].to_vec());
        Ok(Batch::new(self.authority, vec![span], entries, raw, Arc::new(rows)))
    }

    /// Decodes the record `raw`, whose bytes begin at `at` in the batch.
    fn entry(&mut self, raw: &[u8], at: usize, frame: &Frame, rows: &mut Vec<u8>) -> Entry {
        let message = Message::of(Some(raw)).on_line(frame.line);
        let Rows { decoder, pipeline } = &self.rows;
        let body = Body::decode(&**decoder, pipeline.table(), &message, rows, &mut self.scratch);
        let payload = Slice::new(at..at + raw.len());
        let line = Some(frame.line.cast_signed());
        Entry { line, ..Entry::new(0, frame.start.cast_signed(), payload, body) }
    }
}

type Decoded = (Decoding, Result<Option<Batch>, Error>);

/// One worker's share of a job's chunks. It grants no lanes: they were claimed when the job
/// was started.
pub struct ChunkSource {
    tally: Arc<Tally>,
    ahead: bool,
    /// Present while idle, moved into `task` while it runs; neither at the end.
    decoding: Option<Decoding>,
    task: Option<JoinHandle<Decoded>>,
}

impl fmt::Debug for ChunkSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkSource").field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl ChunkSource {
    /// Yields what `decoding` decodes and reports to `tally` what is stored. With `ahead`,
    /// decodes the next batch while the one before is being committed.
    pub fn new(decoding: Decoding, tally: Arc<Tally>, ahead: bool) -> Self {
        Self { tally, ahead, decoding: Some(decoding), task: None }
    }

    fn start_decoding(&mut self) {
        if let Some(mut decoding) = self.decoding.take() {
            self.task = Some(tokio::task::spawn_blocking(move || {
                let batch = decoding.next_batch();
                (decoding, batch)
            }));
        }
    }
}

#[async_trait]
impl Source for ChunkSource {
    async fn next(&mut self) -> Result<Event, Error> {
        self.tally.within_limit()?;
        self.start_decoding();
        let Some(task) = &mut self.task else { return Ok(Event::End) };
        let decoded = task.await;
        self.task = None;
        let (decoding, batch) = match decoded {
            Ok(decoded) => decoded,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {
                return Err(Error::Interrupted { what: "the program is shutting down".into() });
            }
        };
        let Some(batch) = batch? else { return Ok(Event::End) };
        self.decoding = Some(decoding);
        if self.ahead {
            self.start_decoding();
        }
        Ok(Event::Batch(batch))
    }

    async fn start(&mut self, _: &Progress) -> Result<(), Error> {
        Ok(())
    }

    async fn stop(&mut self, _: i32) -> Result<(), Error> {
        // A lost lane means that another run took over the job.
        (self.decoding, self.task) = (None, None);
        Ok(())
    }

    fn stored(&mut self, progress: &[Progress]) {
        self.tally.stored(progress);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use lambda_core::dead_letter::{Reason, Reject};
    use lambda_core::transaction;
    use lambda_core::transaction::CSV_HEADER;
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Endless;

    type Decoded = (Frame, Result<Vec<u8>, Reject>);

    /// Records of a file, without its header.
    fn decoded(content: &str) -> Result<Vec<Decoded>, Endless> {
        let pipeline = transaction::pipeline();
        let decoder = pipeline.files().open(CSV_HEADER.as_bytes(), pipeline.table()).unwrap();
        let mut scratch = Scratch::default();
        let (mut framer, window) =
            (Framer::new(Marks::default()), Window::new(content.as_bytes(), 0));
        let mut found = Vec::new();
        while let Some(frame) = framer.next(window)? {
            found.push(frame);
        }
        found.extend(framer.finish()?);
        let decode = |frame: Frame| {
            let mut rows = Vec::new();
            let raw = &content.as_bytes()[frame.start as usize..frame.end as usize];
            let message = Message::of(Some(raw)).on_line(frame.line);
            let table = pipeline.table();
            match Body::decode(&decoder, table, &message, &mut rows, &mut scratch) {
                Body::Rejected(reject) => (frame, Err(*reject)),
                _ => (frame, Ok(rows)),
            }
        };
        Ok(found.into_iter().skip(1).map(decode).collect())
    }

    fn file(records: &[String], ending: &str) -> String {
        let lines = std::iter::once(CSV_HEADER).chain(records.iter().map(String::as_str));
        lines.flat_map(|line| [line, ending]).collect()
    }

    fn field() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "",
            "fuel",
            "\"\"",
            "\"fuel\"",
            "\"Austin, TX\"",
            "\"two\nlines\"",
            "\"return\r\nfeed\"",
            "\"say \"\"hi\"\" now\"",
        ])
    }

    /// The record with one quote too many or too few.
    fn broken(record: &str, place: prop::sample::Index, insert: bool) -> String {
        let quotes: Vec<usize> = record.match_indices('"').map(|(at, _)| at).collect();
        let mut broken = record.to_owned();
        if insert || quotes.is_empty() {
            broken.insert(place.index(record.len() + 1), '"');
        } else {
            broken.remove(quotes[place.index(quotes.len())]);
        }
        broken
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn a_misplaced_quote_costs_its_own_record_only(
            fields in prop::collection::vec((field(), field()), 1..7),
            victim: prop::sample::Index,
            place: prop::sample::Index,
            insert: bool,
            ending in prop::sample::select(vec!["\n", "\r\n"]),
        ) {
            let record = |(number, (merchant, location)): (usize, &(&str, &str))| {
                format!("T{number},A,deposit,1,2026-01-01 00:00:00,{merchant},{location},true,0.25")
            };
            let mut records: Vec<String> = fields.iter().enumerate().map(record).collect();
            let mut expected = decoded(&file(&records, ending)).unwrap();
            let victim = victim.index(records.len());
            let line = expected.remove(victim).0.line;
            records[victim] = broken(&records[victim], place, insert);
            let inside = records[victim].replace("\r\n", "\n").matches(['\n', '\r']).count();
            let lines = line..=line + inside as u64;

            let found = match decoded(&file(&records, ending)) {
                Ok(found) => found,
                // What is left of the file comes after it.
                Err(Endless::Quote { line }) => {
                    prop_assert!(lines.contains(&line));
                    return Ok(());
                }
                Err(other) => panic!("{other}"),
            };
            let stored = |decoded: &[Decoded]| {
                decoded.iter().filter_map(|(_, row)| row.clone().ok()).collect::<Vec<_>>()
            };
            prop_assert_eq!(stored(&found), stored(&expected));
            let rejects = found.iter().filter_map(|(frame, row)| Some((frame, row.clone().err()?)));
            let mut quotes = 0;
            for (frame, reject) in rejects {
                prop_assert!(lines.contains(&frame.line), "{}: {}", frame.line, reject);
                if reject.reason == Reason::InvalidCsv {
                    quotes += 1;
                    let named = lines.clone().any(|line| {
                        reject.detail.starts_with(&format!("line {line} column "))
                    });
                    prop_assert!(named, "{}", reject.detail);
                }
            }
            prop_assert!(quotes > 0);
        }
    }
}
