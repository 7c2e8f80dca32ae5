//! Rows of CSV files (RFC 4180).

mod header;
mod split;

use std::marker::PhantomData;

use csv::StringRecord;
use serde::de::DeserializeOwned;

use self::split::{Defect, Fields};
use crate::dead_letter::{Reason, Reject};
use crate::record::{Record, Row, RowWriter};

pub use self::header::Header;

/// Optional first bytes of a file: the UTF-8 byte order mark.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The fields of one row, in the order of the table's columns.
#[derive(Debug, Clone, Copy)]
pub struct CsvFields<'a> {
    header: &'a Header,
    /// The unquoted fields, one after the other.
    text: &'a str,
    /// End of each field in `text`.
    ends: &'a [usize],
}

impl<'a> CsvFields<'a> {
    /// The field of the table's column `index`; an empty one is null.
    pub fn get(&self, index: usize) -> Option<&'a str> {
        let place = *self.header.columns.get(index)?;
        let start = if place == 0 { 0 } else { *self.ends.get(place - 1)? };
        self.text.get(start..*self.ends.get(place)?).filter(|field| !field.is_empty())
    }
}

/// Decodes a row by serde, under the names of the table's fields.
///
/// # Errors
/// The expected form, without the value that was found.
pub fn by_serde<R: DeserializeOwned>(fields: &CsvFields<'_>) -> Result<R, Reject> {
    let columns = fields.header.table.columns;
    let names: StringRecord = columns.iter().map(|column| column.field).collect();
    let values: StringRecord =
        (0..columns.len()).map(|index| fields.get(index).unwrap_or_default()).collect();
    values.deserialize(Some(&names)).map_err(|error| match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => {
            let column = err.field().and_then(|at| columns.get(usize::try_from(at).ok()?));
            let place = column.map_or("in some field", |column| column.field);
            super::of_serde(&err.kind().to_string(), place)
        }
        _ => Reject::new(Reason::InvalidField, "the row does not fit the record's type"),
    })
}

/// Decodes the rows of one file. Reuses its buffers from row to row.
#[derive(Debug)]
pub struct CsvDecoder<R> {
    header: Header,
    fields: Fields,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> CsvDecoder<R> {
    /// A decoder of the rows below `header`.
    pub fn new(header: Header) -> Self {
        Self { header, fields: Fields::default(), record: PhantomData }
    }

    /// Decodes one row, given its exact bytes with or without the line end, into
    /// a row at the end of `rows`.
    ///
    /// # Errors
    /// A [`Reject`] with the reason; `rows` is then unchanged.
    pub fn decode(&mut self, raw_record: &[u8], rows: &mut Vec<u8>) -> Result<Row, Reject> {
        self.decode_at(raw_record, 1, rows)
    }

    /// Decodes a row that begins on `line` of its file, as [`Self::decode`] does: rejects
    /// for misplaced quotes name lines counted from there.
    ///
    /// # Errors
    /// As for [`Self::decode`].
    pub fn decode_at(
        &mut self,
        raw_record: &[u8],
        line: u64,
        rows: &mut Vec<u8>,
    ) -> Result<Row, Reject> {
        super::utf8(raw_record)?;
        self.fields.split(raw_record).map_err(|defect| reject(defect, raw_record, line))?;
        let (found, expected) = (self.fields.ends.len(), self.header.width);
        if found != expected {
            let detail = format!("expected {expected} fields, found {found}");
            return Err(Reject::new(Reason::RaggedRow, detail));
        }
        // Only ASCII was taken out of the text that was checked above.
        let text = super::utf8(&self.fields.text)?;
        let fields = CsvFields { header: &self.header, text, ends: &self.fields.ends };
        let start = rows.len();
        let mut row = RowWriter::new(const { &R::TABLE }, rows);
        match R::decode_csv(&fields, &mut row) {
            Ok(()) => row.finish(),
            Err(reject) => {
                rows.truncate(start);
                Err(reject)
            }
        }
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
