//! A table as the protocol sees it: a name, the key, and typed columns.

use std::fmt;

/// A table for records. Its name is the pipeline's name.
///
/// In addition to these columns, every such table has the evidence columns
/// `job_id, ingestion_type, lane, position, checksum, written_xid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// The table's name, an identifier that needs no quoting.
    pub name: &'static str,
    /// Index in `columns` of the key: a unique text column, `collate "C"`.
    pub key: usize,
    /// The record's own columns.
    pub columns: &'static [Column],
}

impl Table {
    /// The table as SQL names it, with its schema.
    pub fn qualified(&self) -> String {
        format!("public.{}", self.name)
    }

    /// The key's column.
    pub const fn key_column(&self) -> &'static Column {
        &self.columns[self.key]
    }
}

/// A column of a [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The name in the table, an identifier that needs no quoting.
    pub name: &'static str,
    /// The name in messages and file headers.
    pub field: &'static str,
    /// The type in PostgreSQL.
    pub kind: ColumnType,
    /// Whether the value may be null.
    pub nullable: bool,
}

impl Column {
    /// A required column whose field has the same name.
    pub const fn new(name: &'static str, kind: ColumnType) -> Self {
        Self { name, field: name, kind, nullable: false }
    }

    /// The same column, read from a field of another name.
    #[must_use]
    pub const fn from_field(self, field: &'static str) -> Self {
        Self { field, ..self }
    }

    /// The same column, allowed to be null.
    #[must_use]
    pub const fn nullable(self) -> Self {
        Self { nullable: true, ..self }
    }
}

/// The column types a record can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ColumnType {
    /// `boolean`
    Bool,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `text`
    Text,
    /// `timestamp with time zone`, microseconds
    Timestamptz,
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
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
            Self::Text => "text",
            Self::Timestamptz => "timestamptz",
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
