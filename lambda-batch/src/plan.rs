//! One pass over a file before anything is stored. It yields the SHA-256, the header, and
//! the chunks, each ending where a record begins (rule R19 in docs/protocol.md).

use std::mem;

use lambda_core::Error;
use lambda_core::decode::csv::Marks;
use lambda_core::job::Chunk;
use sha2::{Digest, Sha256};

use crate::content::Content;
use crate::foreign;
use crate::frame::{Endless, Frame, Framer, Window};

/// Minimum size of a chunk: it ends at the first record that begins at least this many
/// bytes after its start. Does not depend on the number of workers.
pub const CHUNK_BYTES: u64 = 8 << 20;

/// Size of a read: fits the second-level cache, since each block is scanned three
/// times.
const BLOCK_BYTES: usize = 256 << 10;

/// The plan of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// SHA-256 of the content, in hex: the name of the source.
    pub source: String,
    /// Bytes of the content.
    pub bytes: u64,
    /// The first record, with the names of the columns.
    pub header: String,
    /// The chunks, in order, without gaps, up to the content's end.
    pub chunks: Vec<Chunk>,
}

impl Plan {
    /// Offset of the first chunk.
    pub fn first_byte(&self) -> i64 {
        self.chunks.first().map_or(0, |chunk| chunk.start)
    }

    /// Number of records after the header.
    pub fn records(&self) -> i64 {
        self.chunks.iter().map(|chunk| chunk.records).sum()
    }
}

/// Reason for refusing a whole file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A record without an end.
    #[error(transparent)]
    Endless(#[from] Endless),
    /// No record at all.
    #[error("it is empty: a header line with the names of the columns is required")]
    Empty,
    /// A header that is not text.
    #[error("line {line}: the header is not valid UTF-8, or has a NUL character")]
    Header {
        /// Line of the header.
        line: u64,
    },
}

/// Plans content that is pushed block by block. Does no I/O.
///
/// ```
/// use lambda_batch::plan::{CHUNK_BYTES, Planner};
/// use lambda_core::decode::Csv;
///
/// let mut planner = Planner::new(Csv::new().marks(), CHUNK_BYTES);
/// planner.push(b"id,millidegrees\nR-1,")?;
/// planner.push(b"21500\n")?;
/// let plan = planner.finish()?;
/// assert_eq!((plan.records(), plan.first_byte()), (1, 16));
/// # Ok::<(), lambda_batch::plan::Refusal>(())
/// ```
#[derive(Debug)]
pub struct Planner {
    chunk_bytes: u64,
    framer: Framer,
    /// Number of bytes pushed.
    bytes: u64,
    /// The last bytes pushed, which the framer may have to read again.
    held: Vec<u8>,
    content: Sha256,
    header: Header,
    chunks: Vec<Chunk>,
    open: Option<OpenChunk>,
}

#[derive(Debug)]
enum Header {
    /// Digest of all content so far.
    Wanted(Vec<u8>),
    Found(String),
}

/// The chunk that is being planned.
#[derive(Debug)]
struct OpenChunk {
    start: u64,
    first_line: u64,
    records: i64,
    digest: Sha256,
    /// Offset up to which `digest` is computed.
    digested: u64,
}

impl Planner {
    /// A planner that cuts chunks at `chunk_bytes` ([`CHUNK_BYTES`]).
    pub fn new(marks: Marks, chunk_bytes: u64) -> Self {
        Self {
            chunk_bytes,
            framer: Framer::new(marks),
            bytes: 0,
            held: Vec::new(),
            content: Sha256::new(),
            header: Header::Wanted(Vec::new()),
            chunks: Vec::new(),
            open: None,
        }
    }

    /// Pushes the content's next bytes.
    ///
    /// # Errors
    /// The file is refused; the planner must not be used any further.
    pub fn push(&mut self, block: &[u8]) -> Result<(), Refusal> {
        self.content.update(block);
        if let Header::Wanted(seen) = &mut self.header {
            seen.extend_from_slice(block);
        }
        let start = self.bytes - self.held.len() as u64;
        self.bytes += block.len() as u64;
        let mut held = mem::take(&mut self.held);
        let window = if held.is_empty() {
            Window::new(block, start)
        } else {
            held.extend_from_slice(block);
            Window::new(&held, start)
        };
        self.frames(window)?;
        self.held = window.range(self.framer.needed_from(), self.bytes).to_vec();
        Ok(())
    }

