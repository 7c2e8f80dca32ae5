//! Counts of outcomes in SQL.

use std::iter;

use tokio_postgres::{Error, Row};

use crate::outcome::Outcome;
use crate::progress::Counts;

/// The columns of counts: `read`, and one for each outcome.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    iter::once("read").chain(Outcome::ALL.map(Outcome::as_str))
}

/// A list of all columns, each in this form.
pub(super) fn list(form: impl Fn(&str) -> String) -> String {
    names().map(form).collect::<Vec<_>>().join(", ")
}

/// The parameters from `$first` on: one array of numbers for each of so many columns.
pub(super) fn arrays(first: usize, columns: usize) -> String {
    let array = |number| format!("${number}::int8[]");
    (first..first + columns).map(array).collect::<Vec<_>>().join(", ")
}

/// Reads the counts in the columns with this prefix.
pub(super) fn of_row(row: &Row, prefix: &str) -> Result<Counts, Error> {
    let count = |name: &str| row.try_get(&*format!("{prefix}{name}"));
    let mut counts = Counts::default();
    counts.read = count("read")?;
    for outcome in Outcome::ALL {
        counts[outcome] = count(outcome.as_str())?;
    }
    Ok(counts)
}
