//! Rows of CSV files (RFC 4180).

mod header;
mod split;

use std::fmt;

use self::split::Defect;
use crate::dead_letter::{Reason, Reject};
use crate::decode::{Decode, Decoded, Message};
use crate::record::{Column, RowWriter, Scratch};

pub use self::header::Header;

/// Optional first bytes of a file: the UTF-8 byte order mark.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The fields of one row, in the order of the table's columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CsvFields<'a> {
    header: &'a Header,
    /// The unquoted fields, one after the other.
    text: &'a str,
    /// End of each field in `text`.
    ends: &'a [usize],
}

impl<'a> CsvFields<'a> {
    /// The columns of the table.
    pub(crate) fn columns(&self) -> &'a [Column] {
        self.header.table.columns()
    }

    /// The field of the table's column `index`; an empty one is null.
    pub(crate) fn get(&self, index: usize) -> Option<&'a str> {
        let place = *self.header.columns.get(index)?;
        let start = if place == 0 { 0 } else { *self.ends.get(place - 1)? };
        self.text.get(start..*self.ends.get(place)?).filter(|field| !field.is_empty())
    }
}

/// Decodes the fields of one row of a file into a row of the table.
type DecodeFields = fn(&CsvFields<'_>, &mut RowWriter<'_>) -> Result<(), Reject>;

/// Files of rows.
#[derive(Clone, Copy)]
pub struct Csv {
    decode: DecodeFields,
}

impl Csv {
    /// The format's name.
    pub const FORMAT: &str = "csv";

    /// Rows that a function decodes.
    pub(crate) fn by(decode: DecodeFields) -> Self {
        Self { decode }
    }

    /// The decoder of the rows below a file's header.
    pub fn open(&self, header: Header) -> Rows {
        Rows { header, decode: self.decode }
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
    decode: DecodeFields,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Rows {
    fn decode_fields(
        &self,
        message: &Message<'_>,
        fields: &mut Scratch,
        row: &mut RowWriter<'_>,
    ) -> Result<(), Reject> {
        let record = message.payload.unwrap_or_default();
        super::utf8(record)?;
        let line = message.line.unwrap_or(1);
        fields.split(record).map_err(|defect| reject(defect, record, line))?;
        let (found, expected) = (fields.ends.len(), self.header.width);
        if found != expected {
            let detail = format!("expected {expected} fields, found {found}");
            return Err(Reject::new(Reason::RaggedRow, detail));
        }
        // Only ASCII was taken out of the text that was checked above.
        let text = super::utf8(&fields.text)?;
        (self.decode)(&CsvFields { header: &self.header, text, ends: &fields.ends }, row)
    }
}

impl Decode for Rows {
    fn format(&self) -> &str {
        Csv::FORMAT
    }

    fn decode(&self, message: &Message<'_>, row: &mut RowWriter<'_>) -> Result<Decoded, Reject> {
        let mut fields = row.take_scratch();
        let decoded = self.decode_fields(message, &mut fields, row);
        row.keep_scratch(fields);
        decoded.map(|()| Decoded::Row)
    }
}

/// The reject for a record that begins on `line` and cannot be split.
fn reject(defect: Defect, record: &[u8], line: u64) -> Reject {
    match defect {
        Defect::Blank => Reject::new(Reason::EmptyPayload, "a blank line"),
        Defect::More => Reject::new(Reason::RaggedRow, "expected one row, found more after it"),
        Defect::Quote { at, misplaced } => {
            let (line, column) = split::place(record, at, line);
            Reject::new(Reason::InvalidCsv, format!("line {line} column {column}: {misplaced}"))
        }
    }
}
