//! Records of a pipeline: a [`Record`] is decoded from a message or a file's row, and
//! written as the columns of one table. From then on it travels as encoded bytes: nothing
//! after the decoder (batches, outcome, sinks) knows its type.

pub mod checksum;
pub mod column;
pub(crate) mod key;
pub mod row;
pub mod table;

pub use self::column::{Column, ColumnType};
pub use self::row::{Field, Row, RowWriter, Scratch};
pub use self::table::Table;

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
