//! `lambda doctor`: on a healthy platform every check passes. Then each thing that it checks
//! is broken for real, and its report is read.

#[path = "doctor/kafka.rs"]
mod kafka;
#[path = "doctor/postgres.rs"]
mod postgres;
#[path = "doctor/schema.rs"]
mod schema;
mod support;

use std::process::ExitCode;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::Program;
use lambda_lab::proxy;
use lambda_lab::servers::Database;
use serde_json::Value;

use support::{Bench, DEADLINE};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite.real_kafka("a healthy platform passes for each role, and is left unchanged", healthy);
        suite.real_kafka("a server that is away does not keep the others from being checked", away);
        suite.plain("servers that never answer are problems within the time limit", hangs);
        postgres::tests(suite);
        schema::tests(suite);
        kafka::tests(suite);
    })
}

fn doctor(context: &Context, database: &Database) -> Program {
    let program = context.program(env!("CARGO_BIN_EXE_lambda")).envs(database.environment());
    // All tests share the machine: findings must not depend on its speed.
    program.env("LAMBDA_OUTPUT", "json").args(["doctor", "--timeout", "60"])
}

/// The checks of the database only.
fn of_database(context: &Context, database: &Database) -> Program {
    doctor(context, database).args(["--only", "postgres"])
}

/// All checks, with the topic of `bench`.
fn of_all(bench: &Bench) -> Program {
    doctor(&bench.context, &bench.database)
        .env("KAFKA_BOOTSTRAP_SERVERS", &bench.bootstrap)
        .env("KAFKA_TOPIC", &bench.topic)
        .env("KAFKA_GROUP_ID", format!("{}-group", bench.topic))
}

/// The report of a doctor.
struct Report {
    checks: Vec<Value>,
    text: String,
}

impl Report {
    /// Runs a doctor that must end with `code`.
    async fn of(program: &Program, code: i32) -> Result<Self, Failure> {
        let ended = program.run(DEADLINE).await?.expect_code(code)?;
        let summary = ended.json("checks")?;
        assert_eq!(summary["exit_code"], code);
        let checks = summary["checks"].as_array().cloned().ok_or("no checks")?;
        Ok(Self { checks, text: ended.stdout + &ended.stderr })
    }

    /// Checks that `check` has this state, and that its finding and remedy contain these words.
    fn says(&self, check: &str, state: &str, found: &str, remedy: &str) {
        let of: Vec<&Value> = self.checks.iter().filter(|it| it["check"] == check).collect();
        assert_eq!(of.len(), 1, "{check}: {}", self.text);
        let text = |name: &str| of[0][name].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("state"), state, "{check}: {}", self.text);
        assert!(text("found").contains(found), "{check}: {found}: {}", self.text);
        assert!(text("remedy").contains(remedy), "{check}: {remedy}: {}", self.text);
    }

    /// The checks that are not ok.
    fn not_ok(&self) -> Vec<&str> {
        let others = self.checks.iter().filter(|it| it["state"] != "ok");
        others.filter_map(|it| it["check"].as_str()).collect()
    }
}

/// The roles that `lambda-db-setup` creates, with the password they share.
struct Roles {
    loader: String,
    reader: String,
}

impl Roles {
    const PASSWORD: &str = "a secret of roles";

    async fn set_up(context: &Context, database: &Database) -> Result<Self, Failure> {
        let name = &database.login().database;
        let (loader, reader) = (format!("{name}_loader"), format!("{name}_reader"));
        let setup = context
            .program(env!("CARGO_BIN_EXE_lambda-db-setup"))
            .envs(database.environment())
            .env("DB_LOADER_USER", &loader)
            .env("DB_LOADER_PASSWORD", Self::PASSWORD)
            .env("DB_READER_USER", &reader)
            .env("DB_READER_PASSWORD", Self::PASSWORD);
        setup.run(DEADLINE).await?.expect_code(0)?;
        Ok(Self { loader, reader })
    }

    fn log_in(program: Program, name: &str) -> Program {
        program.env("DB_USER", name).env("DB_PASSWORD", Self::PASSWORD)
    }

    async fn drop(self, database: &Database) -> Result<(), Failure> {
        let Self { loader, reader } = self;
        let sql = format!("drop owned by {loader}, {reader}; drop role {loader}, {reader}");
        Ok(database.connect().await?.batch_execute(&sql).await?)
    }
}

/// A change that breaks a database; the check that finds it, with its state, finding and
/// remedy; and the exit code.
type Case = (String, (&'static str, &'static str, &'static str, &'static str), i32);

/// Breaks a separate database for each case.
async fn break_each(
    context: &Context,
    cases: impl IntoIterator<Item = Case>,
) -> Result<(), Failure> {
    for (breaks, (check, state, found, remedy), code) in cases {
        let database = context.database().await?;
        let breaks = breaks.replace("{database}", &database.login().database);
        database.connect().await?.batch_execute(&breaks).await?;
        let report = Report::of(&of_database(context, &database), code).await?;
        report.says(check, state, found, remedy);
        let mut others = report.not_ok();
        // The disk check cannot write where only reading is allowed.
        others.retain(|other| *other != check && (check, *other) != ("primary", "disk"));
        assert_eq!(others, ["role"], "{breaks}: {}", report.text);
    }
    Ok(())
}

