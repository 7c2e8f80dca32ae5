//! `lambda-db-setup`, as an operator runs it.

#[path = "db_setup/neighbours.rs"]
mod neighbours;

use std::process::ExitCode;
use std::time::Duration;

use lambda_core::postgres::connect;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::{Program, Signal};
use lambda_lab::servers::Database;

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.postgres(
            "an empty database gets schema and roles, a second run changes nothing",
            set_up,
        );
        suite.postgres("a setup grants on its own tables only and takes nothing away", grants);
        suite.postgres(
            "an application's tables, migrations and grants are left alone",
            neighbours::application,
        );
        suite.kafka("every program works in a schema of another name", neighbours::other_schema);
        suite.postgres("the summary in JSON says the same", json);
        suite.postgres("a wrong password is distinguished from an absent server", wrong_login);
        suite.plain("without a database name the exit code is 78, with a remedy", unset);
        suite.plain("a setup that waits says so, and a signal ends it with 75", waiting);
    })
}

fn setup(context: &Context) -> Program {
    context.program(env!("CARGO_BIN_EXE_lambda-db-setup"))
}

async fn set_up(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let (loader, reader) = names(&database);
    let program = setup(&context)
        .envs(database.environment())
        .env("DB_LOADER_USER", &loader)
        .env("DB_LOADER_PASSWORD", "loader's secret")
        .env("DB_READER_USER", &reader)
        .env("DB_READER_PASSWORD", "reader's secret");
    let first = program.run(PATIENCE).await?.expect_code(0)?;
    assert!(first.stdout.contains("applied V1__tables"), "{}", first.stdout);
    assert!(first.stdout.contains(&format!("loader role {loader}: created")), "{}", first.stdout);

    let second = program.run(PATIENCE).await?.expect_code(0)?;
    assert!(second.stdout.contains("the schema is up to date"), "{}", second.stdout);
    assert!(second.stdout.contains(&format!("reader role {reader}: updated")), "{}", second.stdout);
    for output in [&first.stdout, &first.stderr, &second.stdout, &second.stderr] {
        assert!(!output.contains("secret"), "{output}");
    }
    for (name, password) in [(&loader, "loader's secret"), (&reader, "reader's secret")] {
        connect(&database.login().with_user(name, password).config(), "test").await?;
    }
    let sql = format!("drop owned by {loader}, {reader}; drop role {loader}, {reader}");
    Ok(database.connect().await?.batch_execute(&sql).await?)
}

fn names(database: &Database) -> (String, String) {
    let name = &database.login().database;
    (format!("{name}_loader"), format!("{name}_reader"))
}

async fn grants(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let (loader, reader) = names(&database);
    let program = setup(&context)
        .envs(database.environment())
        .env("DB_LOADER_USER", &loader)
        .env("DB_LOADER_PASSWORD", "l")
        .env("DB_READER_USER", &reader)
        .env("DB_READER_PASSWORD", "r");
    let admin = database.connect().await?;
    let foreign = "create table salaries (amount integer); create table cities (name text); \
                   create foreign data wrapper w; create server s foreign data wrapper w; \
                   create foreign table elsewhere (amount integer) server s";
    admin.batch_execute(foreign).await?;
    program.run(PATIENCE).await?.expect_code(0)?;
    let given = format!(
        "grant select on cities to {reader}; grant select (payload) on dead_letters to {reader}; \
         grant create on schema public to {loader}; grant delete on transactions to {loader}"
    );
    admin.batch_execute(&given).await?;
    program.run(PATIENCE).await?.expect_code(0)?;
    let held = "select concat_ws(' ', has_table_privilege($2, 'salaries', 'select'), \
                                      has_table_privilege($2, 'elsewhere', 'select'), \
                                      has_table_privilege($2, 'transactions', 'select'), \
                                      has_table_privilege($2, 'cities', 'select'), \
                                      has_column_privilege($2, 'dead_letters', 'payload', 'select'), \
                                      has_schema_privilege($1, 'public', 'create'), \
                                      has_table_privilege($1, 'transactions', 'delete'))";
    let held = admin.query_one(held, &[&loader, &reader]).await?;
    assert_eq!(held.try_get::<_, &str>(0)?, "f f t t t t t");
    let sql = format!("drop owned by {loader}, {reader}; drop role {loader}, {reader}");
    Ok(admin.batch_execute(&sql).await?)
}

async fn json(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let program = setup(&context).envs(database.environment()).args(["--output", "json"]);
    let ended = program.run(PATIENCE).await?.expect_code(0)?;
    let summary = ended.json("roles")?;
    assert_eq!(summary["migrations"], serde_json::json!([]));
    assert_eq!(summary["restored"], serde_json::Value::Null);
    assert_eq!(summary["roles"], serde_json::json!([]));
    Ok(())
}

async fn wrong_login(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let program = setup(&context).envs(database.environment());
    let wrong = program.clone().env("DB_PASSWORD", "a wrong secret").run(PATIENCE).await?;
    let wrong = wrong.expect_code(78)?;
    assert!(wrong.stderr.contains("check DB_USER and DB_PASSWORD"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("a wrong secret"), "{}", wrong.stderr);
    let absent = program.env("DB_PORT", "1").args(["--wait", "1"]).run(PATIENCE).await?;
    let absent = absent.expect_code(69)?;
    assert!(absent.stderr.contains("PostgreSQL is not reachable"), "{}", absent.stderr);
    Ok(())
}

async fn unset(context: Context) -> Result<(), Failure> {
    let ended = setup(&context).run(PATIENCE).await?.expect_code(78)?;
    assert!(ended.stderr.contains("set DB_NAME, or DATABASE_URL"), "{}", ended.stderr);
    Ok(())
}

async fn waiting(context: Context) -> Result<(), Failure> {
    let nowhere = [("DB_HOST", "127.0.0.1"), ("DB_PORT", "1"), ("DB_NAME", "n"), ("DB_USER", "u")];
    let mut process = setup(&context).envs(nowhere).start()?;
    process.says("waiting for PostgreSQL", PATIENCE).await?;
    process.signal(Signal::TERM)?;
    process.wait(PATIENCE).await?.expect_code(75)?;
    Ok(())
}
