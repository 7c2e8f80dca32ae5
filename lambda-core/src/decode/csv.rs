//! Rows of CSV files.

use serde::de::DeserializeOwned;

use crate::dead_letter::{Reason, Reject};
use crate::record::Table;

/// The fields of one row, in the order of the table's columns.
#[derive(Debug)]
pub struct CsvFields<'a> {
    table: &'a Table,
    record: &'a csv::ByteRecord,
    /// For each of the table's columns, where its field is in `record`.
    columns: &'a [usize],
}

impl CsvFields<'_> {
    /// The field of the table's column `index`; an empty one is null.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.record.get(self.columns[index]).filter(|field| !field.is_empty())
    }
}

/// Decodes by serde.
pub fn by_serde<R: DeserializeOwned>(fields: &CsvFields<'_>) -> Result<R, Reject> {
    let _ = (fields.table, fields.record);
    Err(Reject::new(Reason::InvalidField, "not written yet"))
}
