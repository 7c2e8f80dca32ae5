//! A record's columns as bytes.
//!
//! The form is that of PostgreSQL's binary COPY, which is also the form of a query's
//! result: each field is its length (`i32`, big endian, -1 for null) and its bytes. Every
//! value has one form only, so rows are equal exactly when their bytes are, and a checksum
//! over the bytes covers the content.

use std::ops::Range;

use uuid::Uuid;

use crate::dead_letter::{Reason, Reject};
use crate::record::{Column, ColumnType, Table, key};

/// Seconds from the Unix epoch to PostgreSQL's, 2000-01-01 UTC.
const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;

/// The same in days.
const POSTGRES_EPOCH_DAYS: i32 = 10_957;

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
    /// # Panics
    /// If the row is full or the column has another type: `write` and `table`
    /// of the record then contradict each other.
    pub fn put(&mut self, value: impl Field) -> &mut Self {
        let Some(column) = self.table.columns().get(self.next) else {
            panic!("a row of {} has only {} columns", self.table, self.table.columns().len());
        };
        let length_at = self.out.len();
        self.out.extend_from_slice(&(-1_i32).to_be_bytes());
        let mut cell = Cell { column, out: self.out, null: true, defect: None };
        value.write(&mut cell);
        let (null, mut defect) = (cell.null, cell.defect);
        let from = length_at + 4;
        if !null {
            let length = i32::try_from(self.out.len() - from).unwrap_or(i32::MAX);
            self.out[length_at..from].copy_from_slice(&length.to_be_bytes());
        } else if !column.nullable {
            defect =
                Some(Reject::field(Reason::MissingField, &column.field, "a value is required"));
        }
        if self.defect.is_none() {
            self.defect = defect;
        }
        self.next += 1;
        self
    }

    /// Ends the row.
    ///
    /// # Errors
    /// The first value that the column cannot hold; the row's bytes are then removed.
    ///
    /// # Panics
    /// If columns are missing.
    pub fn finish(self) -> Result<Row, Reject> {
        assert_eq!(self.next, self.table.columns().len(), "a row of {} is incomplete", self.table);
        match self.defect {
            None => Ok(key::locate(self.table, self.out, self.start)),
            Some(defect) => {
                self.out.truncate(self.start);
                Err(defect)
            }
        }
    }
}

/// The destination of a [`Field`]'s value.
#[derive(Debug)]
pub struct Cell<'a> {
    column: &'a Column,
    out: &'a mut Vec<u8>,
    null: bool,
    defect: Option<Reject>,
}

impl Cell<'_> {
    fn bytes(&mut self, kind_fits: bool, bytes: &[u8]) {
        assert!(kind_fits, "column {} is {:?}", self.column.name, self.column.kind);
        self.null = false;
        self.out.extend_from_slice(bytes);
    }
}

