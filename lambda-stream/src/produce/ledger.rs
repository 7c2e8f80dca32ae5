//! The ledger: one JSON line for each message in the topic, to compare with the table.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use lambda_core::Error;
use lambda_core::transaction::synthetic::Expectation;
use serde::Serialize;

/// A line of the ledger.
#[derive(Debug, Serialize)]
pub(super) struct Entry<'a> {
    id: &'a str,
    partition: i32,
    offset: i64,
    kind: &'static str,
    /// XXH3-64 of the payload, 16 hexadecimal digits.
    payload_xxh3: String,
}

impl<'a> Entry<'a> {
    pub(super) fn new(
        id: &'a str,
        partition: i32,
        offset: i64,
        kind: Expectation,
        payload_xxh3: u64,
    ) -> Self {
        let kind = kind.as_str();
        Self { id, partition, offset, kind, payload_xxh3: format!("{payload_xxh3:016x}") }
    }
}

/// A ledger file that is being written.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    out: BufWriter<File>,
}

impl Ledger {
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let out = File::create(path).map_err(|error| cannot("create", path, error))?;
        Ok(Self { path: path.to_owned(), out: BufWriter::with_capacity(1 << 16, out) })
    }

    pub(super) fn write(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        let written = serde_json::to_writer(&mut self.out, entry).map_err(std::io::Error::from);
        written
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(|error| cannot("write", &self.path, error))
    }

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(|error| cannot("write", &self.path, error))
    }
}

fn cannot(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::Misconfigured {
        what: format!("could not {what} the ledger {}", path.display()),
        remedy: "give --ledger a file that this user can write, on a disk with free space".into(),
        source: Some(Box::new(error)),
    }
}
