//! The content of a file: one descriptor, open for the whole run, read plainly or through
//! a decompressor, and a check whether the file has changed since.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use lambda_core::Error;

use crate::foreign;
use crate::gzip::{Garbage, Members};
use crate::input::{Input, unreadable};

/// Encoding of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encoding {
    /// Not compressed.
    Plain,
    /// gzip, one or more members.
    Gzip,
    /// Zstandard, one or more frames.
    Zstandard,
}

impl Encoding {
    /// Detects the encoding by the first bytes: a file may have any name, standard input has
    /// none, and no CSV file begins like these.
    fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstandard,
            _ => Self::Plain,
        }
    }

    fn extension(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Gzip => Some("gz"),
            Self::Zstandard => Some("zst"),
        }
    }
}

/// Properties that change when a file is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: SystemTime,
}

impl Stamp {
    fn of(metadata: &Metadata) -> io::Result<Self> {
        Ok(Self { bytes: metadata.len(), modified: metadata.modified()? })
    }
}

/// An open file.
///
/// ```
/// use lambda_batch::content::{Content, Encoding};
/// use lambda_batch::input::Input;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("readings.csv");
/// std::fs::write(&path, "id\nR-1\n")?;
/// let content = Content::open(&Input::File(path))?;
/// assert_eq!((content.encoding(), content.stored_bytes()), (Encoding::Plain, 7));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Content {
    input: Input,
    file: Arc<File>,
    encoding: Encoding,
    stamp: Stamp,
}

impl Content {
    /// Opens an input. Standard input, and anything that can be read only once,
    /// is first copied to a nameless file in `TMPDIR`.
    ///
    /// # Errors
    /// `Fatal` if it cannot be opened; `Data` if its extension names a compression
    /// that its content does not have.
    pub fn open(input: &Input) -> Result<Self, Error> {
        let file = match input {
            Input::Stdin => spool(&mut io::stdin().lock(), input)?,
            Input::File(path) => {
                let mut file = File::open(path).map_err(|error| unreadable(path, error))?;
                let metadata = file.metadata().map_err(|error| unreadable(path, error))?;
                if metadata.is_file() { file } else { spool(&mut file, input)? }
            }
        };
        let mut first = [0; foreign::FIRST_BYTES];
        let mut look = || {
            let read = fill(&file, &mut first, 0)?;
            Ok((read, Stamp::of(&file.metadata()?)?))
        };
        let (read, stamp) = look().map_err(|error| unusable(input, &error))?;
        let first = &first[..read];
        let encoding = Encoding::of(first);
        refuse_wrong_name(input, encoding, first)?;
        Ok(Self { input: input.clone(), file: Arc::new(file), encoding, stamp })
    }

    /// The input that was opened.
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// The file's encoding.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Size of the file on disk, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.stamp.bytes
    }

    /// Reads the content from its beginning, decompressed.
    ///
    /// # Errors
    /// As for [`Reader::read`].
    pub fn reader(&self) -> Result<Reader, Error> {
        let consumed = Arc::new(AtomicU64::new(0));
        let disk = Disk { file: Arc::clone(&self.file), consumed: Arc::clone(&consumed) };
        let bytes: Box<dyn Read + Send> = match self.encoding {
            Encoding::Plain => Box::new(disk),
            Encoding::Gzip => Box::new(Members::new(BufReader::with_capacity(1 << 16, disk))),
            Encoding::Zstandard => {
                let decoder = zstd::stream::read::Decoder::new(disk);
                Box::new(decoder.map_err(|error| unusable(&self.input, &error))?)
            }
        };
        Ok(Reader { input: self.input.clone(), encoding: self.encoding, bytes, consumed, at: 0 })
    }

    /// Reads a range of a plain file at once into `bytes`, replacing their content.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the file is shorter now or cannot be read.
    pub fn read_range(&self, range: Range<u64>, bytes: &mut Vec<u8>) -> Result<(), Error> {
        bytes.resize(length(&range), 0);
        match fill(&self.file, bytes, range.start) {
            Ok(read) if read == bytes.len() => Ok(()),
            Ok(_) => Err(self.changed()),
            Err(error) => Err(unusable(&self.input, &error)),
        }
    }

    /// Checks that the file has not changed since it was opened (rule R19 in docs/protocol.md).
    ///
    /// # Errors
    /// [`Error::Interrupted`] if it has.
    pub fn unchanged(&self) -> Result<(), Error> {
        let now = self.file.metadata().and_then(|metadata| Stamp::of(&metadata));
        match now {
            Ok(now) if now == self.stamp => Ok(()),
            Ok(_) => Err(self.changed()),
            Err(error) => Err(unusable(&self.input, &error)),
        }
    }

    /// The error for a file that is no longer what was planned.
    pub fn changed(&self) -> Error {
        Error::Interrupted {
            what: format!("{} changed while it was read; run it again", self.input),
        }
    }

    /// Whether `path` still leads to this file, not to one that replaced it.
    pub fn is_at(&self, path: &Path) -> bool {
        let same = |there: Metadata, here: Metadata| {
            (there.dev(), there.ino()) == (here.dev(), here.ino())
        };
        match (path.metadata(), self.file.metadata()) {
            (Ok(there), Ok(here)) => same(there, here),
            _ => false,
        }
    }
}

