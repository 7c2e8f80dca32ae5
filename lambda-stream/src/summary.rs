//! Summary of a run, read from the database.

use std::fmt;
use std::time::Duration;

use lambda_core::progress::Counts;
use serde::Serialize;

/// Records of a topic that are stored, by all consumers together.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[must_use]
#[non_exhaustive]
pub struct Summary {
    /// `<cluster id>/<topic>`; empty if the topic was never seen.
    pub source: String,
    /// Outcomes of all its records so far, over all runs.
    pub counts: Counts,
    /// Records read during this run.
    pub read: i64,
    /// Duration, in seconds.
    pub seconds: f64,
    /// Records per second, from the start of the process.
    pub rows_per_second: f64,
}

impl Summary {
    pub(crate) fn new(source: String, before: Counts, counts: Counts, lasted: Duration) -> Self {
        let read = counts.read - before.read;
        let seconds = lasted.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
        let rows_per_second = if seconds > 0.0 { read as f64 / seconds } else { 0.0 };
        Self { source, counts, read, seconds, rows_per_second }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { read, .. } = self.counts;
        let [inserted, confirmed, corrected, superseded, duplicate, rejected, skipped] =
            self.counts.outcomes().map(|(_, count)| count);
        let source = if self.source.is_empty() { "(no topic)" } else { &self.source };
        writeln!(f, "{source}: {read} read in all")?;
        writeln!(f, "  inserted {inserted}, duplicate {duplicate}, rejected {rejected}")?;
        writeln!(f, "  confirmed {confirmed}, corrected {corrected}, superseded {superseded}")?;
        if skipped > 0 {
            writeln!(f, "  skipped {skipped}: none of this pipeline's records")?;
        }
        write!(
            f,
            "  {} read in {:.1} s: {:.0} rows/s",
            self.read, self.seconds, self.rows_per_second
        )
    }
}
