//! Derive macros of `lambda-core`.
//!
//! Use them through `lambda-core`, which re-exports both: the code that they generate refers to
//! that crate as `::lambda_core`.

mod attributes;
mod column;
mod errors;
mod field;
mod literal;
mod options;
mod record;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `lambda_core::Record` for a struct with named fields.
///
/// Each field becomes a column, in the order of the struct. The field's type implements
/// `lambda_core::record::Field`, which chooses the column's type; `Option` makes it nullable.
///
/// ```text
/// #[derive(Record)]
/// #[record(table = "ops.flights", key(flight_id, day))]
/// struct Flight {
///     #[record(length = 1..=20)]
///     flight_id: String,
///     day: Date,
///     #[record(path = "times.departure", precision = 3)]
///     departs_at: Timestamp,
///     delay_minutes: Option<i16>,
///     #[record(numeric(12, 4), between(0, "99999.5"))]
///     fare: Decimal,
/// }
/// ```
///
/// # Options of the struct
///
/// `table` and `key` are required.
///
/// | Option | Meaning |
/// |---|---|
/// | `table = "ops.flights"` | Table, with its schema; without one, the schema is `public` |
/// | `key(flight_id, day)` | Columns of the key, in its order, as identifiers or strings |
/// | `serde` | Decodes messages and files by serde, not by the columns alone |
///
/// The key names columns: if a field has the option `column`, use that name.
///
/// # Options of a field
///
/// Separate several by commas, or write several attributes.
///
/// | Option | For | Meaning |
/// |---|---|---|
/// | `column = "name"` | any type | Name in the table; default: the field's name |
/// | `path = "times.departure"` | any type | Name or path in messages and files; default: the column's name |
/// | `numeric(12, 4)` | decimals | Precision (1 to 38) and scale (0 to the precision) |
/// | `varchar(20)` | text | Most characters of the column, 1 to 10485760 |
/// | `precision = 3` | time, timestamp, timestamptz | Digits of a second's fraction, 0 to 6 |
/// | `sql = "ops.cabin"` | text | Enum type of the database |
/// | `length = 1..=20` | text | Rule: number of characters |
/// | `bytes = 1..=64` | text | Rule: number of bytes |
/// | `one_of("a", "b")` | text | Rule: the values allowed |
/// | `between(0, "99.5")` | numbers | Rule: least and greatest value |
/// | `round = "half_away"` | decimals | Decimals that the column lacks are rounded, after `between` |
/// | `empty_is_null` | any type | An empty text is null |
/// | `default = "0"` | any type | Value of records that lack the field; a null stays null |
/// | `from = "key"` | any type | Read from the key; also `"header:NAME"`, `"message"`, `"timestamp"` |
///
/// `length` and `bytes` may leave out one end: `..=20`, `1..`. A record that breaks a rule is
/// rejected.
///
/// # Errors
///
/// Compiling fails for an unknown, repeated or malformed option, an empty range, two fields with
/// one column, a key that names no column or one column twice, a key column that is an `Option`
/// or of a type that cannot be a key, and an option that is not for the field's type.
#[proc_macro_derive(Record, attributes(record))]
pub fn derive_record(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    record::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Implements `lambda_core::record::Value` and `lambda_core::record::Field` for a struct with
/// one field.
///
/// Columns of the struct are those of its field: same type, same nullability, same values.
///
/// ```text
/// #[derive(Field)]
/// struct SensorId(Uuid);
/// ```
///
/// # Errors
///
/// Compiling fails for an enum, a union, a struct with another number of fields, and generic
/// parameters.
#[proc_macro_derive(Field)]
pub fn derive_field(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    field::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
