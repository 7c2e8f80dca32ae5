//! Open dead letters: rejected records without a decision.

use lambda_core::Error;
use lambda_core::postgres::Connection;
use lambda_core::postgres::inspect::dead_letters::{OpenDeadLetters, open_dead_letters};

use super::finding::Finding;
use crate::operate::dead_letters::{last_part, printable};
use crate::operate::short;

/// The check's name.
pub(super) const CHECK: &str = "dead-letters";

const REMEDY: &str =
    "see lambda dead-letters list; correct the source, then replay or discard them";

/// Counts the open dead letters of a pipeline.
pub(super) async fn examine(connection: &Connection, pipeline: &str) -> Result<Finding, Error> {
    Ok(judged(&open_dead_letters(connection, pipeline).await?))
}

fn judged(open: &[OpenDeadLetters]) -> Finding {
    let Some(largest) = open.first() else {
        return Finding::ok(CHECK, "none are open");
    };
    let all: i64 = open.iter().map(|group| group.count).sum();
    let oldest = open.iter().filter_map(|group| group.oldest).max();
    let age = oldest.map(|age| format!(", the oldest for {}", short(age))).unwrap_or_default();
    let most = format!("{} {} in {}", largest.count, largest.reason, place(largest));
    let found = match open.len() {
        1 => format!("{all} open{age}: {most}"),
        _ => format!("{all} open{age}; most: {most}"),
    };
    Finding::warning(CHECK, printable(&found), REMEDY)
}

/// Place where they were read: `topic[partition]`, or the file's name.
fn place(group: &OpenDeadLetters) -> String {
    match (&group.file_name, group.partition) {
        (Some(file), _) => last_part(file).to_owned(),
        (None, Some(partition)) => format!("{}[{partition}]", last_part(&group.source)),
        (None, None) => last_part(&group.source).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::finding::State;
    use super::*;

    fn group(place: (&str, Option<i32>, Option<&str>), count: i64, hours: u64) -> OpenDeadLetters {
        let (source, partition, file_name) = place;
        OpenDeadLetters {
            source: source.to_owned(),
            partition,
            file_name: file_name.map(ToOwned::to_owned),
            reason: "invalid_field".to_owned(),
            count,
            oldest: Some(Duration::from_hours(hours)),
        }
    }

    #[test]
    fn open_dead_letters_are_a_warning_with_number_age_place_and_reason() {
        let topic = group(("cluster/transactions", Some(2), None), 30, 3);
        let file = group(("0123abcd", None, Some("/inbox/a.csv")), 10, 5);
        let found = |open: &[OpenDeadLetters]| judged(open).found;
        assert_eq!(
            found(&[topic.clone(), file.clone()]),
            "40 open, the oldest for 5 h; most: 30 invalid_field in transactions[2]"
        );
        assert_eq!(found(&[file]), "10 open, the oldest for 5 h: 10 invalid_field in a.csv");
        let undated = [OpenDeadLetters { oldest: None, ..topic }];
        assert_eq!(found(&undated), "30 open: 30 invalid_field in transactions[2]");
        assert!(matches!(judged(&undated).state, State::Warning { .. }));
        assert!(matches!(judged(&[]).state, State::Ok));
    }
}