    fn frames(&mut self, window: Window<'_>) -> Result<(), Refusal> {
        while let Some(frame) = self.framer.next(window)? {
            self.record(&frame, window)?;
        }
        if let (Some((start, line)), Header::Found(_)) = (self.framer.open(), &self.header) {
            self.begin(start, line, window);
        }
        if let Some(open) = &mut self.open {
            // No chunk begins before the bytes that are needed again.
            open.digest_up_to(self.framer.needed_from(), window);
        }
        Ok(())
    }

    /// Finishes the plan, once all content was pushed.
    ///
    /// # Errors
    /// The file is refused.
    pub fn finish(mut self) -> Result<Plan, Refusal> {
        let (bytes, held) = (self.bytes, mem::take(&mut self.held));
        let window = Window::new(&held, bytes - held.len() as u64);
        if let Some(frame) = self.framer.clone().finish()? {
            self.record(&frame, window)?;
        }
        if let Some(open) = &mut self.open {
            open.digest_up_to(bytes, window);
        }
        self.close(bytes);
        let Header::Found(header) = self.header else { return Err(Refusal::Empty) };
        let source = hex(&self.content.finalize());
        Ok(Plan { source, bytes, header, chunks: self.chunks })
    }

    fn record(&mut self, frame: &Frame, window: Window<'_>) -> Result<(), Refusal> {
        if let Header::Wanted(seen) = &self.header {
            let text = &seen[offset(frame.start)..offset(frame.end)];
            let text = std::str::from_utf8(text).ok().filter(|text| !text.contains('\0'));
            let text = text.ok_or(Refusal::Header { line: frame.line })?;
            self.header = Header::Found(text.to_owned());
            return Ok(());
        }
        self.begin(frame.start, frame.line, window);
        if let Some(open) = &mut self.open {
            open.records += 1;
        }
        Ok(())
    }

    /// Notes that a record begins, where a chunk may begin. A second call for the same record
    /// does nothing.
    fn begin(&mut self, start: u64, first_line: u64, window: Window<'_>) {
        if let Some(open) = &mut self.open {
            if start - open.start < self.chunk_bytes {
                return;
            }
            open.digest_up_to(start, window);
            self.close(start);
        }
        self.open = Some(OpenChunk {
            start,
            first_line,
            records: 0,
            digest: Sha256::new(),
            digested: start,
        });
    }

    fn close(&mut self, end: u64) {
        if let Some(open) = self.open.take() {
            self.chunks.push(Chunk {
                start: open.start.cast_signed(),
                end: end.cast_signed(),
                first_line: open.first_line.cast_signed(),
                records: open.records,
                digest: open.digest.finalize().into(),
            });
        }
    }
}

impl OpenChunk {
    fn digest_up_to(&mut self, end: u64, window: Window<'_>) {
        if end > self.digested {
            self.digest.update(window.range(self.digested, end));
            self.digested = end;
        }
    }
}

/// An offset in the part held in memory.
fn offset(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit).collect()
}

fn digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('?')
}

