//! A column: its name, the field it is read from, and its type.

use crate::record::ColumnType;
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
