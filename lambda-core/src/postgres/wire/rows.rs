//! Rows as one array for each column, for statements that unnest them.

use tokio_postgres::types::ToSql;

use crate::postgres::wire::raw::{RawArray, fields};
use crate::progress::LaneId;
use crate::record::Table;
use crate::record::checksum::{Checksum, ContentHash};

/// Rows and the first part of their evidence: the parameters for given rows in
/// [`crate::postgres::commit::statements`].
#[derive(Debug)]
pub(crate) struct Rows {
    columns: Vec<RawArray>,
    lanes: Vec<i32>,
    positions: Vec<i64>,
    checksums: Vec<i64>,
}

impl Rows {
    /// Creates an empty set of rows of `table`.
    pub(crate) fn new(table: &Table) -> Self {
        let columns = table.columns().iter().map(|_| RawArray::default()).collect();
        Self { columns, lanes: Vec::new(), positions: Vec::new(), checksums: Vec::new() }
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
        for (column, field) in self.columns.iter_mut().zip(fields(content)) {
            column.push_field(field);
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
