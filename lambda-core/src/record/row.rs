//! A record's columns as bytes.
//!
//! Each field is its length (`i32`, big endian, -1 for null) and its bytes in PostgreSQL's
//! binary form. Every value has one form only (see [`crate::record::value`]), so rows are equal
//! exactly when their bytes are, and a checksum over the bytes covers the content.

use std::ops::Range;

use crate::dead_letter::{Reason, Reject};
use crate::record::value::split_field;
use crate::record::{Cell, CellRef, Field, Table, Value, key, rules};

/// Ranges of a written row in its writer's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// All fields with their lengths.
    pub content: Range<usize>,
    /// The key, in a form whose byte order is that of the key's columns: part of the content, or
    /// behind it.
    pub key: Range<usize>,
}

/// Buffers that a decoder may use while it decodes one record.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Text of one field after the other.
    pub(crate) text: Vec<u8>,
    /// End of each field in `text`.
    pub(crate) ends: Vec<usize>,
}

/// Writes the columns of one row, in order.
#[derive(Debug)]
pub struct RowWriter<'a> {
    table: &'a Table,
    out: &'a mut Vec<u8>,
    scratch: Option<&'a mut Scratch>,
    start: usize,
    next: usize,
    defect: Option<Reject>,
}

impl<'a> RowWriter<'a> {
    /// Starts a row at the end of `out`.
    pub fn new(table: &'a Table, out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self { table, out, scratch: None, start, next: 0, defect: None }
    }

    /// The same row, with buffers for its decoder.
    #[must_use]
    pub fn with_scratch(self, scratch: &'a mut Scratch) -> Self {
        Self { scratch: Some(scratch), ..self }
    }

    /// Takes the decoder's buffers. Without [`Self::keep_scratch`] their capacity is lost.
    pub(crate) fn take_scratch(&mut self) -> Scratch {
        self.scratch.as_deref_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Gives the decoder's buffers back for the next record.
    pub(crate) fn keep_scratch(&mut self, scratch: Scratch) {
        if let Some(place) = &mut self.scratch {
            **place = scratch;
        }
    }

    /// The table.
    pub fn table(&self) -> &'a Table {
        self.table
    }

    /// Puts the next column.
    ///
    /// A value that does not fit, also one of another type than the column's, makes
    /// [`Self::finish`] reject the row.
    pub fn put(&mut self, value: impl Value) -> &mut Self {
        let column = self.table.columns().get(self.next);
        self.next += 1;
        let Some(column) = column else { return self };
        let from = self.out.len() + 4;
        let defect = match Cell::fill((&column.kind, &column.field), self.out, &value) {
            Ok(true) if !column.nullable => {
                Reject::field(Reason::MissingField, &column.field, "a value is required")
            }
            Ok(true) => return self,
            Ok(false) => match rules::check(column, &self.out[from..]) {
                Ok(()) => return self,
                Err(defect) => defect,
            },
            Err(defect) => defect,
        };
        self.defect.get_or_insert(defect);
        self
    }

    /// Ends the row.
    ///
    /// # Errors
    /// The first value that its column cannot hold, or that the row has more or fewer columns
    /// than the table; the row's bytes are then removed.
    pub fn finish(self) -> Result<Row, Reject> {
        let (found, expected) = (self.next, self.table.columns().len());
        let defect = self.defect.or_else(|| {
            let detail = || format!("the record gives {found} columns for {expected}");
            (found != expected).then(|| Reject::new(Reason::InvalidField, detail()))
        });
        match defect {
            None => {
                let content = self.start..self.out.len();
                Ok(Row { key: key::locate(self.table, self.out, self.start), content })
            }
            Some(defect) => {
                self.out.truncate(self.start);
                Err(defect)
            }
        }
    }
}

/// A stored row, to read a record from.
#[derive(Debug, Clone, Copy)]
pub struct RowRef<'a> {
    table: &'a Table,
    next: usize,
    rest: &'a [u8],
}

impl<'a> RowRef<'a> {
    /// The row with this content (see [`Row::content`]).
    pub fn new(table: &'a Table, content: &'a [u8]) -> Self {
        Self { table, next: 0, rest: content }
    }

    /// Takes the value of the next column.
    ///
    /// # Errors
    /// If the column is of another type, or there is none.
    pub fn take<T: Field>(&mut self) -> Result<T, Reject> {
        let column = self.table.columns().get(self.next);
        let (Some(column), Some((bytes, rest))) = (column, split_field(self.rest)) else {
            let detail = format!("a row of {} has only {} columns", self.table, self.next);
            return Err(Reject::new(Reason::InvalidField, detail));
        };
        self.next += 1;
        self.rest = rest;
        T::read(CellRef::new(&column.kind, bytes)).ok_or_else(|| {
            let detail = format!("the record reads another type from {}", column.kind);
            Reject::field(Reason::InvalidField, &column.field, detail)
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::record::{Column, ColumnType};

    type Put = fn(&mut RowWriter<'_>);

    fn notes() -> Table {
        Table::new("notes")
            .column(Column::new("note", ColumnType::Text))
            .column(Column::new("n", ColumnType::Int8).nullable())
    }

    #[test]
    fn a_rejected_row_leaves_the_buffer_as_it_was() {
        let table = notes();
        let mut out = b"before".to_vec();
        let cases: [(Put, Reason); 5] = [
            (|row| _ = row.put("a\0b").put(None::<i64>), Reason::NulCharacter),
            (|row| _ = row.put(None::<&str>).put(7_i64), Reason::MissingField),
            (|row| _ = row.put("a").put("b"), Reason::InvalidField),
            (|row| _ = row.put("a"), Reason::InvalidField),
            (|row| _ = row.put("a").put(7_i64).put(7_i64), Reason::InvalidField),
        ];
        for (put, reason) in cases {
            let mut row = RowWriter::new(&table, &mut out);
            put(&mut row);
            assert_eq!(row.finish().unwrap_err().reason, reason);
            assert_eq!(out, b"before");
        }
        let mut row = RowWriter::new(&table, &mut out);
        row.put("a").put(7_i64);
        let row = row.finish().unwrap();
        assert_eq!(&out[row.key], b"a");
        assert_eq!(row.content, 6..out.len());
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let (table, mut out) = (notes(), Vec::new());
        let mut row = RowWriter::new(&table, &mut out);
        row.put("a").put(None::<i64>);
        let row = row.finish().unwrap();
        let mut read = RowRef::new(&table, &out[row.content]);
        assert_eq!(read.take::<String>().unwrap(), "a");
        assert_eq!(read.take::<Option<i64>>().unwrap(), None);
        assert_eq!(read.take::<i64>().unwrap_err().reason, Reason::InvalidField);
        let mut read = RowRef::new(&table, &out[row.key]);
        assert!(read.take::<String>().is_err(), "a key is not a row");
    }
}