/// A value that a column can hold.
pub trait Field {
    /// Writes the value; leaving `cell` untouched makes the column null.
    fn write(&self, cell: &mut Cell<'_>);
}

impl<T: Field + ?Sized> Field for &T {
    fn write(&self, cell: &mut Cell<'_>) {
        (**self).write(cell);
    }
}

impl<T: Field> Field for Option<T> {
    fn write(&self, cell: &mut Cell<'_>) {
        if let Some(value) = self {
            value.write(cell);
        }
    }
}

impl Field for str {
    fn write(&self, cell: &mut Cell<'_>) {
        if self.as_bytes().contains(&0) {
            let detail = "PostgreSQL's text cannot hold a NUL character";
            cell.defect = Some(Reject::field(Reason::NulCharacter, &cell.column.field, detail));
        }
        cell.bytes(cell.column.kind == ColumnType::Text, self.as_bytes());
    }
}

impl Field for String {
    fn write(&self, cell: &mut Cell<'_>) {
        self.as_str().write(cell);
    }
}

impl Field for bool {
    fn write(&self, cell: &mut Cell<'_>) {
        cell.bytes(cell.column.kind == ColumnType::Bool, &[u8::from(*self)]);
    }
}

impl Field for i16 {
    fn write(&self, cell: &mut Cell<'_>) {
        cell.bytes(cell.column.kind == ColumnType::Int2, &self.to_be_bytes());
    }
}

impl Field for i32 {
    fn write(&self, cell: &mut Cell<'_>) {
        cell.bytes(cell.column.kind == ColumnType::Int4, &self.to_be_bytes());
    }
}

impl Field for i64 {
    fn write(&self, cell: &mut Cell<'_>) {
        cell.bytes(cell.column.kind == ColumnType::Int8, &self.to_be_bytes());
    }
}

impl Field for Uuid {
    fn write(&self, cell: &mut Cell<'_>) {
        cell.bytes(cell.column.kind == ColumnType::Uuid, self.as_bytes());
    }
}

/// A day, in days since the Unix epoch, for a `date` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixDays(pub i32);

impl Field for UnixDays {
    fn write(&self, cell: &mut Cell<'_>) {
        let days = self.0.saturating_sub(POSTGRES_EPOCH_DAYS);
        cell.bytes(cell.column.kind == ColumnType::Date, &days.to_be_bytes());
    }
}

/// A moment, in microseconds since the Unix epoch, for a `timestamptz` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixMicros(pub i64);

impl UnixMicros {
    /// The value as the server sends and receives it.
    pub(crate) fn to_sql(self) -> [u8; 8] {
        self.0.saturating_sub(POSTGRES_EPOCH_SECONDS * 1_000_000).to_be_bytes()
    }
}

impl Field for UnixMicros {
    fn write(&self, cell: &mut Cell<'_>) {
        cell.bytes(cell.column.kind == ColumnType::Timestamptz, &self.to_sql());
    }
}

/// `unscaled` / 10^`scale`, for a numeric column of that scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    /// The value without its point.
    pub unscaled: i64,
    /// Number of digits after the point.
    pub scale: u8,
}

