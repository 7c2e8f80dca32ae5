//! `lambda doctor`: checks everything the platform depends on, changes nothing, and gives a
//! remedy for each problem.

mod dead_letters;
mod finding;
mod kafka;
mod lag;
mod machine;
mod postgres;
mod role;
mod schema;

use clap::{Args, ValueEnum};
use lambda_core::kafka::Kafka;
use lambda_core::postgres::Connection;
use serde_json::json;

use self::finding::{Deadline, Finding, State};
use crate::args::{DatabaseArgs, KafkaArgs, Output, OutputArgs};
use crate::operate::table::{Holds, fitted};
use crate::operate::timeout::TimeoutArgs;
use crate::pipelines::{Chosen, PipelineArgs};
use crate::{Failure, json};

/// Checks servers, schema, roles, topic and lag.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Messages of a partition that may be unstored
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    lag_max: i64,
    /// Time that messages may wait and transactions stay open
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    age_max: u32,
    /// Check only this server
    #[arg(long, value_enum)]
    only: Option<Only>,
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Postgres,
    Kafka,
}

/// Runs the checks and prints what they found.
///
/// # Errors
/// The worst code of the problems found: 78 (configuration), 69 (unreachable), 75 (it may
/// pass). 78 before any check, if the pipeline is not defined.
pub async fn run(args: &DoctorArgs, timeout: TimeoutArgs) -> Result<(), Failure> {
    let chosen = args.pipeline.chosen()?;
    let deadline = Deadline::within(timeout.reading());
    let mut findings = vec![machine::temporary_folder()];
    // Runs both at the same time: a server that does not answer uses up the time limit.
    let (postgres, kafka) =
        (of_postgres(args, &chosen, deadline), of_kafka(args, &chosen, deadline));
    let ((database, of_postgres), (kafka, of_kafka)) = match args.only {
        None => tokio::join!(postgres, kafka),
        Some(Only::Postgres) => (postgres.await, (None, Vec::new())),
        Some(Only::Kafka) => ((None, Vec::new()), kafka.await),
    };
    findings.extend(of_postgres.into_iter().chain(of_kafka));
    match kafka {
        _ if args.only == Some(Only::Postgres) => {}
        None => lag::skipped("the topic's offsets could not be read", &mut findings),
        Some(kafka) => {
            let examined =
                lag::examine(&kafka, chosen.name(), database.as_ref(), args, &mut findings);
            if deadline.until(examined).await.is_none() {
                finding::overdue(lag::CHECKS, deadline, &mut findings);
            }
        }
    }
    report(&findings, args.output.output)
}

/// Examines the database. Returns a connection for further checks of its tables.
async fn of_postgres(
    args: &DoctorArgs,
    chosen: &Chosen,
    deadline: Deadline,
) -> (Option<Connection>, Vec<Finding>) {
    let (mut findings, age_max) = (Vec::new(), i64::from(args.age_max));
    let config = args.database.config();
    let examined = Box::pin(postgres::examine(config, chosen, age_max, &mut findings));
    let Some(connection) = deadline.until(examined).await else {
        finding::overdue(postgres::checks(), deadline, &mut findings);
        return (None, findings);
    };
    (connection, findings)
}

/// Examines the cluster. Returns its configuration for further checks of the topic.
async fn of_kafka(
    args: &DoctorArgs,
    chosen: &Chosen,
    deadline: Deadline,
) -> (Option<Kafka>, Vec<Finding>) {
    let mut findings = Vec::new();
    let config = args.kafka.config_for(chosen.name(), chosen.topic());
    let examined = kafka::examine(config, &mut findings);
    let Some(config) = deadline.until(examined).await else {
        finding::overdue(kafka::checks(), deadline, &mut findings);
        return (None, findings);
    };
    (config, findings)
}

fn report(findings: &[Finding], output: Output) -> Result<(), Failure> {
    let code = findings.iter().filter_map(Finding::exit_code).max_by_key(|code| badness(*code));
    match output {
        Output::Human => crate::print(table(findings))?,
        Output::Json => {
            let facts = [("exit_code", json!(code.unwrap_or_default()))];
            json::print("checks", findings.iter().map(Finding::object).collect(), facts)?;
        }
    }
    let problems = findings.iter().filter(|finding| finding.exit_code().is_some()).count();
    match code {
        None => Ok(()),
        Some(code) => {
            let what = format!("{problems} of {} checks found a problem", findings.len());
            Err(Failure::Found { what, code })
        }
    }
}

/// Rank of an exit code: a problem that needs a person outranks one that may pass.
fn badness(code: u8) -> u8 {
    match code {
        78 => 3,
        69 => 2,
        _ => 1,
    }
}

fn table(findings: &[Finding]) -> String {
    let columns = [
        ("check", Holds::Id),
        ("state", Holds::Id),
        ("found", Holds::Prose),
        ("remedy", Holds::Prose),
    ];
    let rows = findings.iter().map(|Finding { check, state, found }| {
        let remedy = match state {
            State::Warning { remedy } | State::Problem { remedy, .. } => remedy.clone(),
            State::Ok | State::Skipped => String::new(),
        };
        [(*check).to_owned(), state.name().to_owned(), found.clone(), remedy]
    });
    fitted(columns, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_problem_makes_the_exit_code() {
        let code = |codes: &[u8]| {
            let findings: Vec<Finding> =
                codes.iter().map(|code| Finding::problem("a", *code, "b", "c")).collect();
            match report(&findings, Output::Json) {
                Ok(()) => 0,
                Err(failure) => failure.exit_code(),
            }
        };
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&[75]), 75);
        assert_eq!(code(&[75, 69]), 69);
        assert_eq!(code(&[69, 78, 75]), 78);
        assert!(report(&[Finding::warning("a", "b", "c")], Output::Human).is_ok());
    }
}
