//! The platform's own record: a financial transaction.

pub mod amount;
mod draft;
pub mod id;
pub mod kind;
pub mod risk;
#[cfg(feature = "postgres")]
pub mod schema;
pub mod synthetic;
pub mod time;
mod wire;

pub use self::amount::Amount;
pub use self::id::{AccountId, TransactionId};
pub use self::kind::TransactionType;
pub use self::risk::RiskScore;
pub use self::time::Timestamp;
pub use self::wire::CSV_HEADER;

use self::draft::{Checked, Draft};
use crate::dead_letter::{Reason, Reject};
use crate::decode::csv::{Csv, CsvFields};
use crate::decode::json::Json;
use crate::pipeline::Pipeline;
use crate::record::{Column, ColumnType, Decimal, Record, RowRef, RowWriter, Table, UnixMicros};

/// The platform's pipeline `transactions`: JSON messages and CSV files into
/// `public.transactions`.
///
/// # Panics
/// Never: its table fits.
#[expect(clippy::expect_used, reason = "its table is the one below")]
pub fn pipeline() -> Pipeline {
    let json = |json: &str, row: &mut RowWriter<'_>| {
        Draft::of_json(json)?.check()?.write(row);
        Ok(())
    };
    let csv = |fields: &CsvFields<'_>, row: &mut RowWriter<'_>| {
        Draft::of_csv(fields).check()?.write(row);
        Ok(())
    };
    Pipeline::builder("transactions", Transaction::table(), Json::by(json), Csv::by(csv))
        .build()
        .expect("a table that fits")
}

/// A value is not of the expected form; the text describes that form, never the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct Expected(pub(crate) &'static str);

/// A financial transaction.
///
/// It serialises to, and deserialises from, the JSON object of the topic, by `serde_json`
/// only: its numbers are exact decimals, which other formats lack. An empty text counts as
/// null, since CSV cannot distinguish them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its id, unique for all time.
    pub transaction_id: TransactionId,
    /// The account that it moves; also the message's key.
    pub account_id: AccountId,
    /// Its type.
    pub transaction_type: TransactionType,
    /// Its amount, in cents.
    pub amount: Amount,
    /// The time at which it took place.
    pub timestamp: Timestamp,
    /// The merchant's line of business, an open set.
    pub merchant_category: Option<String>,
    /// The place at which it took place.
    pub location: Option<String>,
    /// Whether the card was present.
    pub card_present: Option<bool>,
    /// Its risk, from 0 to 1.
    pub risk_score: Option<RiskScore>,
}

impl Record for Transaction {
    fn table() -> Table {
        let text = |name| Column::new(name, ColumnType::Text);
        let numeric =
            |name, precision| Column::new(name, ColumnType::Numeric { precision, scale: 2 });
        Table::new("transactions")
            .column(text("transaction_id"))
            .column(text("account_id"))
            .column(text("transaction_type"))
            .column(numeric("amount", 10))
            .column(Column::new("event_time", ColumnType::TIMESTAMPTZ).from_field("timestamp"))
            .column(text("merchant_category").nullable())
            .column(text("location").nullable())
            .column(Column::new("card_present", ColumnType::Bool).nullable())
            .column(numeric("risk_score", 4).nullable())
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        Checked::of(self).write(row);
    }

    fn read(mut row: RowRef<'_>) -> Result<Self, Reject> {
        let text = |row: &mut RowRef<'_>| row.take::<String>();
        let amount = |row: &mut RowRef<'_>| row.take::<Decimal>();
        let field = |name| move |Expected(what)| Reject::field(Reason::InvalidField, name, what);
        Ok(Self {
            transaction_id: TransactionId::parse(&text(&mut row)?)
                .map_err(field("transaction_id"))?,
            account_id: AccountId::parse(&text(&mut row)?).map_err(field("account_id"))?,
            transaction_type: TransactionType::parse(&text(&mut row)?)
                .map_err(field("transaction_type"))?,
            amount: Amount::from_cents(
                i64::try_from(amount(&mut row)?.unscaled).unwrap_or(i64::MAX),
            )
            .map_err(field("amount"))?,
            timestamp: Timestamp::from_unix_micros(row.take::<UnixMicros>()?.0)
                .map_err(field("timestamp"))?,
            merchant_category: row.take()?,
            location: row.take()?,
            card_present: row.take()?,
            risk_score: row
                .take::<Option<Decimal>>()?
                .map(|score| {
                    RiskScore::from_hundredths(u8::try_from(score.unscaled).unwrap_or(u8::MAX))
                })
                .transpose()
                .map_err(field("risk_score"))?,
        })
    }
}
