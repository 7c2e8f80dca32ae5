//! A record's columns as bytes.
//!
//! Each field is its length (`i32`, big endian, -1 for null) and its bytes in PostgreSQL's
//! binary form. Every value has one form only (see [`crate::record::value`]), so rows are equal
//! exactly when their bytes are, and a checksum over the bytes covers the content.

use std::ops::Range;

use crate::dead_letter::{Reason, Reject};
use crate::record::value::split_field;
use crate::record::{CellRef, Column, Field, Table, Value, key};

/// The field of a null.
pub(super) const NULL: [u8; 4] = (-1_i32).to_be_bytes();

/// Ranges of a written row in its writer's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row {
    /// All fields with their lengths.
    pub content: Range<usize>,
    /// The key, in a form whose byte order is that of the key's columns: part of the content, or
    /// behind it.
    pub key: Range<usize>,
}

/// Buffers that decoders use again for each record.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Texts that are not in the message as they are: unquoted, or without escapes.
    pub(crate) text: String,
    /// What the decoder has seen of the record.
    pub(crate) seen: Vec<bool>,
    /// Where the fields of a row's columns begin; see [`RowWriter`].
    places: Vec<Option<usize>>,
}

/// Writes the columns of one row.
///
/// A value that does not fit its column, also one of another type, makes [`Self::finish`] reject
/// the row. If several do not fit, the reject is that of the first column.
///
/// ```
/// use lambda_core::record::{Column, ColumnType, RowWriter, Scratch, Table};
///
/// let table = Table::new("ops.readings")
///     .column(Column::new("id", ColumnType::Text))
///     .column(Column::new("millidegrees", ColumnType::Int4));
/// let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
///
/// let mut row = RowWriter::new(&table, &mut rows, &mut scratch);
/// row.put("R-1").put(21_500);
/// let row = row.finish()?;
/// assert_eq!(rows[row.key], *b"R-1");
/// # Ok::<(), lambda_core::dead_letter::Reject>(())
/// ```
#[derive(Debug)]
pub struct RowWriter<'a> {
    table: &'a Table,
    out: &'a mut Vec<u8>,
    pub(crate) scratch: &'a mut Scratch,
    start: usize,
    /// The column after the one that was put last.
    next: usize,
    /// Whether columns were put in another order than the table's: `Scratch::places` is in use.
    scattered: bool,
    /// Whether columns may be absent: they were put by their index.
    by_index: bool,
    is_complete: bool,
    defect: Option<(usize, Reject)>,
}

impl<'a> RowWriter<'a> {
    /// Starts a row at the end of `out`.
    pub fn new(table: &'a Table, out: &'a mut Vec<u8>, scratch: &'a mut Scratch) -> Self {
        let start = out.len();
        let (scattered, by_index, is_complete) = (false, false, false);
        Self { table, out, scratch, start, next: 0, scattered, by_index, is_complete, defect: None }
    }

