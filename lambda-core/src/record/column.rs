//! A column: its name, the field it is read from, and its type.

use std::fmt;

use crate::record::table::quoted;

/// A column of a [`Table`](crate::record::Table).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The name in the table.
    pub name: String,
    /// The name in messages and file headers.
    pub field: String,
    /// The type in PostgreSQL.
    pub kind: ColumnType,
    /// Whether the value may be null.
    pub nullable: bool,
}

impl Column {
    /// A required column whose field has the same name.
    pub fn new(name: &str, kind: ColumnType) -> Self {
        Self { name: name.to_owned(), field: name.to_owned(), kind, nullable: false }
    }

    /// The same column, read from a field of another name.
    #[must_use]
    pub fn from_field(self, field: &str) -> Self {
        Self { field: field.to_owned(), ..self }
    }

    /// The same column, allowed to be null.
    #[must_use]
    pub fn nullable(self) -> Self {
        Self { nullable: true, ..self }
    }

    /// The column as SQL names it.
    pub fn sql(&self) -> String {
        quoted(&self.name)
    }
}

/// The column types a record can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ColumnType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `text`
    Text,
    /// `date`
    Date,
    /// `timestamp with time zone`, microseconds
    Timestamptz,
    /// `uuid`
    Uuid,
    /// `numeric(precision, scale)`
    Numeric {
        /// Number of digits, at most 18.
        precision: u8,
        /// Number of digits after the point, at most `precision`.
        scale: u8,
    },
}

impl ColumnType {
    /// The type's name in SQL, without modifiers.
    pub const fn sql(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Int2 => "smallint",
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
            Self::Text => "text",
            Self::Date => "date",
            Self::Timestamptz => "timestamptz",
            Self::Uuid => "uuid",
            Self::Numeric { .. } => "numeric",
        }
    }
}

impl fmt::Display for ColumnType {
    /// The type as SQL writes it, with modifiers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numeric { precision, scale } => write!(f, "numeric({precision},{scale})"),
            Self::Timestamptz => f.write_str("timestamp with time zone"),
            other => f.write_str(other.sql()),
        }
    }
}
