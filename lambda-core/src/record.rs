//! Records of a pipeline: a [`Record`] is decoded from a message or a file's row, and
//! written as the columns of one table. From then on it travels as encoded bytes.
//! Everything after the decoder (batches, outcome, sinks) is the same for every record
//! type.

pub mod checksum;
pub mod column;
pub mod row;

use serde::de::DeserializeOwned;

pub use self::column::{Column, ColumnType, Table};
pub use self::row::{Field, Row, RowWriter};
use crate::dead_letter::Reject;
use crate::decode;
use crate::decode::csv::CsvFields;

/// One kind of record: its table, and the mapping of its fields to columns.
///
/// A type that derives [`serde::Deserialize`] needs only [`Record::TABLE`] and
/// [`Record::write`]; both decoders default to serde. A type that must be fast overrides
/// them and writes the row from borrowed fields.
///
/// Two records are equal when [`Record::write`] makes the same bytes of them: normalise
/// (round, trim, convert to UTC) before writing.
pub trait Record: DeserializeOwned + Send + Sync + 'static {
    /// The table and its columns, in the order of `write`.
    const TABLE: Table;

    /// Puts every column of [`Record::TABLE`] into `row`, in order.
    fn write(&self, row: &mut RowWriter<'_>);

    /// Decodes one JSON object into `row`.
    ///
    /// # Errors
    /// A [`Reject`] with the reason; `row` is then discarded.
    fn decode_json(json: &str, row: &mut RowWriter<'_>) -> Result<(), Reject> {
        decode::json::by_serde::<Self>(json)?.write(row);
        Ok(())
    }

    /// Decodes one row of a CSV file, its fields in the order of
    /// [`Record::TABLE`], into `row`.
    ///
    /// # Errors
    /// A [`Reject`] with the reason; `row` is then discarded.
    fn decode_csv(fields: &CsvFields<'_>, row: &mut RowWriter<'_>) -> Result<(), Reject> {
        decode::csv::by_serde::<Self>(fields)?.write(row);
        Ok(())
    }
}
