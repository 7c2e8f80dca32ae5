//! Selection of dead letters for a command.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use clap::error::ErrorKind;
use lambda_core::Error;
use lambda_core::dead_letter::Status;
use lambda_core::postgres::DeadLetters;
use lambda_core::postgres::dead_letters::Filter;

use crate::args::moment;
use crate::operate::jobs;

/// Heading of the options that select dead letters.
const WHICH: &str = "Which";

/// Options that select dead letters.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Rejected for this reason
    #[arg(help_heading = WHICH, long)]
    reason: Option<String>,
    /// Of this batch job
    #[arg(help_heading = WHICH, long, value_name = "BAT…", value_parser = jobs::number)]
    job: Option<i64>,
    /// Of this topic
    #[arg(help_heading = WHICH, long)]
    topic: Option<String>,
    /// Of this source: CLUSTER/TOPIC or a file's SHA-256
    #[arg(help_heading = WHICH, long)]
    source: Option<String>,
    /// Of this partition of a topic or chunk of a file
    #[arg(help_heading = WHICH, long, value_name = "N")]
    partition: Option<i32>,
    /// Rejected at this time or later
    #[arg(help_heading = WHICH, long, value_name = "TIME", value_parser = moment)]
    since: Option<i64>,
    /// Rejected before this time
    #[arg(help_heading = WHICH, long, value_name = "TIME", value_parser = moment)]
    until: Option<i64>,
}

impl FilterArgs {
    /// The filter for dead letters of a pipeline in one of these statuses.
    pub(super) fn filter(&self, pipeline: &str, statuses: Vec<Status>) -> Filter {
        Filter { pipeline: Some(pipeline.to_owned()), statuses, ..self.restrictions() }
    }

    fn restrictions(&self) -> Filter {
        Filter {
            reason: self.reason.clone(),
            job_id: self.job.map(lambda_core::job::job_id),
            source: self.source.clone(),
            topic: self.topic.clone(),
            partition: self.partition,
            since_micros: self.since,
            until_micros: self.until,
            ..Filter::default()
        }
    }
}

/// Dead letters to change: by number, or all open ones that the filter selects.
#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    /// Numbers of the dead letters
    #[arg(value_name = "ID")]
    pub(super) ids: Vec<i64>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All open dead letters
    #[arg(long, help_heading = WHICH)]
    all: bool,
    #[command(flatten)]
    pub(super) consent: ConsentArgs,
}

/// Options that decide whether the command changes anything.
#[derive(Debug, Args)]
pub(super) struct ConsentArgs {
    /// Roll everything back, and print what would happen
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Apply to every match without asking
    #[arg(long)]
    yes: bool,
}

/// The dead letters that a command selected.
#[derive(Debug)]
pub(super) struct Chosen {
    /// Those that exist.
    pub(super) ids: Vec<i64>,
    /// Given numbers that no dead letter of the pipeline has.
    pub(super) unknown: Vec<i64>,
    /// The pipeline.
    pipeline: String,
}

impl SelectionArgs {
    /// Ends the program with exit code 2 unless exactly one way to select is used.
    pub(super) fn check(&self) {
        let filtered = self.filter.restrictions() != Filter::default();
        let ways = [!self.ids.is_empty(), filtered, self.all];
        if ways.into_iter().filter(|used| *used).count() != 1 {
            usage("select dead letters by IDs, by the options under \"Which\", or by --all");
        }
    }

    /// Looks up the dead letters of a pipeline. Ends the program with exit code 2 if they are several and no
    /// option confirms that all are meant.
    pub(super) async fn choose(
        &self,
        letters: &DeadLetters,
        pipeline: &str,
    ) -> Result<Chosen, Error> {
        if !self.ids.is_empty() {
            return choose_ids(letters, pipeline, &self.ids).await;
        }
        let filter = self.filter.filter(pipeline, vec![Status::Open]);
        self.consent.choose(letters, &filter).await
    }
}

impl ConsentArgs {
    /// Looks up the matches of a filter. Several are changed only with `--yes`.
    pub(super) async fn choose(
        &self,
        letters: &DeadLetters,
        filter: &Filter,
    ) -> Result<Chosen, Error> {
        let ids = letters.ids(filter).await?;
        if ids.len() > 1 && !self.yes && !self.dry_run {
            usage(&format!(
                "{} dead letters match; add --yes to change them all, or --dry-run to look first",
                ids.len()
            ));
        }
        let pipeline = filter.pipeline.clone().unwrap_or_default();
        Ok(Chosen { ids, unknown: Vec::new(), pipeline })
    }
}

async fn choose_ids(letters: &DeadLetters, pipeline: &str, asked: &[i64]) -> Result<Chosen, Error> {
    let pipeline = pipeline.to_owned();
    let filter = Filter { pipeline: Some(pipeline.clone()), ..by_number(asked.to_vec()) };
    let ids = letters.ids(&filter).await?;
    let asked: BTreeSet<i64> = asked.iter().copied().collect();
    let unknown = asked.into_iter().filter(|id| ids.binary_search(id).is_err()).collect();
    Ok(Chosen { ids, unknown, pipeline })
}

/// The dead letters with these numbers, whatever their status and pipeline.
pub(super) fn by_number(ids: Vec<i64>) -> Filter {
    Filter { ids: Some(ids), ..Filter::default() }
}

impl Chosen {
    /// Checks that no dead letter is left; `left` of those found are, and all unknown ones.
    ///
    /// # Errors
    /// `Data` with the number of those left.
    pub(super) fn all_but(&self, left: usize, done: &str) -> Result<(), Error> {
        let asked = self.ids.len() + self.unknown.len();
        match left + self.unknown.len() {
            0 => Ok(()),
            left => {
                Err(Error::Input { what: format!("{left} of {asked} dead letters are not {done}") })
            }
        }
    }

    /// A line about numbers that no dead letter has, if any were given.
    pub(super) fn missing(&self) -> Option<String> {
        let numbers: Vec<String> = self.unknown.iter().map(ToString::to_string).collect();
        (!numbers.is_empty()).then(|| {
            format!("no dead letter of {} has the number {}", self.pipeline, numbers.join(", "))
        })
    }
}

/// Ends the program with exit code 2, for arguments that do not fit together.
pub(super) fn usage(what: &str) -> ! {
    clap::Error::raw(ErrorKind::ArgumentConflict, format!("{what}\n")).exit()
}

/// Parses an age such as `90d`: a whole number of seconds, minutes, hours, days or weeks.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    let wrong = || "write an age as 90d, or with s, m, h or w instead of d".to_owned();
    let mut number = text.chars();
    let seconds = match number.next_back() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 60 * 60,
        Some('d') => 24 * 60 * 60,
        Some('w') => 7 * 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u32 = number.as_str().parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_number_and_a_unit() {
        assert_eq!(age("90d"), Ok(Duration::from_hours(90 * 24)));
        assert_eq!(age("0s"), Ok(Duration::ZERO));
        for text in ["", "d", "90", "-1d", "1.5h", "90 d", "1y", "ä"] {
            assert!(age(text).is_err(), "{text}");
        }
    }
}
