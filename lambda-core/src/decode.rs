//! From the bytes of a message or of a file's row to the columns of a row.

pub mod csv;
pub mod decimal;
pub mod json;

mod fields;
mod foreign;
mod serde;

pub use self::serde::Serde;

use crate::dead_letter::{Reason, Reject};
use crate::error::Error;
use crate::record::{RowWriter, Table};

/// A message, or a row of a file.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Message<'a> {
    /// Its bytes; nothing for a message without a value.
    pub payload: Option<&'a [u8]>,
    /// The message's key.
    pub key: Option<&'a [u8]>,
    /// Time at which it was produced, milliseconds since the Unix epoch; messages only.
    pub timestamp_ms: Option<i64>,
    /// Line on which it begins, counted from 1; files only.
    pub line: Option<u64>,
}

impl<'a> Message<'a> {
    /// A message of which only the bytes are known.
    pub fn of(payload: Option<&'a [u8]>) -> Self {
        Self { payload, ..Self::default() }
    }

    /// The same, which begins on this line of its file.
    #[must_use]
    pub fn on_line(self, line: u64) -> Self {
        Self { line: Some(line), ..self }
    }
}

/// What a decoder made of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decoded {
    /// All columns of the row are written.
    Row,
    /// The message is none of the pipeline's records: it is counted, and nothing is stored. The
    /// text says why, for tests of the decoder.
    Skip(&'static str),
}

/// Decodes messages, or the rows of one file, into rows of one table.
///
/// Called from several threads at once. The same bytes must always give the same row: records
/// are read again after a failure, and a dead letter is decoded again when it is replayed.
pub trait Decode: Send + Sync + 'static {
    /// The format's name. It is stored with each lane, and finds the decoder for a replay.
    fn format(&self) -> &str;

    /// Prepares for the table of a pipeline, once, when the pipeline is built.
    ///
    /// # Errors
    /// `Fatal` when the decoder cannot fill the table.
    fn bind(&mut self, table: &Table) -> Result<(), Error> {
        let _ = table;
        Ok(())
    }

    /// Decodes one message: puts every column into `row`, or skips it.
    ///
    /// # Errors
    /// A [`Reject`] with the reason: the record becomes a dead letter, and what was put into
    /// `row` is discarded.
    fn decode(&self, message: &Message<'_>, row: &mut RowWriter<'_>) -> Result<Decoded, Reject>;
}

/// The bytes as text.
fn utf8(bytes: &[u8]) -> Result<&str, Reject> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Reject::new(Reason::InvalidUtf8, format!("invalid UTF-8 at byte {at} of the record"))
    })
}

/// Beginnings of serde's own messages, which end with the form that is expected.
const OF_SERDE: [&str; 5] =
    ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant ", "unknown field "];

/// Beginnings of the messages of our own types, which hold no value.
const OF_OURS: [&str; 6] = [
    "PostgreSQL's jsonb cannot",
    "expected JSON",
    "expected a decimal number of",
    "expected each key of",
    "expected numbers of at most",
    "expected text without unpaired",
];

/// The form that serde expected, from its message, which may quote the value before that form.
/// What the types of others say may hold values too.
fn expectation(message: &str) -> String {
    let begins = |with: &[&str]| with.iter().any(|begin| message.starts_with(begin));
    let expected = match message.rfind(", expected ").filter(|_| begins(&OF_SERDE)) {
        Some(at) => &message[at + 2..],
        None if begins(&OF_OURS) => message,
        None => "a value does not fit the record's type",
    };
    expected.split(" at line ").next().unwrap_or(expected).to_owned()
}

fn named<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.split('`').next()
}
