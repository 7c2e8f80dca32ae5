//! Rows of CSV files (RFC 4180, read as the `csv` crate reads them).

use std::marker::PhantomData;

use csv::{ByteRecord, StringRecord};
use csv_core::ReadRecordResult;
use serde::de::DeserializeOwned;

use crate::dead_letter::{Reason, Reject};
use crate::error::Error;
use crate::record::{Record, Row, RowWriter, Table};

/// Bytes that may open a file: the UTF-8 byte order mark.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A file's header: where each column of the record's table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    table: &'static Table,
    /// For each of the table's columns, where its field is in a row.
    columns: Vec<usize>,
    /// Fields in a row.
    width: usize,
}

impl Header {
    /// Reads the header line, with or without byte order mark and line end. The
    /// columns of `table` are found by name, in any order; others are ignored.
    ///
    /// # Errors
    /// [`Error::Input`] for a line that is no text, and naming a column that is
    /// missing or occurs twice.
    pub fn parse(line: &[u8], table: &'static Table) -> Result<Self, Error> {
        let input = |what: String| Error::Input { what };
        let line = line.strip_prefix(BOM).unwrap_or(line);
        let mut names = ByteRecord::new();
        csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(line)
            .read_byte_record(&mut names)
            .map_err(|error| input(format!("the header line is not readable: {error}")))?;
        let names = StringRecord::from_byte_record(names)
            .map_err(|_| input("the header line is no UTF-8: convert the file".into()))?;
        let mut columns = Vec::with_capacity(table.columns.len());
        for column in table.columns {
            let field = column.field;
            let mut places = names.iter().enumerate().filter(|(_, name)| *name == field);
            let Some((place, _)) = places.next() else {
                return Err(input(format!("the header line has no column {field}")));
            };
            if places.next().is_some() {
                return Err(input(format!("the header line has the column {field} twice")));
            }
            columns.push(place);
        }
        Ok(Self { table, columns, width: names.len() })
    }

    /// Fields that every row must have.
    pub fn width(&self) -> usize {
        self.width
    }
}

/// The fields of one row, in the order of the table's columns.
#[derive(Debug, Clone, Copy)]
pub struct CsvFields<'a> {
    header: &'a Header,
    /// The unquoted fields, one behind the other.
    text: &'a str,
    /// Where each field ends in `text`.
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
/// What serde expected; never the value it found.
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

/// Decodes the rows of one file. Its buffers are reused from row to row.
#[derive(Debug)]
pub struct CsvDecoder<R> {
    header: Header,
    reader: csv_core::Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> CsvDecoder<R> {
    /// A decoder of the rows below `header`.
    pub fn new(header: Header) -> Self {
        let mut reader = csv_core::Reader::new();
        // A fresh reader strips a byte order mark; below the header it is text.
        reader.read_record(b"x\n", &mut [0; 2], &mut [0; 2]);
        let ends = vec![0; header.width + 1];
        Self { header, reader, text: Vec::new(), ends, record: PhantomData }
    }

    /// Decodes one row, given its exact bytes with or without the line end, into
    /// a row at the end of `rows`.
    ///
    /// # Errors
    /// A [`Reject`] says why it is no record; `rows` is then as it was.
    pub fn decode(&mut self, raw_record: &[u8], rows: &mut Vec<u8>) -> Result<Row, Reject> {
        super::utf8(raw_record)?;
        let found = self.split(raw_record)?;
        if found.fields != self.header.width {
            let expected = self.header.width;
            let detail = format!("expected {expected} fields, found {}", found.fields);
            return Err(Reject::new(Reason::RaggedRow, detail));
        }
        // Only ASCII was taken out of the text that was checked above.
        let text = super::utf8(&self.text[..found.bytes])?;
        let fields = CsvFields { header: &self.header, text, ends: &self.ends[..found.fields] };
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

    /// Splits the record into unquoted fields, in `text` and `ends`.
    fn split(&mut self, raw_record: &[u8]) -> Result<Found, Reject> {
        if self.text.len() < raw_record.len() + 1 {
            self.text.resize(raw_record.len() + 1, 0);
        }
        let mut rest = raw_record;
        let mut found = Found { bytes: 0, fields: 0 };
        loop {
            // Once the input is used up, an empty one tells the reader that it ends.
            let (result, read, wrote, ended) = self.reader.read_record(
                rest,
                &mut self.text[found.bytes..],
                &mut self.ends[found.fields..],
            );
            rest = &rest[read..];
            found.bytes += wrote;
            found.fields += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record => break,
                ReadRecordResult::End => {
                    return Err(Reject::new(Reason::EmptyPayload, "a blank line"));
                }
            }
        }
        if rest.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            Ok(found)
        } else {
            // The reader is between records: the next one starts afresh.
            Err(Reject::new(Reason::RaggedRow, "expected one row, found more behind it"))
        }
    }
}

/// What a record was split into.
#[derive(Debug, Clone, Copy)]
struct Found {
    bytes: usize,
    fields: usize,
}
