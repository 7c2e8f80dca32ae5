//! Rows of CSV files (RFC 4180).

mod dialect;
mod header;
mod split;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use memchr::memchr;

pub(crate) use self::dialect::Dialect;
pub use self::dialect::Marks;
use self::header::Header;
use self::split::{Defect, split};
use super::spelled::Spelled;
use crate::dead_letter::{Reason, Reject};
use crate::decode::{Decode, Decoded, Message};
use crate::error::Error;
use crate::record::{Column, RowWriter, Table};

/// Optional first bytes of a file: the UTF-8 byte order mark.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The fields of one row, in the order of the table's columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CsvFields<'a> {
    columns: &'a [Column],
    /// The unquoted fields, one after the other.
    text: &'a str,
    /// Place in `text` of each column's field; nothing for a null.
    places: &'a [Option<Range<usize>>],
}

impl<'a> CsvFields<'a> {
    /// The columns of the table.
    pub(crate) fn columns(&self) -> &'a [Column] {
        self.columns
    }

    /// The field of the table's column `index`, unless it is null.
    pub(crate) fn get(&self, index: usize) -> Option<&'a str> {
        self.text.get(self.places.get(index)?.clone()?)
    }
}

/// Decodes the fields of one row of a file into a row of the table.
type DecodeFields = fn(&CsvFields<'_>, &mut RowWriter<'_>) -> Result<(), Reject>;

/// Files of rows, below a header line. A column reads the field of its name; other fields are
/// ignored. An empty field is null, unless null has a text of its own.
///
/// ```
/// use std::sync::Arc;
///
/// use lambda_core::decode::Csv;
/// use lambda_core::record::{Column, ColumnType, Table};
///
/// let table = Arc::new(Table::new("readings").column(Column::new("id", ColumnType::Text)));
/// let exported = Csv::new().delimiter(';').null("\\N").date_format("%d.%m.%Y");
/// assert!(exported.open(b"note;id\n", &table).is_ok());
/// assert!(exported.open(b"note\n", &table).is_err(), "the column id is missing");
/// ```
#[derive(Clone, Default)]
pub struct Csv {
    dialect: Dialect,
    /// Instead of the table's columns.
    by: Option<DecodeFields>,
}

impl Csv {
    /// The format's name.
    pub const FORMAT: &str = "csv";

    /// Fields separated by commas, in quotes where they need them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows that a function decodes.
    pub(crate) fn by(decode: DecodeFields) -> Self {
        Self { by: Some(decode), ..Self::default() }
    }

    /// The same with another character between fields than a comma.
    #[must_use]
    pub fn delimiter(mut self, mark: char) -> Self {
        self.dialect.delimiter = mark;
        self
    }

    /// The same with another character around fields than `"`.
    #[must_use]
    pub fn quote(mut self, mark: char) -> Self {
        self.dialect.quote = mark;
        self
    }

    /// The same with this text, outside quotes, for null. An empty field is then an empty text.
    #[must_use]
    pub fn null(mut self, text: &str) -> Self {
        self.dialect.null = Some(text.to_owned());
        self
    }

    /// The same with values of `timestamp` and `timestamptz` in this format of `strftime`, as the
    /// crate jiff reads it. Without an offset they are in UTC.
    #[must_use]
    pub fn time_format(mut self, format: &str) -> Self {
        self.dialect.time_format = Some(format.to_owned());
        self
    }

    /// The same with values of `date` in this format.
    #[must_use]
    pub fn date_format(mut self, format: &str) -> Self {
        self.dialect.date_format = Some(format.to_owned());
        self
    }

    /// The bytes that separate fields.
    pub fn marks(&self) -> Marks {
        self.dialect.marks()
    }

    /// The dialect as JSON: what differs from plain CSV. A job keeps it, since it decides where
    /// records end.
    pub fn dialect(&self) -> String {
        // Characters and texts always have a form in JSON.
        serde_json::to_string(&self.dialect).unwrap_or_default()
    }

    /// The same in the dialect of a job.
    ///
    /// # Errors
    /// `Fatal` for a text that [`Csv::dialect`] does not write.
    pub fn in_dialect(self, json: &str) -> Result<Self, Error> {
        match serde_json::from_str(json) {
            Ok(dialect) => Ok(Self { dialect, ..self }),
            Err(error) => Err(Error::Misconfigured {
                what: format!("a job has the dialect {json}, which this program does not know"),
                remedy: "use the version of the program that made the job, or a later one".into(),
                source: Some(Box::new(error)),
            }),
        }
    }

    /// Describes what of the dialect cannot be, if anything.
    pub(crate) fn defect(&self) -> Option<String> {
        let Dialect { time_format, date_format, .. } = &self.dialect;
        if self.by.is_some() && (time_format.is_some() || date_format.is_some()) {
            return Some("serde reads dates and times itself, in no other format".into());
        }
        self.dialect.defect()
    }

