//! Programs of one version on schemas of another: the gate, and that running ones continue.

mod support;

use std::process::ExitCode;

use lambda_core::postgres::connection::Connection;
use lambda_core::postgres::schema::migrate::PROTOCOL;
use lambda_core::transaction::schema::migrate;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::liveness::until;
use lambda_lab::processes::Program;
use lambda_lab::servers::Database;

use support::{Bench, DEADLINE};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite.postgres("without a schema, or with an old one, loaders exit 75", gate);
        suite.postgres("a version that an older setup left hidden is 75 too", hidden);
        suite.postgres(
            "a migration waits for a long reader, and blocks no other session",
            long_reader,
        );
        suite.postgres("a migration that meets a deadlock is tried again", deadlock);
        suite.postgres("a setup that is frozen in a migration loses its locks", frozen_setup);
        suite.kafka("a consumer keeps running while its schema is upgraded", expanded);
        suite.kafka("a newer schema that only expands disturbs no program", future);
    })
}

const REMEDY: &str = "run lambda-db-setup of this version";

fn consumer(context: &Context, database: &Database) -> Program {
    context.program(env!("CARGO_BIN_EXE_lambda-consumer")).envs(database.environment())
}

fn batch(context: &Context, database: &Database) -> Result<Program, Failure> {
    let path = context.folder()?.join("a.csv");
    let row = "T-1,A-1,purchase,1.00,2025-06-19 00:00:00,,,,\n";
    let header = "transaction_id,account_id,transaction_type,amount,timestamp,\
                  merchant_category,location,card_present,risk_score\n";
    std::fs::write(&path, header.to_owned() + row)?;
    let program = context.program(env!("CARGO_BIN_EXE_lambda-csv-batch"));
    Ok(program.envs(database.environment()).arg(path))
}

fn setup(context: &Context, database: &Database) -> Program {
    context.program(env!("CARGO_BIN_EXE_lambda-db-setup")).envs(database.environment())
}

async fn gate(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    for (version, says) in [(0, "has no schema yet"), (1, "its schema is version 1")] {
        if version > 0 {
            PROTOCOL.migrate_to(database.config(), version).await?;
        }
        for program in [consumer(&context, &database), batch(&context, &database)?] {
            let ended = program.run(DEADLINE).await?.expect_code(75)?;
            let said = ended.stdout + &ended.stderr;
            assert!(said.contains(says) && said.contains(REMEDY), "{said}");
        }
    }
    setup(&context, &database).run(DEADLINE).await?.expect_code(0)?;
    batch(&context, &database)?.run(DEADLINE).await?.expect_code(0)?;
    Ok(())
}

/// Setups before the one that brought migration 3 did not grant loaders to read it.
async fn hidden(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let name = format!("{}_loader", database.login().database);
    let setup = setup(&context, &database)
        .env("DB_LOADER_USER", &name)
        .env("DB_LOADER_PASSWORD", "loader's secret");
    setup.run(DEADLINE).await?.expect_code(0)?;
    let sql = database.connect().await?;
    sql.batch_execute(&format!("revoke select on lambda.migrations from {name}")).await?;
    let loader =
        batch(&context, &database)?.env("DB_USER", &name).env("DB_PASSWORD", "loader's secret");
    let ended = loader.run(DEADLINE).await?.expect_code(75)?;
    assert!(ended.stderr.contains("did not let this role read"), "{}", ended.stderr);
    assert!(ended.stderr.contains(REMEDY), "{}", ended.stderr);
    setup.run(DEADLINE).await?.expect_code(0)?;
    loader.run(DEADLINE).await?.expect_code(0)?;
    Ok(sql.batch_execute(&format!("drop owned by {name}; drop role {name}")).await?)
}

async fn expanded(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let before = PROTOCOL.latest() - 1;
    PROTOCOL.migrate_to(database.config(), before).await?;
    migrate(database.config()).await?;
    let topic = context.topic("transactions", 6).await?;
    let bootstrap = context.bootstrap().await?;
    let bench = Bench::with(context, database, topic, bootstrap).await?;
    let old = bench.consumer().start()?;
    bench.holds_lanes(&old).await?;
    let producer = bench.traffic(5_000).start()?;
    bench.stored(5_000).await?;
    let version = "select max(version)::bigint from lambda.migrations";
    assert_eq!(bench.number(version).await?, i64::from(before));
    let setup = setup(&bench.context, &bench.database).run(DEADLINE).await?.expect_code(0)?;
    assert!(setup.stdout.contains(&format!("applied V{}__", before + 1)), "{}", setup.stdout);
    let stored = bench.read().await?;
    bench.stored(stored + 5_000).await?;
    let new = bench.consumer().start()?;
    bench.holds_lanes(&new).await?;
    let stored = bench.read().await?;
    bench.stored(stored + 5_000).await?;
    bench.ends_exact(producer, [old, new]).await
}

