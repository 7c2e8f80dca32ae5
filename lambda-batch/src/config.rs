//! What a run is asked to do.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use lambda_core::health::Health;

use crate::chunk::BATCH_ROWS;
use crate::plan::CHUNK_BYTES;
use crate::tally::Stored;

/// A step of the work on a file.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// It is read for its plan.
    Planning {
        /// Which file.
        file: &'a str,
        /// Bytes on the disk taken in so far.
        bytes: u64,
        /// Bytes on the disk.
        bytes_total: u64,
    },
    /// Its records are decoded, and stored unless it is a dry run.
    Loading {
        /// Which file.
        file: &'a str,
        /// What is stored, or was decoded.
        stored: &'a Stored,
    },
}

/// Called with each step of the work; must return at once.
pub type Watch = Arc<dyn Fn(Step<'_>) + Send + Sync>;

/// How files are loaded.
#[derive(Clone)]
pub struct Options {
    /// Chunks that are stored at the same time.
    pub workers: usize,
    /// Effective time of the files' data, microseconds since the Unix epoch;
    /// `None`: when the job is created, by the database's clock.
    pub as_of_micros: Option<i64>,
    /// How many rejected records a job may have. `None`: any number, unless they are most
    /// of the file's first 1,000.
    pub rejects_max: Option<i64>,
    /// Where rejected records are written, as CSV.
    pub rejects: Option<PathBuf>,
    /// Where files are moved when their job is completed.
    pub archive: Option<PathBuf>,
    /// Where chunks are cut; not to be changed but in tests.
    pub chunk_bytes: u64,
    /// Most records of a batch.
    pub batch_rows: usize,
    /// Called with each step of the work.
    pub watch: Watch,
    /// Pulses of the work, and what it needs.
    pub health: Health,
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
