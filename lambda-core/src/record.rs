//! A table and its rows. A record travels as the encoded bytes of its columns: nothing after the
//! decoder (batches, outcome, sinks) knows another type of it.

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

pub use lambda_core_derive::Field;

pub use self::column::{Column, Origin, Rounding};
pub use self::column_type::ColumnType;
pub use self::family::Family;
pub use self::row::{Row, RowRef, RowWriter, Scratch};
pub use self::rules::Rule;
pub use self::table::Table;
pub use self::value::{
    Cell, CellRef, CivilMicros, DayMicros, Decimal, DecimalError, Field, Jsonb, JsonbError, Label,
    TimeError, UnixDays, UnixMicros, Value,
};
