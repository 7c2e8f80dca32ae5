//! A database that an application shares with us, and a schema of another name.

use std::fs;

use lambda_core::Pipeline;
use lambda_core::outcome::Authority;
use lambda_core::postgres::schema::migrate::PROTOCOL;
use lambda_core::postgres::schema::roles::{Access, Role, ensure};
use lambda_core::postgres::schema::{registry, restore};
use lambda_core::postgres::{Connection, PostgresSink};
use lambda_core::progress::LaneName;
use lambda_core::record::{Column, ColumnType, Table};
use lambda_core::sink::{ClaimRequest, Durability, Sink as _};
use lambda_core::testing::draft::{Draft, SAMPLE_DDL, SAMPLES, Sample};
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::Program;
use lambda_lab::servers::Database;

use super::{PATIENCE, names, setup};

/// What an application keeps: a history of migrations as refinery makes it, a table of the name
/// that the platform's has, and a role with grants.
const APPLICATION: &str = "\
    create table refinery_schema_history \
        (version integer primary key, name text, applied_on text, checksum text); \
    insert into refinery_schema_history values (1, 'orders', '2025-01-01T00:00:00Z', '1'); \
    create table transactions (number integer primary key, note text); \
    insert into transactions values (1, 'an order'); \
    create schema lambda_reports; create table lambda_reports.batch_jobs (id integer)";

/// Everything in the schemas of the application: tables, columns, grants and rows.
const ITS_OWN: &str = "\
    select md5(concat( \
        (select string_agg(concat_ws(' ', c.oid, relname, relacl, relowner), ',' order by c.oid) \
         from pg_class c where relnamespace::regnamespace in ('public', 'lambda_reports') \
           and relname not like 'samples%'), \
        (select string_agg(a::text, ',' order by attrelid, attnum) from pg_attribute a \
         join pg_class c on c.oid = attrelid \
         where relnamespace::regnamespace in ('public', 'lambda_reports') \
           and relname not like 'samples%'), \
        (select string_agg(r::text, ',') from public.refinery_schema_history r), \
        (select string_agg(t::text, ',') from public.transactions t), \
        (select string_agg(nspacl::text, ',') from pg_namespace where nspname = 'lambda_reports')))";

async fn text(sql: &Connection, query: &str) -> Result<String, Failure> {
    Ok(sql.query_one(query, &[]).await?.try_get(0)?)
}

/// The library stores beside it, and the platform's setup refuses to.
pub(crate) async fn application(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let sql = database.connect().await?;
    sql.batch_execute(APPLICATION).await?;
    let (loader, reader) = names(&database);
    let analyst = format!("create role {reader}; grant select on transactions to {reader}");
    sql.batch_execute(&analyst).await?;
    let before = text(&sql, ITS_OWN).await?;

    sql.batch_execute(SAMPLE_DDL).await?;
    let config = database.config();
    PROTOCOL.migrate(config).await?;
    registry::register(config, &[&SAMPLES]).await?;
    assert_eq!(restore::adopt(config).await?, None);
    let role = Role { access: Access::Loader, name: loader.clone(), password: "secret".into() };
    ensure(config, std::slice::from_ref(&role), &[]).await?;
    let login = database.login().with_user(&loader, "secret").config();
    let sink = PostgresSink::connect(login, &SAMPLES, "sink", 1, None).await?;
    let request = ClaimRequest {
        format: "json".into(),
        name: LaneName { pipeline: SAMPLES.name().into(), source: "a topic".into(), partition: 0 },
        first_position: 0.into(),
        owner: "a test".into(),
        group: None,
        take_over: false,
        given_up: None,
    };
    let lane = sink.claim(&request).await?;
    let draft = Draft::new(Authority::Stream, &SAMPLES).lane(&lane, 1);
    let batch = draft.record(0, &Sample::new("a", 100)).build();
    sink.commit(&batch, Durability::Durable).await?;
    assert_eq!(text(&sql, "select string_agg(id, ',') from samples").await?, "a");

    let refused = setup(&context).envs(database.environment()).run(PATIENCE).await?;
    let refused = refused.expect_code(78)?;
    assert!(refused.stderr.contains("public.transactions exists already"), "{}", refused.stderr);
    assert_eq!(text(&sql, ITS_OWN).await?, before);

    // A table has one pipeline, a pipeline one table, and a sink stores for those only.
    let other = Pipeline::of::<Sample>("others").build()?;
    let second = registry::register(config, &[&other]).await.expect_err("it has a pipeline");
    assert_eq!(second.exit_code(), 78, "{}", second.chain());
    let unknown = PostgresSink::connect(config.clone(), &other, "sink", 1, None).await;
    let unknown = unknown.expect_err("it is not registered");
    assert!(unknown.chain().contains("is not registered"), "{}", unknown.chain());
    let elsewhere = Pipeline::builder(
        SAMPLES.name(),
        Table::new("reports.samples").column(Column::new("id", ColumnType::Text)),
    )
    .build()?;
    let moved = registry::register(config, &[&elsewhere]).await.expect_err("it has a table");
    let says = "stores in public.samples here, not in reports.samples";
    assert!(moved.chain().contains(says), "{}", moved.chain());

    let drop = format!("drop owned by {loader}, {reader}; drop role {loader}, {reader}");
    Ok(sql.batch_execute(&drop).await?)
}

