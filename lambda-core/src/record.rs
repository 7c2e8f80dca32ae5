//! Records of a pipeline: a [`Record`] is decoded from a message or a file's row, and
//! written as the columns of one table. From then on it travels as encoded bytes: nothing
//! after the decoder (batches, outcome, sinks) knows its type.

pub(crate) mod canonical;
pub mod checksum;
pub mod column;
pub mod column_type;
pub mod family;
pub(crate) mod key;
pub mod row;
pub mod rules;
pub mod table;
pub mod value;

use crate::dead_letter::Reject;

#[cfg(feature = "derive")]
pub use lambda_core_derive::{Field, Record};

pub use self::column::Column;
pub use self::column_type::ColumnType;
pub use self::family::Family;
pub use self::row::{Row, RowRef, RowWriter, Scratch};
pub use self::rules::Rule;
pub use self::table::Table;
pub use self::value::{
    Cell, CellRef, CivilMicros, DayMicros, Decimal, DecimalError, Field, Jsonb, JsonbError, Label,
    UnixDays, UnixMicros, Value,
};

/// One kind of record: its table, and the mapping of its fields to columns.
///
/// Two records are equal when [`Record::write`] makes the same bytes of them: normalise
/// (round, trim, convert to UTC) before writing.
///
/// The derive macro of the same name makes all three functions of a struct:
///
/// ```
/// use lambda_core::Record;
/// use lambda_core::record::{Decimal, UnixMicros};
///
/// #[derive(Record)]
/// #[record(table = "ops.readings", key(sensor, at))]
/// struct Reading {
///     #[record(length = 1..=20)]
///     sensor: String,
///     at: UnixMicros,
///     #[record(numeric(6, 2))]
///     celsius: Decimal,
///     note: Option<String>,
/// }
///
/// let table = Reading::table();
/// assert_eq!(table.to_string(), "ops.readings");
/// assert_eq!(table.key_names(), ["sensor", "at"]);
/// assert_eq!(table.columns()[2].kind.to_string(), "numeric(6,2)");
/// assert!(table.columns()[3].nullable);
/// ```
pub trait Record: Sized + Send + Sync + 'static {
    /// The table and its columns, in the order of `write`.
    fn table() -> Table;

    /// Puts every column of [`Record::table`] into `row`, in order.
    fn write(&self, row: &mut RowWriter<'_>);

    /// Reads the record of a row, column by column in the same order.
    ///
    /// # Errors
    /// A [`Reject`] that names the field, for a value that is none of the record's.
    fn read(row: RowRef<'_>) -> Result<Self, Reject>;
}

/// Records that do not compile.
///
/// A type that no column has:
/// ```compile_fail,E0277
/// # use lambda_core::Record;
/// #[derive(Record)]
/// #[record(table = "t", key(id))]
/// struct Wrong { id: String, place: std::path::PathBuf }
/// ```
/// A key that may be null, and one of a type that no key has:
/// ```compile_fail,E0080
/// # use lambda_core::Record;
/// #[derive(Record)]
/// #[record(table = "t", key(id))]
/// struct Wrong { id: Option<String> }
/// ```
/// ```compile_fail,E0080
/// # use lambda_core::Record;
/// #[derive(Record)]
/// #[record(table = "t", key(ratio))]
/// struct Wrong { ratio: f64 }
/// ```
/// Options that are not for the field's type:
/// ```compile_fail,E0080
/// # use lambda_core::Record;
/// #[derive(Record)]
/// #[record(table = "t", key(id))]
/// struct Wrong { #[record(length = 1..=2)] id: i64 }
/// ```
/// ```compile_fail,E0080
/// # use lambda_core::Record;
/// #[derive(Record)]
/// #[record(table = "t", key(id))]
/// struct Wrong { id: String, #[record(numeric(12, 4))] price: f64 }
/// ```
#[cfg(all(doctest, feature = "derive"))]
struct NoRecords;
