//! The platform's own record: a financial transaction.

#[cfg(feature = "postgres")]
pub mod schema;
pub mod synthetic;
mod wire;

pub use self::wire::CSV_HEADER;

use crate::decode::Record;
use crate::pipeline::Pipeline;
use crate::record::{Decimal, UnixMicros};

/// The platform's pipeline `transactions`: JSON messages and CSV files into
/// `public.transactions`.
///
/// # Panics
/// Never: its table fits.
#[expect(clippy::expect_used, reason = "its table is the one below")]
pub fn pipeline() -> Pipeline {
    Pipeline::of::<Transaction>("transactions").build().expect("a table that fits")
}

/// A financial transaction.
///
/// An empty text counts as null, since CSV cannot distinguish them.
///
/// ```
/// use lambda_core::{Record, Transaction};
///
/// assert_eq!(Transaction::table().key_names(), ["transaction_id"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Record)]
#[record(table = "transactions", key(transaction_id))]
pub struct Transaction {
    /// Its id, unique for all time.
    #[record(bytes = 1..=64, empty_is_null)]
    pub transaction_id: String,
    /// The account that it moves; also the message's key.
    #[record(bytes = 1..=64, empty_is_null)]
    pub account_id: String,
    /// Its type.
    #[record(one_of("purchase", "withdrawal", "transfer", "refund", "deposit"), empty_is_null)]
    pub transaction_type: String,
    /// Its amount, of either sign.
    #[record(numeric(10, 2), empty_is_null)]
    pub amount: Decimal,
    /// The time at which it took place.
    #[record(column = "event_time", path = "timestamp", empty_is_null)]
    pub timestamp: UnixMicros,
    /// The merchant's line of business, an open set.
    #[record(empty_is_null)]
    pub merchant_category: Option<String>,
    /// The place at which it took place.
    #[record(empty_is_null)]
    pub location: Option<String>,
    /// Whether the card was present.
    pub card_present: Option<bool>,
    /// Its risk, from 0 to 1.
    #[record(numeric(4, 2), between(0, 1), round = "half_away", empty_is_null)]
    pub risk_score: Option<Decimal>,
}