fn future_name() -> String {
    format!("V{}__future", PROTOCOL.latest() + 1)
}

/// Waits until a session waits for this table.
async fn until_locked_out(client: &Connection, table: &str) -> Result<(), Failure> {
    let waiting = "select exists (select from pg_locks \
                   where not granted and relation = $1::text::regclass)";
    until(format_args!("the migration waits for {table}"), async || {
        Ok(client.query_one(waiting, &[&table]).await?.try_get(0)?)
    })
    .await
}

/// A reader that holds a table makes the migration wait, but no other session for long.
async fn long_reader(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let (reader, loader) = (database.connect().await?, database.connect().await?);
    reader.batch_execute("begin; select from transactions limit 0").await?;
    let expand = "alter table transactions add column branch text";
    let name = future_name();
    let migration = PROTOCOL.migrate_beyond(database.config(), &name, expand);
    let beside = async {
        until_locked_out(&loader, "transactions").await?;
        // Queued after the migration, which gives up first.
        loader.batch_execute("set statement_timeout = '30s'; delete from transactions").await?;
        reader.batch_execute("commit").await?;
        Ok::<_, Failure>(())
    };
    let (migrated, beside) = tokio::join!(migration, beside);
    beside?;
    assert_eq!(migrated?, [name]);
    Ok(loader.batch_execute("select branch from transactions").await?)
}

/// The migration and a transaction that takes the tables in another order wait for each
/// other. The server ends one of the two, and here never the other transaction.
async fn deadlock(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let (other, look) = (database.connect().await?, database.connect().await?);
    other
        .batch_execute("set deadlock_timeout = '1h'; begin; select from corrections limit 0")
        .await?;
    let expand = "alter table transactions add column branch text;
                  alter table corrections add column branch text";
    let name = future_name();
    let migration = PROTOCOL.migrate_beyond(database.config(), &name, expand);
    let beside = async {
        until_locked_out(&look, "corrections").await?;
        other.batch_execute("select from transactions limit 0; commit").await?;
        Ok::<_, Failure>(())
    };
    let (migrated, beside) = tokio::join!(migration, beside);
    beside?;
    assert_eq!(migrated?, [name]);
    // Otherwise the migration only waited too long, which is another test.
    let deadlocks = "select deadlocks > 0 from pg_stat_database where datname = current_database()";
    until("the server has counted a deadlock", async || {
        Ok(look.query_one(deadlocks, &[]).await?.try_get(0)?)
    })
    .await?;
    Ok(look.batch_execute("select t.branch, c.branch from transactions t, corrections c").await?)
}

/// The server ends its session, and the next setup finishes what it began.
async fn frozen_setup(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    PROTOCOL.migrate_to(database.config(), PROTOCOL.latest() - 1).await?;
    let (holder, look) = (database.connect().await?, database.connect().await?);
    holder.batch_execute("begin; lock table dead_letters in access share mode").await?;
    let frozen = setup(&context, &database).start()?;
    until_locked_out(&look, "dead_letters").await?;
    frozen.freeze().await?;
    holder.batch_execute("commit").await?;
    setup(&context, &database).run(DEADLINE).await?.expect_code(0)?;
    batch(&context, &database)?.run(DEADLINE).await?.expect_code(0)?;
    frozen.thaw()?;
    let woken = frozen.wait(DEADLINE).await?.expect_code(75)?;
    assert!(woken.stderr.contains("run lambda-db-setup again"), "{}", woken.stderr);
    Ok(())
}

async fn future(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 6).await?;
    let old = bench.consumer().start()?;
    bench.holds_lanes(&old).await?;
    let producer = bench.traffic(5_000).start()?;
    bench.stored(5_000).await?;
    let expand = "alter table transactions add column branch text;
         alter table ingest_progress add column note text;
         alter table lambda.batch_jobs add column note text;
         alter table dead_letters add column note text;
         create index transactions_branch on transactions (branch);
         create table branches (name text primary key)";
    PROTOCOL.migrate_beyond(bench.database.config(), &future_name(), expand).await?;
    let stored = bench.read().await?;
    bench.stored(stored + 5_000).await?;
    // A release that is rolled back sets up roles again, and starts its programs.
    let setup = setup(&bench.context, &bench.database).run(DEADLINE).await?.expect_code(0)?;
    assert!(setup.stdout.contains("the schema is up to date"), "{}", setup.stdout);
    let new = bench.consumer().start()?;
    bench.holds_lanes(&new).await?;
    let stored = bench.read().await?;
    bench.stored(stored + 5_000).await?;
    bench.ends_exact(producer, [old, new]).await?;
    batch(&bench.context, &bench.database)?.run(DEADLINE).await?.expect_code(0)?;
    assert_eq!(bench.number("select count(*) from batch_jobs where read = 1").await?, 1);
    Ok(())
}