/// Reads decompressed content in order.
pub struct Reader {
    input: Input,
    encoding: Encoding,
    bytes: Box<dyn Read + Send>,
    consumed: Arc<AtomicU64>,
    at: u64,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("input", &self.input)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads up to `into.len()` bytes; fewer only at the end, 0 after it.
    ///
    /// # Errors
    /// `Data` for a compressed file that is truncated or corrupt, with the
    /// position; [`Error::Interrupted`] if the disk fails.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < into.len() {
            match self.bytes.read(&mut into[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.refused(&error)),
            }
        }
        self.at += filled as u64;
        Ok(filled)
    }

    /// Reads a range, which must not begin before what was already read, into `bytes`,
    /// replacing their content. Returns false if the content ends before the range does.
    ///
    /// # Errors
    /// As for [`Reader::read`].
    pub fn read_range(&mut self, range: Range<u64>, bytes: &mut Vec<u8>) -> Result<bool, Error> {
        let mut skipped = vec![0; 1 << 16];
        while self.at < range.start {
            let ahead = length(&(self.at..range.start)).min(skipped.len());
            if self.read(&mut skipped[..ahead])? == 0 {
                return Ok(false);
            }
        }
        bytes.resize(length(&range), 0);
        Ok(self.read(bytes)? == bytes.len())
    }

    /// Bytes of the file on disk read so far.
    pub fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    fn refused(&self, error: &io::Error) -> Error {
        let from_disk =
            error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<DiskError>);
        let Some(kind) = self.encoding.extension().filter(|_| !from_disk) else {
            return unusable(&self.input, error);
        };
        let garbage = error.get_ref().and_then(|error| error.downcast_ref::<Garbage>());
        if let Some(Garbage { at }) = garbage {
            return Error::Input {
                what: format!(
                    "{}: other data follows the .{kind} data at byte {at} of the file: \
                     remove it, or load it as a separate file",
                    self.input
                ),
            };
        }
        let defect = match error.kind() {
            io::ErrorKind::UnexpectedEof => "truncated",
            _ => "corrupt",
        };
        Error::Input {
            what: format!(
                "{}: the .{kind} data is {defect} near byte {} of the file (byte {} of its content)",
                self.input,
                self.consumed(),
                self.at
            ),
        }
    }
}

/// The file's bytes from its beginning, without moving the descriptor.
struct Disk {
    file: Arc<File>,
    consumed: Arc<AtomicU64>,
}