/// Plans a file, and reports to `progress` after each block how many bytes of the file were
/// read. `None`: the file is empty, without even a header.
///
/// # Errors
/// `Data` if the file is refused; [`Error::Interrupted`] if it changed while it was read;
/// and any error of `progress`.
pub fn plan(
    content: &Content,
    marks: Marks,
    chunk_bytes: u64,
    mut progress: impl FnMut(u64) -> Result<(), Error>,
) -> Result<Option<Plan>, Error> {
    let refused =
        |refusal: Refusal| Error::Input { what: format!("{}: {refusal}", content.input()) };
    let mut reader = content.reader()?;
    let mut planner = Planner::new(marks, chunk_bytes);
    let mut block = vec![0; BLOCK_BYTES];
    let mut read = reader.read(&mut block)?;
    if let Some(foreign) = foreign::recognize(&block[..read.min(foreign::FIRST_BYTES)]) {
        return Err(Error::Input { what: format!("{}: {foreign}", content.input()) });
    }
    loop {
        planner.push(&block[..read]).map_err(refused)?;
        progress(reader.consumed())?;
        if read < block.len() {
            break;
        }
        read = reader.read(&mut block)?;
    }
    let plan = match planner.finish() {
        Err(Refusal::Empty) => None,
        plan => Some(plan.map_err(refused)?),
    };
    content.unchanged()?;
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn planned(content: &[u8], block: usize, chunk_bytes: u64) -> Result<Plan, Refusal> {
        let mut planner = Planner::new(Marks::default(), chunk_bytes);
        for block in content.chunks(block) {
            planner.push(block)?;
        }
        planner.finish()
    }

    /// The records of a chunk, or of a whole content that leaves no quote open.
    fn frames(content: &[u8], mut framer: Framer, start: u64) -> Vec<Frame> {
        let window = Window::new(content, start);
        let mut next = || match framer.next(window).expect("short records") {
            None => framer.finish_chunk().expect("short records"),
            some => some,
        };
        std::iter::from_fn(&mut next).collect()
    }

    /// Closes the quote that is open at the end.
    fn closed(mut content: Vec<u8>) -> Vec<u8> {
        if let Err(Refusal::Endless(_)) = planned(&content, content.len(), 9) {
            content.push(b'"');
        }
        content
    }

    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "\"", "\"\"", ",", "\n", "\r", "\r\n", "a", "bc", "\u{feff}", "\n\n", ",\"", "\",",
        ]);
        let pieces = prop::collection::vec(piece, 1..80);
        pieces.prop_map(|pieces| closed(pieces.concat().into_bytes()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn chunks_read_one_by_one_give_the_records_of_the_whole_file(
            content in hostile(),
            block in 1_usize..40,
            chunk_bytes in 1_u64..40,
        ) {
            let all = frames(&content, Framer::new(Marks::default()), 0);
            match planned(&content, block, chunk_bytes) {
                Err(refusal) => {
                    prop_assert_eq!(refusal, Refusal::Empty);
                    prop_assert!(all.is_empty());
                }
                Ok(plan) => {
                    prop_assert_eq!(&plan, &planned(&content, content.len(), chunk_bytes).expect("as before"));
                    let mut rest = &all[1..];
                    let mut at = plan.first_byte();
                    for chunk in &plan.chunks {
                        prop_assert_eq!(chunk.start, at);
                        at = chunk.end;
                        let bytes = &content[chunk.start as usize..chunk.end as usize];
                        prop_assert_eq!(&chunk.digest[..], &Sha256::digest(bytes)[..]);
                        let (start, line) = (chunk.start as u64, chunk.first_line as u64);
                        let framer = Framer::resume(Marks::default(), start, line);
                        let records = frames(bytes, framer, chunk.start as u64);
                        prop_assert_eq!(records.len() as i64, chunk.records);
                        prop_assert_eq!(&records[..], &rest[..records.len()]);
                        rest = &rest[records.len()..];
                    }
                    prop_assert!(rest.is_empty());
                    let end = if plan.chunks.is_empty() { 0 } else { content.len() as i64 };
                    prop_assert_eq!(at, end);
                }
            }
        }
    }

    #[test]
    fn a_source_is_named_by_the_output_of_sha256sum() {
        let plan = planned(b"a,b\n1,2\n", 3, CHUNK_BYTES).expect("a plain file");
        // printf 'a,b\n1,2\n' | sha256sum
        let by_sha256sum = "492d5ea496056f1a6a6592241032fab764c321596317930b4fa0e1e8bc3b7470";
        assert_eq!(plan.source, by_sha256sum);
        assert_eq!((plan.header.as_str(), plan.records(), plan.bytes), ("a,b", 1, 8));
    }

    #[test]
    fn a_file_without_a_header_is_refused_and_one_without_records_is_not() {
        assert_eq!(planned(b"", 9, 9), Err(Refusal::Empty));
        assert_eq!(planned(b"\xef\xbb\xbf\r\n\n", 9, 9), Err(Refusal::Empty));
        assert_eq!(planned(b"\na\xff\n1\n", 9, 9), Err(Refusal::Header { line: 2 }));
        assert_eq!(planned(b"a,b", 9, 9).map(|plan| plan.chunks), Ok(Vec::new()));
    }
}
