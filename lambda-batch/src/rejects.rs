//! Writes rejected records to a CSV file, so that they can be corrected.

use std::fs::File;
use std::path::{Path, PathBuf};

use lambda_core::Error;

use crate::input::{Input, is_same};

/// Writes rejected records with the file and line they come from.
#[derive(Debug)]
pub(crate) struct RejectsFile {
    path: PathBuf,
    csv: csv::Writer<File>,
}

impl RejectsFile {
    /// Creates the file, or empties it, and writes the header.
    ///
    /// # Errors
    /// `Fatal` if it cannot be written, or is one of `inputs`, which are left unchanged.
    pub(crate) fn create(path: &Path, inputs: &[Input]) -> Result<Self, Error> {
        let is_it = |input: &&Input| input.path().is_some_and(|input| is_same(input, path));
        if let Some(input) = inputs.iter().find(is_it) {
            return Err(Error::misconfigured(
                format!("{} is an input of this run ({input})", path.display()),
                "name another file for --rejects: this one would be overwritten",
            ));
        }
        let failed = |error: csv::Error| unwritable(path, error);
        let file = File::create(path).map_err(|error| unwritable(path, error))?;
        let mut csv = csv::Writer::from_writer(file);
        csv.write_record(["file", "line", "byte", "reason", "detail", "raw"]).map_err(failed)?;
        let mut rejects = Self { path: path.to_owned(), csv };
        // Finds a full disk before anything is loaded.
        rejects.flush()?;
        Ok(rejects)
    }

    /// Writes one record.
    ///
    /// # Errors
    /// `Fatal` if the file cannot be written.
    pub(crate) fn write(
        &mut self,
        file: &str,
        (line, position): (i64, i64),
        (reason, detail): (&str, &str),
        raw: &[u8],
    ) -> Result<(), Error> {
        let (line, position) = (line.to_string(), position.to_string());
        let fields = [file, &line, &position, reason, detail].map(str::as_bytes);
        let written = self.csv.write_record(fields.into_iter().chain([raw]));
        written.map_err(|error| unwritable(&self.path, error))
    }

    /// Flushes everything to the operating system.
    ///
    /// # Errors
    /// `Fatal` if the file cannot be written.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        self.csv.flush().map_err(|error| unwritable(&self.path, error))
    }
}

fn unwritable(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Misconfigured {
        what: format!("could not write {}", path.display()),
        remedy: "name a file for --rejects that this user may write".into(),
        source: Some(Box::new(error)),
    }
}