/// A program with the schema `ops`, as this role.
fn in_ops(context: &Context, database: &Database, path: &str, role: &str) -> Program {
    let program = context.program(path).envs(database.environment()).env("DB_SCHEMA", "ops");
    match role {
        "" => program,
        role => program.env("DB_USER", role).env("DB_PASSWORD", "secret"),
    }
}

/// Every program works with it, and the schema `lambda` is never made.
pub(crate) async fn other_schema(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let sql = database.connect().await?;
    let name = &database.login().database;
    sql.batch_execute(&format!("alter database \"{name}\" reset search_path")).await?;
    let (loader, reader) = names(&database);
    let run = async |path: &str, role: &str, arguments: &[&str], code: i32| {
        let program = in_ops(&context, &database, path, role).args(arguments);
        program.run(PATIENCE).await?.expect_code(code)
    };
    let set_up = in_ops(&context, &database, env!("CARGO_BIN_EXE_lambda-db-setup"), "")
        .env("DB_LOADER_USER", &loader)
        .env("DB_LOADER_PASSWORD", "secret")
        .env("DB_READER_USER", &reader)
        .env("DB_READER_PASSWORD", "secret");
    for _ in 0..2 {
        set_up.run(PATIENCE).await?.expect_code(0)?;
    }

    let topic = context.topic("transactions", 2).await?;
    let bootstrap = context.bootstrap().await?;
    let kafka = |path: &str, role: &str| {
        in_ops(&context, &database, path, role)
            .env("KAFKA_BOOTSTRAP_SERVERS", &bootstrap)
            .env("KAFKA_TOPIC", &topic)
    };
    let producer = kafka(env!("CARGO_BIN_EXE_lambda-producer-stream"), "");
    let producer = producer.args(["--count", "200", "--rate", "0", "--invalid-ratio", "0.1"]);
    producer.run(PATIENCE).await?.expect_code(0)?;
    let consumer = kafka(env!("CARGO_BIN_EXE_lambda-consumer"), &loader).arg("--exit-at-end");
    consumer.run(PATIENCE).await?.expect_code(0)?;

    let file = context.folder()?.join("a.csv");
    let header = "transaction_id,account_id,transaction_type,amount,timestamp,\
                  merchant_category,location,card_present,risk_score\n";
    let good = "T-1,A-1,purchase,1.00,2025-06-19 00:00:00,,,,\n";
    let bad = "T-2,A-1,purchase,1.234,2025-06-19 00:00:00,,,,\n";
    fs::write(&file, [header, good, bad].concat())?;
    let load = env!("CARGO_BIN_EXE_lambda-csv-batch");
    let file = file.to_string_lossy();
    let arguments = [&*file, "--max-rejects", "1000"];
    run(load, &loader, &arguments, 0).await?;
    let again = run(load, &loader, &arguments, 0).await?;
    assert!(again.stdout.contains("already loaded"), "{}", again.stdout);

    let lambda = env!("CARGO_BIN_EXE_lambda");
    for role in [&loader, &reader] {
        let jobs = run(lambda, role, &["jobs"], 0).await?;
        assert!(jobs.stdout.contains("BAT00001"), "{}", jobs.stdout);
    }
    run(lambda, &reader, &["dead-letters", "list"], 0).await?;
    for role in ["", &loader, &reader] {
        let doctor = run(lambda, role, &["doctor", "--only", "postgres"], 0).await?;
        assert!(!doctor.stdout.contains("problem"), "{}", doctor.stdout);
    }
    let id = text(&sql, "select max(id)::text from ops.dead_letters").await?;
    let mended = context.folder()?.join("payload");
    fs::write(&mended, bad.replace("1.234", "1.23").trim_end())?;
    let payload = mended.to_string_lossy();
    let replay = ["dead-letters", "replay", &id, "--payload", &payload];
    run(lambda, "", &replay, 0).await?;
    run(lambda, "", &["dead-letters", "discard", "--all", "--yes"], 0).await?;

    let stored = "\
        select concat_ws(' ', (select sum(read) from ops.ingest_progress) - 202, \
            (select count(*) from public.transactions) - (select sum(inserted) from ops.ingest_progress), \
            (select string_agg(status, ',') from public.batch_jobs), \
            (select count(*) from ops.dead_letters where status = 'open'), \
            (select max(written_xid) > 0 from public.transactions), \
            to_regnamespace('lambda') is null)";
    assert_eq!(text(&sql, stored).await?, "0 0 completed 0 t t");
    let drop = format!("drop owned by {loader}, {reader}; drop role {loader}, {reader}");
    Ok(sql.batch_execute(&drop).await?)
}