    /// The table.
    pub fn table(&self) -> &'a Table {
        self.table
    }

    /// Puts the column after the last one that was put, or the first.
    pub fn put(&mut self, value: impl Value) -> &mut Self {
        self.write(self.next, &value);
        self
    }

    /// Puts the column of this index in [`Table::columns`]. Columns that are not put, in a row that
    /// has some put by index, get their default or are null.
    ///
    /// ```
    /// use lambda_core::record::{Column, ColumnType, RowRef, RowWriter, Scratch, Table};
    ///
    /// let table = Table::new("notes")
    ///     .column(Column::new("id", ColumnType::Text))
    ///     .column(Column::new("author", ColumnType::Text).nullable())
    ///     .column(Column::new("text", ColumnType::Text));
    /// let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
    ///
    /// let mut row = RowWriter::new(&table, &mut rows, &mut scratch);
    /// row.set(2, "hello").set(0, "N-1");
    /// let row = row.finish()?;
    ///
    /// let mut read = RowRef::new(&table, &rows[row.content]);
    /// assert_eq!(read.take::<String>()?, "N-1");
    /// assert_eq!(read.take::<Option<String>>()?, None);
    /// # Ok::<(), lambda_core::dead_letter::Reject>(())
    /// ```
    pub fn set(&mut self, index: usize, value: impl Value) -> &mut Self {
        self.by_index = true;
        self.write(index, &value);
        self
    }

    #[inline]
    fn write(&mut self, index: usize, value: &impl Value) {
        if index != self.next && !self.scattered {
            self.scatter();
        }
        self.next = index + 1;
        let Some(column) = self.table.columns().get(index) else {
            return self.note_count(index + 1);
        };
        let begin = self.out.len();
        if self.scattered && self.scratch.places[index].replace(begin).is_some() {
            let twice = Reject::field(Reason::DuplicateKey, &column.field, "expected once");
            return self.note(index, twice);
        }
        if let Err(defect) = column.put(self.out, value) {
            self.discard(begin);
            self.note(index, defect);
        }
    }

    /// Replaces what was put from `begin` on with a null.
    #[cold]
    fn discard(&mut self, begin: usize) {
        self.out.truncate(begin);
        self.out.extend_from_slice(&NULL);
    }

    /// Keeps the defect of the first column.
    #[cold]
    fn note(&mut self, index: usize, defect: Reject) {
        if self.defect.as_ref().is_none_or(|(first, _)| index < *first) {
            self.defect = Some((index, defect));
        }
    }

    /// Notes that the record gives fewer or more columns than the table has.
    #[cold]
    fn note_count(&mut self, found: usize) {
        let expected = self.table.columns().len();
        let detail = format!("the record gives {found} columns for {expected}");
        self.note(expected, Reject::new(Reason::InvalidField, detail));
    }

    /// From now on notes where each column's field begins.
    #[cold]
    fn scatter(&mut self) {
        let columns = self.table.columns().len();
        self.scattered = true;
        self.scratch.places.clear();
        let mut at = self.start;
        for _ in 0..self.next.min(columns) {
            self.scratch.places.push(Some(at));
            at = self.field_end(at);
        }
        self.scratch.places.resize(columns, None);
    }

    /// The end of the field that begins at `at`.
    fn field_end(&self, at: usize) -> usize {
        let rest = self.out.get(at..).and_then(split_field).map_or(0, |(_, rest)| rest.len());
        self.out.len() - rest
    }

    /// Rejects the row for a value that cannot even be put.
    pub(crate) fn reject(&mut self, index: usize, expected: impl std::fmt::Display) {
        if let Some(Column { field, .. }) = self.table.columns().get(index) {
            self.note(index, Reject::field(Reason::InvalidField, field, expected));
        }
        self.set(index, None::<bool>);
    }

    /// Puts the columns that are absent, and brings all into order.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub(crate) fn complete(&mut self) -> Result<(), Reject> {
        if self.is_complete {
            return Ok(());
        }
        self.is_complete = true;
        let (found, expected) = (self.next, self.table.columns().len());
        if !self.by_index && (1..expected).contains(&found) {
            self.note_count(found);
        } else if self.scattered {
            self.gather();
        } else {
            for index in found..expected {
                self.put_absent(index);
            }
        }
        match self.defect.take() {
            None => Ok(()),
            Some((_, defect)) => {
                self.out.truncate(self.start);
                Err(defect)
            }
        }
    }

    /// Ends the row.
    ///
    /// # Errors
    /// The reject of the first column whose value does not fit or is missing, or that the row has
    /// more or fewer columns than the table; the row's bytes are then removed.
    pub fn finish(mut self) -> Result<Row, Reject> {
        self.complete()?;
        let content = self.start..self.out.len();
        Ok(Row { key: key::locate(self.table, self.out, self.start), content })
    }

    /// Brings the fields into the table's order.
    fn gather(&mut self) {
        let end = self.out.len();
        for index in 0..self.table.columns().len() {
            match self.scratch.places.get(index).copied().flatten() {
                Some(at) => self.out.extend_from_within(at..self.field_end(at)),
                None => self.put_absent(index),
            }
        }
        self.out.drain(self.start..end);
    }

    /// Puts what the column has in a record without its field.
    fn put_absent(&mut self, index: usize) {
        let column = &self.table.columns()[index];
        if let Some(field) = &column.default_field {
            self.out.extend_from_slice(field);
            return;
        }
        self.out.extend_from_slice(&NULL);
        if !column.nullable {
            self.note(index, column.missing());
        }
    }
}

