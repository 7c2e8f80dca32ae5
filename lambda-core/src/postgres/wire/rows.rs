//! Rows as one array for each column, for statements that unnest them.

use tokio_postgres::types::ToSql;

use crate::postgres::wire::literal;
use crate::postgres::wire::raw::{RawArray, fields, put_field};
use crate::progress::LaneId;
use crate::record::checksum::{Checksum, ContentHash};
use crate::record::{ColumnType, Table};

/// Rows and the first part of their evidence: the parameters for given rows in
/// [`crate::postgres::commit::statements`].
#[derive(Debug)]
pub(crate) struct Rows<'t> {
    table: &'t Table,
    columns: Vec<RawArray>,
    lanes: Vec<i32>,
    positions: Vec<i64>,
    checksums: Vec<i64>,
}

impl<'t> Rows<'t> {
    /// Creates an empty set of rows of `table`.
    pub(crate) fn new(table: &'t Table) -> Self {
        let columns = table.columns().iter().map(|_| RawArray::default()).collect();
        Self { table, columns, lanes: Vec::new(), positions: Vec::new(), checksums: Vec::new() }
    }

    /// Appends a row's `content`, read at `position` of `lane`, inserted by `written_xid` and
    /// owned by the job. Returns its hash and its checksum.
    pub(crate) fn push(
        &mut self,
        content: &[u8],
        (lane, position): (LaneId, i64),
        written_xid: i64,
        job_id: Option<&str>,
    ) -> (ContentHash, Checksum) {
        let columns = self.columns.iter_mut().zip(self.table.columns());
        for ((given, column), field) in columns.zip(fields(content)) {
            match (&column.kind, field.get(4..)) {
                // Arrays are given as texts; the server refuses an empty one.
                (ColumnType::Array(element), Some(array)) if !array.is_empty() => {
                    let literal = literal::of_array(element, array).unwrap_or_default();
                    let mut field = Vec::with_capacity(literal.len() + 4);
                    put_field(&mut field, Some(literal.as_bytes()));
                    given.push_field(&field);
                }
                _ => given.push_field(field),
            }
        }
        let hash = ContentHash::of(content, lane, position);
        let checksum = hash.checksum(written_xid, job_id);
        self.lanes.push(lane.0);
        self.positions.push(position);
        self.checksums.push(checksum.0);
        (hash, checksum)
    }

    /// The arrays in the order of the statement, and further parameters.
    pub(crate) fn parameters<'a>(
        &'a self,
        others: &[&'a (dyn ToSql + Sync)],
    ) -> Vec<&'a (dyn ToSql + Sync)> {
        let mut all: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(self.columns.len() + 6);
        all.extend(self.columns.iter().map(|column| column as &(dyn ToSql + Sync)));
        all.extend([&self.lanes as &(dyn ToSql + Sync), &self.positions, &self.checksums]);
        all.extend(others);
        all
    }
}

/// The keys of rows as one array for each column of the key.
#[derive(Debug)]
pub(crate) struct KeyColumns {
    indexes: Vec<usize>,
    columns: Vec<RawArray>,
}

impl KeyColumns {
    /// Creates an empty set of keys of `table`.
    pub(crate) fn new(table: &Table) -> Self {
        let indexes = table.key_indexes().to_vec();
        Self { columns: indexes.iter().map(|_| RawArray::default()).collect(), indexes }
    }

    /// Appends the key of the row with this content.
    pub(crate) fn push(&mut self, content: &[u8]) {
        for (index, column) in self.indexes.iter().zip(&mut self.columns) {
            if let Some(field) = fields(content).nth(*index) {
                column.push_field(field);
            }
        }
    }

    /// The arrays in the order of the key, and further parameters.
    pub(crate) fn parameters<'a>(
        &'a self,
        others: &[&'a (dyn ToSql + Sync)],
    ) -> Vec<&'a (dyn ToSql + Sync)> {
        let columns = self.columns.iter().map(|column| column as &(dyn ToSql + Sync));
        columns.chain(others.iter().copied()).collect()
    }
}
