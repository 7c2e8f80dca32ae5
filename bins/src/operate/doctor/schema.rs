//! Checks of the platform's schema and of its jobs.

use std::time::Duration;

use lambda_core::job::Status;
use lambda_core::postgres::inspect::privileges::{OurRole, Standing};
use lambda_core::postgres::inspect::schema::{self, Objects};
use lambda_core::postgres::schema::migrate::{LOADERS_NEED, PROTOCOL};
use lambda_core::postgres::{Connection, Job, Jobs, Postgres, PostgresSink};
use lambda_core::{Error, Pipeline};

use super::finding::{CONFIGURATION, Finding, TEMPORARY, of};

/// Names of the checks of this module, in order.
pub(super) const CHECKS: [&str; 4] = ["schema", "tables", "restored", "jobs"];

/// Number of jobs checked for each status, newest first.
const JOBS_MAX: u32 = 1_000;

/// Number of jobs that a finding names.
const NAMED: usize = 3;

const SETUP: &str = "run lambda-db-setup of this version";

/// Checks the schema, the table of a pipeline, and what its own migrations create. Returns whether
/// the tables can be read.
pub(super) async fn examine(
    config: &Postgres,
    connection: &Connection,
    (pipeline, objects): (&Pipeline, Option<&Objects>),
    role: Option<&OurRole>,
    findings: &mut Vec<Finding>,
) -> bool {
    let version = async {
        PROTOCOL.require(connection, LOADERS_NEED).await?;
        PROTOCOL.applied(connection).await
    };
    let version = version.await;
    findings.push(match &version {
        Ok(version) => judged(*version),
        Err(error) => Finding::error("schema", error),
    });
    let unreadable = match (role.map(|role| role.standing), &version) {
        (None | Some(Standing::Ungranted), _) => Some("this role may not read the tables"),
        (_, Err(_)) => Some("the schema is missing or too old"),
        (_, Ok(_)) => None,
    };
    if let Some(why) = unreadable {
        findings.extend(CHECKS[1..].iter().map(|check| Finding::skipped(check, why)));
        return false;
    }
    let subject = (pipeline, objects);
    findings.push(of("tables", whole(config, connection, subject, version.ok().flatten()).await));
    findings.push(of("restored", schema::is_restored(connection).await.map(restored)));
    findings.push(of("jobs", jobs(config, pipeline.name()).await));
    true
}

fn judged(version: Option<i32>) -> Finding {
    let (version, latest) = (version.unwrap_or_default(), PROTOCOL.latest());
    if version < latest {
        return Finding::warning(
            "schema",
            format!(
                "version {version}, this program has {latest}: loaders run, some commands do not"
            ),
            SETUP,
        );
    }
    let newer = if version > latest { ", newer than this program" } else { "" };
    Finding::ok("schema", format!("version {version}{newer}"))
}

/// Checks that what the migrations create exists, and that it fits the loaders' statements.
async fn whole(
    config: &Postgres,
    connection: &Connection,
    (pipeline, objects): (&Pipeline, Option<&Objects>),
    version: Option<i32>,
) -> Result<Finding, Error> {
    if version.is_none_or(|version| version < PROTOCOL.latest()) {
        return Ok(Finding::skipped("tables", "the schema is older than this program"));
    }
    let mut missing = schema::missing(connection, &schema::PROTOCOL).await?;
    if let Some(objects) = objects {
        missing.extend(schema::missing(connection, objects).await?);
    }
    if !missing.is_empty() {
        return Ok(Finding::problem(
            "tables",
            CONFIGURATION,
            format!("missing or not valid: {}", missing.join(", ")),
            "create them again as the migrations in lambda-core/src do; an index that is not valid: \
             reindex index concurrently …",
        ));
    }
    PostgresSink::connect(config.clone(), pipeline, "doctor", 1, Some(Duration::ZERO)).await?;
    Ok(Finding::ok("tables", "all tables, indexes and constraints exist"))
}

fn restored(restored: bool) -> Finding {
    if restored {
        return Finding::problem(
            "restored",
            CONFIGURATION,
            "the database was restored into another cluster: its transaction ids are stale",
            "run lambda-db-setup, which converts them",
        );
    }
    Finding::ok("restored", "the transaction ids are this cluster's")
}

async fn jobs(config: &Postgres, pipeline: &str) -> Result<Finding, Error> {
    let jobs = Jobs::new(config.clone());
    let running = jobs.list(Some(pipeline), Some(Status::Running), JOBS_MAX).await?;
    let left: Vec<&Job> = running.iter().filter(|job| !job.leased).collect();
    if !left.is_empty() {
        return Ok(Finding::problem(
            "jobs",
            TEMPORARY,
            format!("running, but their lease ended: {}", named(&left)),
            "run lambda-csv-batch again with their files: it continues where they stopped",
        ));
    }
    let failed = jobs.list(Some(pipeline), Some(Status::Failed), JOBS_MAX).await?;
    if !failed.is_empty() {
        return Ok(Finding::warning(
            "jobs",
            format!("failed: {}", named(&failed.iter().collect::<Vec<_>>())),
            "lambda jobs --status failed says why; load their files again",
        ));
    }
    Ok(Finding::ok("jobs", format!("{} running, none failed", running.len())))
}

fn named(jobs: &[&Job]) -> String {
    let mut names: Vec<String> = jobs
        .iter()
        .take(NAMED)
        .map(|job| format!("{} ({})", job.job_id(), job.file_name))
        .collect();
    if jobs.len() > NAMED {
        names.push(format!("{} more", jobs.len() - NAMED));
    }
    names.join(", ")
}