/// Marks a failing disk, as opposed to corrupt data.
#[derive(Debug, thiserror::Error)]
#[error("could not read from disk")]
struct DiskError(#[source] io::Error);

impl Read for Disk {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let at = self.consumed.load(Ordering::Relaxed);
        let read = match self.file.read_at(into, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            other => other.map_err(|error| io::Error::other(DiskError(error)))?,
        };
        self.consumed.store(at + read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads at `at` until `into` is full or the file ends.
fn fill(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn spool(from: &mut dyn Read, input: &Input) -> Result<File, Error> {
    let mut copy = || {
        let mut file = tempfile::tempfile()?;
        io::copy(from, &mut file)?;
        file.flush()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    };
    copy().map_err(|error: io::Error| Error::Misconfigured {
        what: format!("{input}: could not copy it to a temporary file"),
        remedy: "set TMPDIR to a folder with room for all of it".into(),
        source: Some(Box::new(error)),
    })
}

/// Refuses a file whose extension names another compression; an empty file may have any name.
fn refuse_wrong_name(input: &Input, encoding: Encoding, first: &[u8]) -> Result<(), Error> {
    let Some(path) = input.path().filter(|_| !first.is_empty()) else { return Ok(()) };
    let promised = |kind: &str| path.extension().is_some_and(|extension| extension == kind);
    for promise in [Encoding::Gzip, Encoding::Zstandard] {
        if let Some(kind) = promise.extension()
            && promised(kind)
            && encoding != promise
        {
            let foreign = foreign::recognize(first).map(|foreign| format!("; {foreign}"));
            let foreign = foreign.unwrap_or_default();
            return Err(Error::Input {
                what: format!("{input}: byte 0: not .{kind} data{foreign}"),
            });
        }
    }
    Ok(())
}

/// The error for a file that was opened but cannot be read; another run may succeed.
fn unusable(input: &Input, error: &io::Error) -> Error {
    Error::Interrupted { what: format!("{input}: could not read it: {error}") }
}

fn length(range: &Range<u64>) -> usize {
    // Chunks are bounded far below what memory can address.
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use flate2::write::GzEncoder;

    use super::*;

    const TEXT: &[u8] = b"one\ntwo\nthree\n";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstandard(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 3).unwrap()
    }

    fn written(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn open(path: PathBuf) -> Result<Content, Error> {
        Content::open(&Input::File(path))
    }

    fn all(content: &Content) -> Result<Vec<u8>, Error> {
        let mut reader = content.reader()?;
        let (mut all, mut block) = (Vec::new(), [0; 5]);
        loop {
            let read = reader.read(&mut block)?;
            all.extend_from_slice(&block[..read]);
            if read < block.len() {
                return Ok(all);
            }
        }
    }

    #[test]
    fn compressed_files_of_several_parts_read_like_plain_ones_whatever_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let (head, tail) = TEXT.split_at(5);
        let files = [
            ("plain.csv", TEXT.to_vec()),
            ("two.csv.gz", [gzip(head), gzip(tail)].concat()),
            ("two.csv.zst", [zstandard(head), zstandard(tail)].concat()),
            ("gzip", gzip(TEXT)),
            ("zstandard.csv", zstandard(TEXT)),
        ];
        for (name, bytes) in files {
            let content = open(written(&folder, name, &bytes)).unwrap();
            assert_eq!(all(&content).unwrap(), TEXT, "{name}");
            let mut range = b"what was there before".to_vec();
            assert!(content.reader().unwrap().read_range(4..7, &mut range).unwrap());
            assert_eq!(range, b"two", "{name}");
            let beyond = content.reader().unwrap().read_range(10..99, &mut range).unwrap();
            assert!(!beyond, "{name}");
        }
    }

    #[test]
    fn a_compressed_file_cut_anywhere_is_refused_with_its_position() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("a.csv.gz", gzip(TEXT)), ("a.csv.zst", zstandard(TEXT))] {
            for length in 4..bytes.len() {
                let content = open(written(&folder, name, &bytes[..length])).unwrap();
                let error = all(&content).unwrap_err();
                assert_eq!(error.exit_code(), 65, "{name} cut to {length}: {error}");
                assert!(error.to_string().contains("byte"), "{error}");
            }
        }
    }

    #[test]
    fn a_file_named_as_compressed_must_be_compressed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["plain.csv.gz", "plain.csv.zst"] {
            let error = open(written(&folder, name, TEXT)).unwrap_err();
            assert_eq!(error.exit_code(), 65, "{name}");
        }
    }

    #[test]
    fn a_file_that_grows_or_is_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(&folder, "a.csv", TEXT);
        let content = open(path.clone()).unwrap();
        content.unchanged().unwrap();
        assert!(content.is_at(&path));
        fs::rename(written(&folder, "b.csv", TEXT), &path).unwrap();
        assert!(!content.is_at(&path));
        let content = open(path.clone()).unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"four\n").unwrap();
        assert_eq!(content.unchanged().unwrap_err().exit_code(), 75);
    }
}
