//! A table as the protocol sees it: a name, a key, and typed columns.

use std::fmt;

use crate::record::{Column, ColumnType};

/// A table for records.
///
/// In addition to these columns, every such table has the evidence columns
/// `lane, position, checksum, written_xid, job_id, ingestion_type`.
///
/// ```
/// use lambda_core::record::{Column, ColumnType, Table};
///
/// let table = Table::new("ops.readings")
///     .column(Column::new("id", ColumnType::Text))
///     .column(Column::new("note", ColumnType::Text).nullable())
///     .key(["id"]);
/// assert_eq!(table.to_string(), "ops.readings");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    schema: String,
    name: String,
    columns: Vec<Column>,
    key: Vec<usize>,
}

impl Table {
    /// A table without columns; `name` may begin with the schema and a point. Without one the
    /// table is in `public`.
    pub fn new(name: &str) -> Self {
        let (schema, name) = name.split_once('.').unwrap_or(("public", name));
        Self { schema: schema.to_owned(), name: name.to_owned(), columns: Vec::new(), key: vec![0] }
    }

    /// A table in this schema, whatever its name holds.
    pub fn in_schema(schema: &str, name: &str) -> Self {
        Self { schema: schema.to_owned(), name: name.to_owned(), ..Self::new("") }
    }

    /// Adds the next column.
    #[must_use]
    pub fn column(mut self, column: Column) -> Self {
        self.columns.push(column);
        self
    }

    /// Makes columns the key, in this order. The table has a unique index on exactly these.
    /// Without a call the first column is the key.
    ///
    /// ```
    /// use lambda_core::record::{Column, ColumnType, Table};
    ///
    /// let table = Table::new("ops.flights")
    ///     .column(Column::new("flight_id", ColumnType::Text))
    ///     .column(Column::new("day", ColumnType::Date))
    ///     .key(["day", "flight_id"]);
    /// assert_eq!(table.key_names(), ["day", "flight_id"]);
    /// ```
    #[must_use]
    pub fn key<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        let position = |name| self.columns.iter().position(|column| column.name == name);
        // `Pipeline::new` refuses a name that no column has.
        self.key = names.into_iter().map(|name| position(name).unwrap_or(usize::MAX)).collect();
        self
    }

    /// The column of this name, to change it.
    #[cfg(feature = "config")]
    pub(crate) fn column_mut(&mut self, name: &str) -> Option<&mut Column> {
        self.columns.iter_mut().find(|column| column.name == name)
    }

    /// Whether it has a column of this name.
    #[cfg(feature = "postgres")]
    pub(crate) fn has_column(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    /// Changes each column.
    pub(crate) fn try_map_columns<E>(
        &mut self,
        change: impl FnMut(&mut Column) -> Result<(), E>,
    ) -> Result<(), E> {
        self.columns.iter_mut().try_for_each(change)
    }

    /// Its schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Its name in the schema.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The record's own columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Indices of the key's columns, in the order of the key.
    pub fn key_indexes(&self) -> &[usize] {
        &self.key
    }

    /// The key's columns, in its order.
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().filter_map(|index| self.columns.get(*index))
    }

    /// The names of the key's columns, in its order.
    pub fn key_names(&self) -> Vec<&str> {
        self.key_columns().map(|column| &*column.name).collect()
    }

    /// The table as SQL names it.
    pub fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

impl fmt::Display for Table {
    /// Writes the name as the server's type `regclass` reads it: with quotes only where they are
    /// needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &str| if is_plain(name) { name.to_owned() } else { quoted(name) };
        write!(f, "{}.{}", name(&self.schema), name(&self.name))
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.bytes().all(plain) && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// The columns that store where a row came from, in the order in which they are written. Lane
/// and position come first, behind the record's columns, so that the content hash covers
/// contiguous bytes.
pub(crate) fn evidence() -> [Column; 6] {
    [
        Column::new("lane", ColumnType::Int4),
        Column::new("position", ColumnType::Int8),
        Column::new("checksum", ColumnType::Int8),
        Column::new("written_xid", ColumnType::Int8),
        Column::new("job_id", ColumnType::Text).nullable(),
        Column::new("ingestion_type", ColumnType::Text),
    ]
}

/// A name as SQL's identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
