//! Options of a run.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use lambda_core::health::Health;

use crate::chunk::BATCH_ROWS;
use crate::plan::CHUNK_BYTES;
use crate::tally::Stored;

/// Progress on a file.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// The file is being planned.
    Planning {
        /// Name of the file.
        file: &'a str,
        /// Bytes of the file read so far, as it is on disk.
        bytes: u64,
        /// Size of the file on disk, in bytes.
        bytes_total: u64,
    },
    /// Its records are being decoded and, unless this is a dry run, stored.
    Loading {
        /// Name of the file.
        file: &'a str,
        /// Counts of what is stored or, in a dry run, decoded.
        stored: &'a Stored,
    },
}

/// Callback for each step of the work; must return at once.
pub(crate) type Watch = Arc<dyn Fn(Step<'_>) + Send + Sync>;

/// Options for loading files.
#[derive(Clone)]
pub(crate) struct Options {
    /// Number of chunks stored at the same time.
    pub(crate) workers: usize,
    /// Effective time of the files' data, microseconds since the Unix epoch;
    /// `None`: the time when the job is created, by the database's clock.
    pub(crate) as_of_micros: Option<i64>,
    /// Most rejected records that a job may have. `None`: any number, unless they are most
    /// of the file's first 1,000.
    pub(crate) rejects_max: Option<i64>,
    /// CSV file for rejected records.
    pub(crate) rejects: Option<PathBuf>,
    /// Folder to which files are moved when their job is completed.
    pub(crate) archive: Option<PathBuf>,
    /// Minimum size of a chunk; change it only in tests.
    pub(crate) chunk_bytes: u64,
    /// Maximum number of records in a batch.
    pub(crate) batch_rows: usize,
    /// Called with each step of the work.
    pub(crate) watch: Watch,
    /// Health to which the run reports.
    pub(crate) health: Health,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 2,
            as_of_micros: None,
            rejects_max: None,
            rejects: None,
            archive: None,
            chunk_bytes: CHUNK_BYTES,
            batch_rows: BATCH_ROWS,
            watch: Arc::new(|_| {}),
            health: Health::default(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("workers", &self.workers)
            .field("as_of_micros", &self.as_of_micros)
            .field("rejects_max", &self.rejects_max)
            .field("rejects", &self.rejects)
            .field("archive", &self.archive)
            .finish_non_exhaustive()
    }
}
