//! Splits a batch that the database refuses until each bad record is alone (rule R11,
//! docs/protocol.md).

use std::collections::VecDeque;

use crate::batch::Batch;
use crate::dead_letter::{Reason, Reject};
use crate::error::Error;

/// Number of recent records that separates a few bad records from a table that refuses all.
const WINDOW: u64 = 1_000;

/// Result of splitting a refused batch.
#[derive(Debug)]
pub enum Parts {
    /// Two halves. Commit them in order, each in its own transaction.
    Halves(Box<(Batch, Batch)>),
    /// The batch was one record, which is now a dead letter.
    Rejected(Box<Batch>),
    /// The batch has no row that could be the reason.
    Nothing,
}

/// Splits a refused batch.
pub fn take_apart(batch: Batch, code: &str, object: &str) -> Parts {
    if let Some(halves) = batch.halves() {
        return Parts::Halves(Box::new(halves));
    }
    if batch.rows_count() == 0 {
        return Parts::Nothing;
    }
    Parts::Rejected(Box::new(batch.rejecting(0, refusal(code, object))))
}

/// The reject for a record that the database refuses alone.
pub(crate) fn refusal(code: &str, object: &str) -> Reject {
    // The server names the constraint of any other violated check.
    if code == "23514" && object.is_empty() {
        return Reject::new(Reason::NoPartition, "no partition of the table takes the row");
    }
    let place = if object.is_empty() { String::new() } else { format!(" at {object}") };
    Reject::new(Reason::Refused, format!("the database refused the row: {code}{place}"))
}

/// Counts refusals among the last records, so that a changed table does not move a whole
/// topic into the dead letters.
///
/// ```
/// use lambda_core::delivery::bisect::Refusals;
///
/// let mut refusals = Refusals::default();
/// refusals.note(999, false);
/// refusals.note(1, true);
/// assert!(refusals.check("23514", "readings_check").is_ok(), "one bad record");
/// refusals.note(1_000, true);
/// assert!(refusals.check("23514", "readings_check").is_err(), "the table refuses all");
/// ```
#[derive(Debug, Default)]
pub struct Refusals {
    /// Runs of (records, whether they were refused), the latest at the back.
    runs: VecDeque<(u64, bool)>,
    records: u64,
    refused: u64,
}

impl Refusals {
    /// Adds `records` more records, stored or refused.
    pub fn note(&mut self, records: u64, refused: bool) {
        if records == 0 {
            return;
        }
        self.runs.push_back((records, refused));
        self.records += records;
        if refused {
            self.refused += records;
        }
        while let Some((oldest, was_refused)) = self.runs.front().copied() {
            if self.records - oldest < WINDOW {
                break;
            }
            self.runs.pop_front();
            self.records -= oldest;
            if was_refused {
                self.refused -= oldest;
            }
        }
    }

    /// Whether more than half of the last 1,000 records were refused.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] if so, with the rule that the database names.
    pub fn check(&self, code: &str, object: &str) -> Result<(), Error> {
        if self.refused * 2 <= WINDOW {
            return Ok(());
        }
        Err(Error::misconfigured(
            format!(
                "the database refused {} of the last {} records: {code} {object}",
                self.refused, self.records
            ),
            "the table has a rule that these records break: change the rule or the source, \
             then start again; nothing was lost, the remaining records are still in the source",
        ))
    }
}