    /// The decoder of the rows below this header line, which may have a byte order mark and a line
    /// end. The table's columns are found by name, in any order.
    ///
    /// # Errors
    /// [`Error::Input`] for a line that is not text or has a misplaced quote, or that lacks
    /// a column or has it twice; the error names the column. It quotes no other text of the
    /// line: in a file without a header, that line is a record.
    pub fn open(&self, header: &[u8], table: &Arc<Table>) -> Result<Rows, Error> {
        let Self { dialect, by } = self.clone();
        let marks = dialect.marks();
        let header = Header::parse(header, marks, table)?;
        let formats = table.columns().iter().map(|column| dialect.format(&column.kind));
        let formats: Vec<Option<String>> = formats.map(|it| it.map(ToOwned::to_owned)).collect();
        let is_usual = formats.iter().all(Option::is_none);
        let formats = if is_usual { Vec::new() } else { formats };
        Ok(Rows { header, marks, null: dialect.null, formats, by })
    }
}

impl From<Dialect> for Csv {
    fn from(dialect: Dialect) -> Self {
        Self { dialect, by: None }
    }
}

impl fmt::Debug for Csv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Csv").field(&self.dialect).finish()
    }
}

/// The rows of one file. A message is the exact bytes of a row, with or without the line end.
pub struct Rows {
    header: Header,
    marks: Marks,
    /// The text of null, if it is not the empty one.
    null: Option<String>,
    /// The format of each column's dates or times, where it is not the usual one; nothing if it is
    /// for all.
    formats: Vec<Option<String>>,
    by: Option<DecodeFields>,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Rows {
    /// Puts the fields into the columns as they come. Returns their number.
    fn put(&self, record: &str, row: &mut RowWriter<'_>) -> Result<usize, Defect> {
        let mut unquoted = std::mem::take(&mut row.scratch.text);
        let is_plain = memchr(0, record.as_bytes()).is_none();
        let count = split(record, self.marks, &mut unquoted, |place, field, is_quoted| {
            if let Some(Some(index)) = self.header.columns.get(place) {
                let spelled = match field {
                    field if self.is_null(field, is_quoted) => Spelled::Null,
                    field if is_plain => Spelled::PlainField(field),
                    field => Spelled::Field(field),
                };
                match self.formats.get(*index) {
                    Some(Some(format)) => put_in_format(row, *index, spelled, format),
                    _ => _ = row.set(*index, spelled),
                }
            }
        });
        row.scratch.text = unquoted;
        count
    }

    fn is_null(&self, field: &str, is_quoted: bool) -> bool {
        match &self.null {
            None => field.is_empty(),
            Some(null) => !is_quoted && field == null,
        }
    }

    /// Lets the function decode the fields, once all are known.
    fn decode_by(
        &self,
        decode: DecodeFields,
        record: &str,
        line: u64,
        row: &mut RowWriter<'_>,
    ) -> Result<(), Reject> {
        let columns = row.table().columns();
        let (mut text, mut unquoted) = (String::with_capacity(record.len()), String::new());
        let mut places = vec![None; columns.len()];
        let count = split(record, self.marks, &mut unquoted, |place, field, is_quoted| {
            if let Some(Some(index)) = self.header.columns.get(place)
                && !self.is_null(field, is_quoted)
            {
                places[*index] = Some(text.len()..text.len() + field.len());
                text.push_str(field);
            }
        });
        self.check(count, record, line)?;
        decode(&CsvFields { columns, text: &text, places: &places }, row)
    }

    fn check(&self, count: Result<usize, Defect>, record: &str, line: u64) -> Result<(), Reject> {
        let (found, expected) =
            (count.map_err(|defect| reject(defect, record, line))?, self.header.columns.len());
        if found == expected {
            return Ok(());
        }
        let detail = format!("expected {expected} fields, found {found}");
        Err(Reject::new(Reason::RaggedRow, detail))
    }
}

impl Decode for Rows {
    fn format(&self) -> &str {
        Csv::FORMAT
    }

    fn decode(&self, message: &Message<'_>, row: &mut RowWriter<'_>) -> Result<Decoded, Reject> {
        let record = super::utf8(message.payload.unwrap_or_default())?;
        let line = message.line.unwrap_or(1);
        if let Some(decode) = self.by {
            self.decode_by(decode, record, line, row)?;
        } else {
            let count = self.put(record, row);
            self.check(count, record, line)?;
        }
        Ok(Decoded::Row)
    }
}

/// Puts a date or time that a file spells in a format of its own.
fn put_in_format(row: &mut RowWriter<'_>, index: usize, spelled: Spelled<'_>, format: &str) {
    let (Some(text), Some(column)) = (spelled.text(), row.table().columns().get(index)) else {
        row.set(index, spelled);
        return;
    };
    match dialect::usual(format, text, &column.kind) {
        Some(usual) => _ = row.set(index, Spelled::PlainField(&usual)),
        None => row.reject(index, format_args!("expected a text in the format {format}")),
    }
}

/// The reject for a record that begins on `line` and cannot be split.
fn reject(defect: Defect, record: &str, line: u64) -> Reject {
    match defect {
        Defect::Blank => Reject::new(Reason::EmptyPayload, "a blank line"),
        Defect::More => Reject::new(Reason::RaggedRow, "expected one row, found more after it"),
        Defect::Quote { at, misplaced } => {
            let (line, column) = split::place(record.as_bytes(), at, line);
            Reject::new(Reason::InvalidCsv, format!("line {line} column {column}: {misplaced}"))
        }
    }
}

#[cfg(test)]
mod tests;