/// A stored row, to read a record from.
///
/// ```
/// use lambda_core::Record;
/// use lambda_core::record::{RowRef, RowWriter, Scratch};
///
/// #[derive(Record, Debug, PartialEq)]
/// #[record(table = "readings", key(id))]
/// struct Reading {
///     id: String,
///     millidegrees: Option<i32>,
/// }
///
/// let reading = Reading { id: "R-1".into(), millidegrees: Some(21_500) };
/// let (table, mut rows, mut scratch) = (Reading::table(), Vec::new(), Scratch::default());
/// let mut row = RowWriter::new(&table, &mut rows, &mut scratch);
/// reading.write(&mut row);
/// let row = row.finish()?;
///
/// let stored = RowRef::new(&table, &rows[row.content]);
/// assert_eq!(Reading::read(stored)?, reading);
/// # Ok::<(), lambda_core::dead_letter::Reject>(())
/// ```
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

    use proptest::prelude::*;

    use super::*;
    use crate::record::ColumnType;

    type Put = fn(&mut RowWriter<'_>);

    fn notes() -> Table {
        Table::new("notes")
            .column(Column::new("note", ColumnType::Text))
            .column(Column::new("n", ColumnType::Int8).nullable())
    }

    #[test]
    fn a_rejected_row_leaves_the_buffer_as_it_was() {
        let (table, mut scratch) = (notes(), Scratch::default());
        let mut out = b"before".to_vec();
        let cases: [(Put, Reason); 9] = [
            (|row| _ = row.put("a\0b").put(None::<i64>), Reason::NulCharacter),
            (|row| _ = row.put(None::<&str>).put(7_i64), Reason::MissingField),
            (|row| _ = row.put("a").put("b"), Reason::InvalidField),
            (|row| _ = row.put("a"), Reason::InvalidField),
            (|row| _ = row.put("a").put(7_i64).put(7_i64), Reason::InvalidField),
            (|row| _ = row.set(1, 7_i64).set(1, 7_i64).set(0, "a"), Reason::DuplicateKey),
            (|row| _ = row.set(1, "b").set(0, "a\0b"), Reason::NulCharacter),
            (|row| _ = row.set(1, 7_i64), Reason::MissingField),
            (|row| _ = row.set(2, 7_i64).set(0, "a"), Reason::InvalidField),
        ];
        for (put, reason) in cases {
            let mut row = RowWriter::new(&table, &mut out, &mut scratch);
            put(&mut row);
            assert_eq!(row.finish().unwrap_err().reason, reason);
            assert_eq!(out, b"before");
        }
        let mut row = RowWriter::new(&table, &mut out, &mut scratch);
        row.put("a").put(7_i64);
        let row = row.finish().unwrap();
        assert_eq!(&out[row.key], b"a");
        assert_eq!(row.content, 6..out.len());
    }

    proptest! {
        #[test]
        fn columns_put_in_any_order_give_one_row(
            values in prop::collection::vec(prop::option::of("[a-z]{0,9}"), 1..40),
            order in any::<u64>(),
            absent in prop::collection::vec(any::<bool>(), 40),
        ) {
            let table = (0..values.len()).fold(Table::new("t"), |table, index| {
                table.column(Column::new(&format!("c{index}"), ColumnType::Text).nullable())
            });
            let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
            let mut row = RowWriter::new(&table, &mut rows, &mut scratch);
            for (index, value) in values.iter().enumerate() {
                row.put(value.as_deref().filter(|_| !absent[index]));
            }
            row.complete().unwrap();
            let mut indexes: Vec<usize> = (0..values.len()).collect();
            fastrand::Rng::with_seed(order).shuffle(&mut indexes);
            let mut scattered = Vec::new();
            let mut row = RowWriter::new(&table, &mut scattered, &mut scratch);
            for index in indexes.into_iter().filter(|index| !absent[*index]) {
                row.set(index, values[index].as_deref());
            }
            row.complete().unwrap();
            prop_assert_eq!(scattered, rows);
        }
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let (table, mut out, mut scratch) = (notes(), Vec::new(), Scratch::default());
        let mut row = RowWriter::new(&table, &mut out, &mut scratch);
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
