//! A column: its name, the field it is read from, and its type.

use crate::record::table::quoted;
use crate::record::{ColumnType, Field, Rule};

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
    /// Rules that every value satisfies, or its record is rejected.
    pub rules: Vec<Rule>,
}

impl Column {
    /// A required column whose field has the same name.
    pub fn new(name: &str, kind: ColumnType) -> Self {
        Self {
            name: name.to_owned(),
            field: name.to_owned(),
            kind,
            nullable: false,
            rules: Vec::new(),
        }
    }

    /// The column that holds a Rust type.
    pub fn of<T: Field>(name: &str) -> Self {
        Self { nullable: T::NULLABLE, ..Self::new(name, T::column_type()) }
    }

    /// The same column as `numeric(precision, scale)`, or with such elements.
    #[must_use]
    pub fn numeric(self, precision: u8, scale: u8) -> Self {
        self.with_element(|_| ColumnType::Numeric { precision, scale })
    }

    /// The same column as `varchar(length)`, or with such elements.
    #[must_use]
    pub fn varchar(self, length: u32) -> Self {
        self.with_element(|_| ColumnType::Varchar { length })
    }

    /// The same column with this number of digits in a second's fraction.
    #[must_use]
    pub fn precision(self, precision: u8) -> Self {
        self.with_element(|kind| match kind {
            ColumnType::Time { .. } => ColumnType::Time { precision },
            ColumnType::Timestamp { .. } => ColumnType::Timestamp { precision },
            ColumnType::Timestamptz { .. } => ColumnType::Timestamptz { precision },
            other => other,
        })
    }

    /// The same column of an enum type (see [`ColumnType::enumeration`]).
    #[must_use]
    pub fn enumeration(self, name: &str) -> Self {
        self.with_element(|_| ColumnType::enumeration(name))
    }

    /// The same column with one rule more.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Changes the type, or that of the elements.
    fn with_element(self, change: impl FnOnce(ColumnType) -> ColumnType) -> Self {
        let kind = match self.kind {
            ColumnType::Array(element) => change(*element).array(),
            kind => change(kind),
        };
        Self { kind, ..self }
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