impl Field for Decimal {
    /// PostgreSQL's numeric: digits of base 10,000 around the point, without
    /// leading or trailing zeros, and the display scale.
    fn write(&self, cell: &mut Cell<'_>) {
        let ColumnType::Numeric { precision, scale } = cell.column.kind else {
            panic!("column {} is {:?}", cell.column.name, cell.column.kind);
        };
        assert_eq!(scale, self.scale, "scale of column {}", cell.column.name);
        if self.unscaled.unsigned_abs() >= 10_u64.pow(u32::from(precision)) {
            let detail = "more digits than the column has";
            cell.defect = Some(Reject::field(Reason::InvalidField, &cell.column.field, detail));
        }
        // Whole groups of four digits after the point.
        let groups_behind = scale.div_ceil(4);
        let padding = u32::from(groups_behind * 4 - scale);
        let mut rest = u128::from(self.unscaled.unsigned_abs()) * 10_u128.pow(padding);
        // From the lowest group to the highest.
        let mut groups = [0_i16; 10];
        let mut count = 0_u8;
        while rest > 0 {
            groups[usize::from(count)] = i16::try_from(rest % 10_000).unwrap_or_default();
            rest /= 10_000;
            count += 1;
        }
        let mut zeros = 0_u8;
        while zeros < count && groups[usize::from(zeros)] == 0 {
            zeros += 1;
        }
        let digits = &groups[usize::from(zeros)..usize::from(count)];
        let weight = if count == 0 { 0 } else { i16::from(count) - i16::from(groups_behind) - 1 };
        let sign: u16 = if self.unscaled < 0 { 0x4000 } else { 0 };
        let mut bytes = [0_u8; 28];
        bytes[0..2].copy_from_slice(&u16::from(count - zeros).to_be_bytes());
        bytes[2..4].copy_from_slice(&weight.to_be_bytes());
        bytes[4..6].copy_from_slice(&sign.to_be_bytes());
        bytes[6..8].copy_from_slice(&u16::from(scale).to_be_bytes());
        for (place, group) in bytes[8..].chunks_exact_mut(2).zip(digits.iter().rev()) {
            place.copy_from_slice(&group.to_be_bytes());
        }
        cell.bytes(true, &bytes[..8 + digits.len() * 2]);
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "a test of small numbers"
    )]

    use proptest::prelude::*;

    use super::*;

    /// One numeric column of 18 digits, for each scale.
    fn table(scale: u8) -> Table {
        let kind = ColumnType::Numeric { precision: 18, scale };
        Table::new("numbers").column(Column::new("value", kind).nullable())
    }

    fn encoded(unscaled: i64, scale: u8) -> Result<Vec<u8>, Reject> {
        let mut out = Vec::new();
        let table = table(scale);
        let mut row = RowWriter::new(&table, &mut out);
        row.put(Decimal { unscaled, scale });
        let row = row.finish()?;
        Ok(out[row.content].to_vec())
    }

    /// Encodes like PostgreSQL's `numeric_send`, from the decimal text: groups of four
    /// digits on both sides of the point, zero groups stripped at both ends.
    fn reference(unscaled: i64, scale: u8) -> Vec<u8> {
        let scale = usize::from(scale);
        let digits = format!("{:0>1$}", unscaled.unsigned_abs(), scale + 1);
        let (whole, behind) = digits.split_at(digits.len() - scale);
        let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
        let behind = format!("{behind}{}", "0".repeat((4 - behind.len() % 4) % 4));
        let all = format!("{whole}{behind}");
        let mut groups: Vec<i16> =
            (0..all.len()).step_by(4).map(|at| all[at..at + 4].parse().unwrap()).collect();
        let mut weight = whole.len() as i16 / 4 - 1;
        while groups.first() == Some(&0) {
            groups.remove(0);
            weight -= 1;
        }
        while groups.last() == Some(&0) {
            groups.pop();
        }
        if groups.is_empty() {
            weight = 0;
        }
        let mut bytes = (8 + 2 * groups.len() as i32).to_be_bytes().to_vec();
        bytes.extend((groups.len() as i16).to_be_bytes());
        bytes.extend(weight.to_be_bytes());
        bytes.extend(if unscaled < 0 { [0x40, 0] } else { [0, 0] });
        bytes.extend((scale as i16).to_be_bytes());
        bytes.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
        bytes
    }

    const END: i64 = 1_000_000_000_000_000_000;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn numerics_are_as_postgresql_sends_them(
            value in 1 - END..END, cut in 0..18_u32, zeros in 0..18_u32, scale in 0..=18_u8,
        ) {
            // Small and round values as often as long ones.
            let value = value / 10_i64.pow(cut);
            let value = value / 10_i64.pow(zeros) * 10_i64.pow(zeros);
            prop_assert_eq!(encoded(value, scale).unwrap(), reference(value, scale));
        }
    }

    #[test]
    fn numerics_at_the_edges_are_exact_or_rejected() {
        for scale in 0..=18 {
            for value in [0, 1, -1, 9_999, 10_000, -10_000, END - 1, 1 - END] {
                assert_eq!(encoded(value, scale).unwrap(), reference(value, scale));
            }
            for value in [END, -END, i64::MAX, i64::MIN] {
                assert_eq!(encoded(value, scale).unwrap_err().reason, Reason::InvalidField);
            }
        }
    }

    #[test]
    fn a_rejected_row_leaves_the_buffer_as_it_was() {
        let table = Table::new("notes")
            .column(Column::new("note", ColumnType::Text))
            .column(Column::new("n", ColumnType::Int8));
        let mut out = b"before".to_vec();
        let mut row = RowWriter::new(&table, &mut out);
        row.put("a\0b").put(None::<i64>);
        assert_eq!(row.finish().unwrap_err().reason, Reason::NulCharacter);
        let mut row = RowWriter::new(&table, &mut out);
        row.put("a").put(None::<i64>);
        assert_eq!(row.finish().unwrap_err().reason, Reason::MissingField);
        assert_eq!(out, b"before");
        let mut row = RowWriter::new(&table, &mut out);
        row.put("a").put(7_i64);
        let row = row.finish().unwrap();
        assert_eq!(&out[row.key], b"a");
        assert_eq!(row.content, 6..out.len());
    }
}
