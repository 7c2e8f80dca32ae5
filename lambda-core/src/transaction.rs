//! The platform's own record: a financial transaction.

pub mod amount;
pub mod time;

use serde::Deserialize;

use crate::dead_letter::{Reason, Reject};
use crate::record::{Column, ColumnType, Record, RowWriter, Table};
use amount::Amount;
use time::Timestamp;

const fn text(name: &'static str) -> Column {
    Column::new(name, ColumnType::Text)
}

/// A financial transaction.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Transaction {
    /// Opaque id, 1 to 64 bytes.
    pub transaction_id: String,
}

impl Record for Transaction {
    const TABLE: Table = Table {
        name: "transactions",
        key: 0,
        columns: &[
            text("transaction_id"),
            text("account_id"),
            text("transaction_type"),
            Column::new("amount", ColumnType::Numeric { precision: 10, scale: 2 }),
            Column::new("event_time", ColumnType::Timestamptz).from_field("timestamp"),
            text("merchant_category").nullable(),
            text("location").nullable(),
            Column::new("card_present", ColumnType::Bool).nullable(),
            Column::new("risk_score", ColumnType::Numeric { precision: 4, scale: 2 }).nullable(),
        ],
    };

    fn write(&self, row: &mut RowWriter<'_>) {
        row.put(&self.transaction_id);
    }
}
