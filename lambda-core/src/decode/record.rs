//! The typed edge: a Rust struct for the rows of a table.

use super::{Csv, Decode, Json};
use crate::dead_letter::Reject;
use crate::record::{RowRef, RowWriter, Table};

pub use lambda_core_derive::Record;

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

    /// The decoder of its messages, unless the pipeline says otherwise.
    fn messages() -> Box<dyn Decode> {
        Box::new(Json::new())
    }

    /// The format of its files, unless the pipeline says otherwise.
    fn files() -> Csv {
        Csv::new()
    }
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
#[cfg(doctest)]
struct NoRecords;
