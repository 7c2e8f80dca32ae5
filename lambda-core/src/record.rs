//! Records of a pipeline: a [`Record`] is decoded from a message or a file's row, and
//! written as the columns of one table. From then on it travels as encoded bytes: nothing
//! after the decoder (batches, outcome, sinks) knows its type.

pub(crate) mod canonical;
pub mod checksum;
pub mod column;
pub mod column_type;
pub(crate) mod key;
pub mod row;
pub mod table;
pub mod value;

pub use self::column::Column;
pub use self::column_type::ColumnType;
pub use self::row::{Row, RowRef, RowWriter, Scratch};
pub use self::table::Table;
pub use self::value::{
    Cell, CellRef, CivilMicros, DayMicros, Decimal, Element, Field, Jsonb, JsonbError, UnixDays,
    UnixMicros, Value,
};

/// One kind of record: its table, and the mapping of its fields to columns.
///
/// Two records are equal when [`Record::write`] makes the same bytes of them: normalise
/// (round, trim, convert to UTC) before writing.
pub trait Record: Send + Sync + 'static {
    /// The table and its columns, in the order of `write`.
    fn table() -> Table;

    /// Puts every column of [`Record::table`] into `row`, in order.
    fn write(&self, row: &mut RowWriter<'_>);
}