async fn healthy(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 3).await?;
    let roles = Roles::set_up(&bench.context, &bench.database).await?;
    let ledger = bench.produce(1_000).await?;
    bench.consume_to_end().await?;
    letters_are_open(&bench, &roles).await?;
    let rows = "select sum(xmin::text::bigint)::bigint from ingest_progress";
    let before = bench.number(rows).await?;
    for (name, says) in [(&roles.loader, "grants of a loader"), (&roles.reader, "of a reader")] {
        let report = Report::of(&Roles::log_in(of_all(&bench), name), 0).await?;
        assert!(report.not_ok().is_empty(), "{}", report.text);
        assert_eq!(report.checks.len(), 30, "{}", report.text);
        report.says("role", "ok", says, "");
        report.says("lag", "ok", "all messages are stored", "");
        assert!(!report.text.contains(Roles::PASSWORD), "{}", report.text);
    }
    let report = Report::of(&of_all(&bench), 0).await?;
    assert_eq!(report.not_ok(), ["role"], "{}", report.text);
    report.says("role", "warning", "is a superuser", "DB_LOADER_USER");

    let people = of_all(&bench).args(["--output", "human"]);
    let table = people.run(DEADLINE).await?.expect_code(0)?.stdout;
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    assert!(table.contains("check") && table.contains("message-size"), "{table}");
    assert_eq!(bench.number(rows).await?, before, "nothing was written");
    bench.is_exact(&ledger).await?;
    roles.drop(&bench.database).await
}

/// The producer's invalid messages are dead letters, which every role gets a warning about
/// until they are discarded.
async fn letters_are_open(bench: &Bench, roles: &Roles) -> Result<(), Failure> {
    let number = bench.number("select count(*) from dead_letters").await?;
    let (found, place) = (format!("{number} open"), format!("in {}[", bench.topic));
    for (name, oldest) in [(&roles.loader, ""), (&roles.reader, ", the oldest for ")] {
        let report = Report::of(&Roles::log_in(of_all(bench), name), 0).await?;
        assert_eq!(report.not_ok(), ["dead-letters"], "{}", report.text);
        let found = format!("{found}{oldest}");
        report.says("dead-letters", "warning", &found, "lambda dead-letters list");
        report.says("dead-letters", "warning", &place, "replay or discard");
        report.says("dead-letters", "warning", " invalid_field ", "");
    }
    let lambda = bench.context.program(env!("CARGO_BIN_EXE_lambda"));
    let lambda = lambda.envs(bench.database.environment());
    let discard = lambda.args(["dead-letters", "discard", "--all", "--yes"]);
    discard.run(DEADLINE).await?.expect_code(0)?;
    Ok(())
}

async fn hangs(context: Context) -> Result<(), Failure> {
    let port = proxy::silent().await?.to_string();
    let lambda = context.program(env!("CARGO_BIN_EXE_lambda")).env("LAMBDA_OUTPUT", "json");
    let lambda = lambda.envs([("DB_HOST", "127.0.0.1"), ("DB_PORT", &port)]);
    let lambda = lambda.envs([("DB_NAME", "bank"), ("DB_USER", "u")]);
    let lambda = lambda.env("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{port}"));
    let report = Report::of(&lambda.args(["doctor", "--timeout", "2"]), 69).await?;
    for check in ["postgres", "kafka"] {
        report.says(check, "problem", "no answer within 2 s", "raise --timeout");
    }
    report.says("schema", "skipped", "the time limit was reached", "");
    report.says("lag", "skipped", "offsets could not be read", "");
    assert_eq!(report.checks.len(), 30, "{}", report.text);
    Ok(())
}

async fn away(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    bench.produce(100).await?;
    bench.consume_to_end().await?;
    let no_kafka = of_all(&bench).env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1");
    let report = Report::of(&no_kafka, 69).await?;
    report.says("kafka", "problem", "Kafka is not reachable", "check the address");
    report.says("schema", "ok", "version", "");
    report.says("topic", "skipped", "there is no connection", "");
    report.says("lag", "skipped", "offsets could not be read", "");

    let no_postgres = of_all(&bench).env("DB_PORT", "1");
    let report = Report::of(&no_postgres, 69).await?;
    report.says("postgres", "problem", "PostgreSQL is not reachable", "check the address");
    report.says("topic", "ok", "2 partitions", "");
    report.says("lag", "skipped", "could not be read", "");

    let wrong = of_all(&bench).env("DB_PASSWORD", "a wrong secret");
    let report = Report::of(&wrong, 78).await?;
    report.says("postgres", "problem", "password", "check DB_USER and DB_PASSWORD");
    report.says("topic", "ok", "2 partitions", "");
    assert!(!report.text.contains("a wrong secret"), "{}", report.text);

    // A problem that needs a person counts more than a server that may come back.
    let both = no_kafka.env("DB_NAME", "nowhere");
    let report = Report::of(&both, 78).await?;
    report.says("postgres", "problem", "nowhere", "create the database");
    report.says("kafka", "problem", "not reachable", "");

    let unset = bench.context.program(env!("CARGO_BIN_EXE_lambda")).arg("doctor");
    let ended = unset.args(["--only", "postgres"]).run(DEADLINE).await?.expect_code(78)?;
    assert!(ended.stdout.contains("set DB_NAME, or DATABASE_URL"), "{}", ended.stdout);
    Ok(())
}
