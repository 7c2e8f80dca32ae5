//! From the bytes of a message or of a file's row to the columns of a row.

pub mod csv;

mod bytes;
mod foreign;
mod json;
mod parse;
mod record;
mod serde;
mod spelled;
mod wrap;

pub use self::csv::Csv;
pub use self::json::Json;
pub use self::record::Record;
pub use self::serde::Serde;
pub use self::wrap::{Filter, Map};

use crate::dead_letter::{Reason, Reject};
use crate::error::Error;
use crate::header::Header;
use crate::record::{Column, RowWriter, Table};

/// A message, or a row of a file.
///
/// ```
/// use lambda_core::decode::Message;
///
/// let row = Message::of(Some(b"R-1,21500")).on_line(2);
/// assert_eq!((row.line, row.key), (Some(2), None));
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Message<'a> {
    /// Its bytes; nothing for a message without a value.
    pub payload: Option<&'a [u8]>,
    /// The message's key.
    pub key: Option<&'a [u8]>,
    /// Time at which it was produced, milliseconds since the Unix epoch; messages only.
    pub timestamp_ms: Option<i64>,
    /// The message's headers, in its order.
    pub headers: &'a [Header<'a>],
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
///
/// ```
/// use lambda_core::Pipeline;
/// use lambda_core::dead_letter::{Reason, Reject};
/// use lambda_core::decode::{Decode, Decoded, Message};
/// use lambda_core::record::{Column, ColumnType, RowWriter, Table};
///
/// /// Messages such as `R-1=21500`.
/// struct Pairs;
///
/// impl Decode for Pairs {
///     fn format(&self) -> &str {
///         "pairs"
///     }
///
///     fn decode(
///         &self,
///         message: &Message<'_>,
///         row: &mut RowWriter<'_>,
///     ) -> Result<Decoded, Reject> {
///         let invalid = |what| Reject::new(Reason::InvalidField, what);
///         let text = str::from_utf8(message.payload.unwrap_or_default())
///             .map_err(|_| Reject::new(Reason::InvalidUtf8, "expected text"))?;
///         let (id, value) = text.split_once('=').ok_or_else(|| invalid("expected id=value"))?;
///         row.put(id).put(value.parse::<i32>().map_err(|_| invalid("expected a number"))?);
///         Ok(Decoded::Row)
///     }
/// }
///
/// let table = Table::new("readings")
///     .column(Column::new("id", ColumnType::Text))
///     .column(Column::new("millidegrees", ColumnType::Int4));
/// let readings = Pipeline::builder("readings", table).messages(Pairs).build()?;
/// assert_eq!(readings.decoder().format(), "pairs");
/// # Ok::<(), lambda_core::Error>(())
/// ```
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

    /// The same decoder for only those messages that `keeps` is true for. The others are counted
    /// as skipped, and nothing is stored of them.
    ///
    /// ```
    /// use lambda_core::decode::{Decode, Json};
    ///
    /// // Heartbeats have no key.
    /// let readings = Json::new().filter(|message| message.key.is_some());
    /// assert_eq!(readings.format(), "json");
    /// ```
    fn filter<F>(self, keeps: F) -> Filter<Self, F>
    where
        Self: Sized,
        F: Fn(&Message<'_>) -> bool + Send + Sync + 'static,
    {
        Filter::new(self, keeps)
    }

    /// The same decoder behind one that changes the payload: unpacks it, or adds to it. That is a
    /// format of its own: a dead letter keeps the payload as it was read, and only a program that
    /// has this decoder replays it.
    ///
    /// ```
    /// use lambda_core::dead_letter::{Reason, Reject};
    /// use lambda_core::decode::{Decode, Json};
    ///
    /// // Behind five bytes of a schema registry.
    /// let readings = Json::new().map("json behind 5 bytes", |message| {
    ///     let json = message.payload.and_then(|payload| payload.get(5..));
    ///     let reject = || Reject::new(Reason::InvalidJson, "expected 5 bytes before the JSON");
    ///     json.map(<[u8]>::to_vec).ok_or_else(reject)
    /// });
    /// assert_eq!(readings.format(), "json behind 5 bytes");
    /// ```
    fn map<F>(self, format: &str, change: F) -> Map<Self, F>
    where
        Self: Sized,
        F: Fn(&Message<'_>) -> Result<Vec<u8>, Reject> + Send + Sync + 'static,
    {
        Map::new(format, self, change)
    }
}

impl Decode for Box<dyn Decode> {
    fn format(&self) -> &str {
        (**self).format()
    }

    fn bind(&mut self, table: &Table) -> Result<(), Error> {
        (**self).bind(table)
    }

    fn decode(&self, message: &Message<'_>, row: &mut RowWriter<'_>) -> Result<Decoded, Reject> {
        (**self).decode(message, row)
    }
}

/// Encodes a column's default as the field of a row.
pub(crate) fn encode_default(column: &mut Column) -> Result<(), Reject> {
    let Some(text) = &column.default else { return Ok(()) };
    let mut field = Vec::new();
    column.put(&mut field, &spelled::Spelled::Field(text))?;
    column.default_field = Some(field);
    Ok(())
}

/// The bytes as text.
fn utf8(bytes: &[u8]) -> Result<&str, Reject> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Reject::new(Reason::InvalidUtf8, format!("invalid UTF-8 at byte {at} of the record"))
    })
}
