//! A batch that the database refuses, taken apart until the bad records stand
//! alone (R11).

use std::collections::VecDeque;

use crate::batch::Batch;
use crate::dead_letter::{Reason, Reject};
use crate::error::Error;

/// How many of the last records are looked at to tell a few bad records from a
/// table that takes none.
const WINDOW: u64 = 1_000;

/// What becomes of a batch that was refused.
#[derive(Debug)]
pub enum Parts {
    /// Commit these in order, each in a transaction of its own.
    Halves(Box<(Batch, Batch)>),
    /// It was one record, now a dead letter.
    Rejected(Box<Batch>),
    /// It has no row that could be the reason.
    Nothing,
}

/// Takes a refused batch apart.
pub fn take_apart(batch: Batch, code: &str, object: &str) -> Parts {
    if let Some(halves) = batch.halves() {
        return Parts::Halves(Box::new(halves));
    }
    if batch.rows_count() == 0 {
        return Parts::Nothing;
    }
    Parts::Rejected(Box::new(batch.rejecting(0, refusal(code, object))))
}

/// Why a record is rejected that the database refuses alone.
pub(crate) fn refusal(code: &str, object: &str) -> Reject {
    let place = if object.is_empty() { String::new() } else { format!(" at {object}") };
    Reject::new(Reason::Refused, format!("the database refuses the row: {code}{place}"))
}

/// Counts refusals among the last records: a topic is not moved into the dead
/// letters because the table was changed.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Runs of (records, whether they were refused), the latest at the back.
    runs: VecDeque<(u64, bool)>,
    records: u64,
    refused: u64,
}

impl Refusals {
    /// Notes that `records` more were stored or refused.
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
    /// [`Error::Misconfigured`] if so, naming what the database objects to.
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
             then start again; nothing was lost, the rest is still to be read",
        ))
    }
}
