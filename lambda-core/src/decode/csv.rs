//! Rows of CSV files (RFC 4180).

mod header;
mod split;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use memchr::memchr;

use self::header::Header;
use self::split::{Defect, split};
use super::spelled::Spelled;
use crate::dead_letter::{Reason, Reject};
use crate::decode::{Decode, Decoded, Message};
use crate::error::Error;
use crate::record::{Column, RowWriter, Table};

/// Optional first bytes of a file: the UTF-8 byte order mark.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The bytes that give a file its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dialect {
    delimiter: u8,
    quote: u8,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { delimiter: b',', quote: b'"' }
    }
}

/// The fields of one row, in the order of the table's columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CsvFields<'a> {
    columns: &'a [Column],
    /// The unquoted fields, one after the other.
    text: &'a str,
    /// Place in `text` of each column's field.
    places: &'a [Range<usize>],
}

impl<'a> CsvFields<'a> {
    /// The columns of the table.
    pub(crate) fn columns(&self) -> &'a [Column] {
        self.columns
    }

    /// The field of the table's column `index`; an empty one is null.
    pub(crate) fn get(&self, index: usize) -> Option<&'a str> {
        self.text.get(self.places.get(index)?.clone()).filter(|field| !field.is_empty())
    }
}

/// Decodes the fields of one row of a file into a row of the table.
type DecodeFields = fn(&CsvFields<'_>, &mut RowWriter<'_>) -> Result<(), Reject>;

/// Files of rows, below a header line. A column reads the field of its name; other fields are
/// ignored. An empty field is null.
#[derive(Clone, Default)]
pub struct Csv {
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
        Self { by: Some(decode) }
    }

    /// The decoder of the rows below this header line, which may have a byte order mark and a line
    /// end. The table's columns are found by name, in any order.
    ///
    /// # Errors
    /// [`Error::Input`] for a line that is not text or has a misplaced quote, or that lacks
    /// a column or has it twice; the error names the column. It quotes no other text of the
    /// line: in a file without a header, that line is a record.
    pub fn open(&self, header: &[u8], table: &Arc<Table>) -> Result<Rows, Error> {
        let dialect = Dialect::default();
        Ok(Rows { header: Header::parse(header, dialect, table)?, dialect, by: self.by })
    }
}

impl fmt::Debug for Csv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Csv")
    }
}

/// The rows of one file. A message is the exact bytes of a row, with or without the line end.
pub struct Rows {
    header: Header,
    dialect: Dialect,
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
        let count = split(record, self.dialect, &mut unquoted, |place, field| {
            if let Some(Some(index)) = self.header.columns.get(place) {
                row.set(
                    *index,
                    match field {
                        "" => Spelled::Null,
                        field if is_plain => Spelled::PlainField(field),
                        field => Spelled::Field(field),
                    },
                );
            }
        });
        row.scratch.text = unquoted;
        count
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
        let mut places = vec![0..0; columns.len()];
        let count = split(record, self.dialect, &mut unquoted, |place, field| {
            if let Some(Some(index)) = self.header.columns.get(place) {
                places[*index] = text.len()..text.len() + field.len();
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
