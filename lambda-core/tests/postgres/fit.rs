//! A table that does not fit the record stores nothing.

use lambda_core::Pipeline;
use lambda_core::Record as _;
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::postgres::schema::migrate::PROTOCOL;
use lambda_core::postgres::schema::registry;
use lambda_core::postgres::{PostgresSink, connect};
use lambda_core::record::{Column, ColumnType};
use lambda_core::sink::{Durability, Sink as _};
use lambda_core::testing::draft::{ByHand, Draft, SAMPLE_DDL, SAMPLES, Sample};
use lambda_lab::Failure;
use lambda_lab::harness::{Context, Suite};
use lambda_lab::servers::Database;

use crate::{request, subject, within_liveness};

pub(crate) fn tests(suite: &mut Suite) {
    suite.postgres("a table that differs from the record stores nothing", differing);
    suite.postgres("a table that is wider than the record fits", wider);
    suite.postgres("a table of 120 columns fits", many_columns);
    suite.postgres("a database of another encoding is refused", encoded);
    suite.postgres("a table that changes under a running loader stops it", changed);
    suite.postgres("a column that is widened under a running loader does not stop it", widened);
}

/// Result of a sink on a table of samples that `change` has changed.
async fn connected(database: &Database, change: &str) -> Result<(), lambda_core::Error> {
    let sink = PostgresSink::connect(database.config().clone(), &SAMPLES, "sink", 1, None);
    sink.await.map(drop).inspect_err(|error| {
        assert_eq!(error.exit_code(), 78, "{change}: {}", error.chain());
    })
}

async fn differing(context: Context) -> Result<(), Failure> {
    let of = |column, types: &str| format!("samples.{column} is {types}");
    let cases = [
        (
            "alter table samples alter amount type numeric(14, 1)",
            of("amount", "numeric(14,1), the record has it as numeric(12,2)"),
        ),
        (
            "alter table samples alter amount type numeric(11, 2)",
            of("amount", "numeric(11,2), the record has it as numeric(12,2)"),
        ),
        (
            "alter table samples alter amount type numeric",
            of("amount", "numeric, the record has it as numeric(12,2)"),
        ),
        (
            "alter table samples alter rank type bigint",
            of("rank", "bigint, the record has it as integer"),
        ),
        (
            "alter table samples alter rank type smallint",
            of("rank", "smallint, the record has it as integer"),
        ),
        (
            "create domain small as smallint; alter table samples alter rank type small",
            of("rank", "smallint, the record has it as integer"),
        ),
        (
            "alter table samples alter note type varchar(10)",
            of("note", "character varying(10), the record has it as text"),
        ),
        (
            "alter table samples alter note set not null",
            of("note", "text not null, the record has it as text that may be null"),
        ),
        (
            "create domain required as text not null; alter table samples alter note type required",
            of("note", "text not null, the record has it as text that may be null"),
        ),
        (
            "alter table samples drop flag, \
             add flag boolean generated always as (amount > 0) stored",
            "samples.flag is generated, the record has it as boolean".into(),
        ),
        (
            "alter table samples drop note",
            "samples.note is missing, the record has it as text".into(),
        ),
        (
            "alter table samples alter position type integer",
            of("position", "integer, the record has it as bigint"),
        ),
        (
            "alter table samples rename to stored; create view samples as select * from stored",
            "samples is a view".into(),
        ),
        (
            "alter table samples rename to stored; \
             create materialized view samples as select * from stored",
            "samples is a materialized view".into(),
        ),
        (
            "alter table samples rename to stored; create foreign data wrapper nowhere; \
             create server elsewhere foreign data wrapper nowhere; \
             create foreign table samples (id text) server elsewhere",
            "samples is a foreign table".into(),
        ),
        ("alter table samples set unlogged", "samples is an unlogged table".into()),
        (
            "create table heir () inherits (samples)",
            "samples is a table with others that inherit from it".into(),
        ),
        ("alter table samples enable row level security, force row level security", String::new()),
    ];
    for (change, says) in cases {
        let database = context.database().await?;
        let sql = database.connect().await?;
        sql.batch_execute(SAMPLE_DDL).await?;
        registry::register(database.config(), &[&SAMPLES]).await?;
        registry::register(database.config(), &[&SAMPLES]).await?;
        connected(&database, "nothing").await?;
        sql.batch_execute(change).await?;
        let connected = connected(&database, change).await;
        if says.is_empty() {
            // Row security does not apply to a superuser.
            connected?;
            continue;
        }
        let error = connected.expect_err(change).chain();
        assert!(error.contains(&says), "{change}: {error}");
    }
    Ok(())
}

/// More columns than a function of the server takes arguments.
async fn many_columns(context: Context) -> Result<(), Failure> {
    let (database, numbers) = (context.database().await?, 1..=120);
    let sql = database.connect().await?;
    let extra: Vec<String> = numbers.clone().map(|number| format!("add c{number} text")).collect();
    let extra = format!("{SAMPLE_DDL}; alter table samples {}", extra.join(", "));
    sql.batch_execute(&extra).await?;
    let column = |number| Column::new(&format!("c{number}"), ColumnType::Text).nullable();
    let table = numbers.fold(Sample::table(), |table, number| table.column(column(number)));
    let wide = Pipeline::builder("samples", table).messages(ByHand).build()?;
    registry::register(database.config(), &[&wide]).await?;
    PostgresSink::connect(database.config().clone(), &wide, "sink", 1, None).await?;
    Ok(())
}

async fn encoded(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let sql = database.connect().await?;
    let name = format!("{}_ascii", database.login().database);
    let create =
        format!("create database \"{name}\" template template0 encoding 'SQL_ASCII' locale 'C'");
    sql.batch_execute(&create).await?;
    let config = database.config().with_database(&name);
    PROTOCOL.migrate(&config).await?;
    connect(&config, "test").await?.batch_execute(SAMPLE_DDL).await?;
    registry::register(&config, &[&SAMPLES]).await?;
    let refused = PostgresSink::connect(config, &SAMPLES, "sink", 1, None).await;
    let refused = refused.expect_err("another encoding");
    assert_eq!(refused.exit_code(), 78);
    assert!(refused.chain().contains("encoding SQL_ASCII"), "{}", refused.chain());
    Ok(sql.batch_execute(&format!("drop database \"{name}\" with (force)")).await?)
}

async fn wider(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let sql = database.connect().await?;
    sql.batch_execute(SAMPLE_DDL).await?;
    registry::register(database.config(), &[&SAMPLES]).await?;
    let wider = "create domain cents as numeric(20, 2); \
                 alter table samples alter amount type cents, alter amount drop not null, \
                                     alter note type varchar, add other text default 'x'";
    sql.batch_execute(wider).await?;
    Ok(connected(&database, wider).await?)
}

async fn changed(context: Context) -> Result<(), Failure> {
    let cases = [
        ("alter table samples alter rank type bigint", "samples.rank is bigint"),
        ("alter table samples alter rank type smallint", "samples.rank is smallint"),
        ("alter table samples drop note", "samples.note is missing"),
        (
            "alter table samples rename to stored; create view samples as select * from stored",
            "samples is a view",
        ),
    ];
    for (change, says) in cases {
        let subject = subject(&context).await?;
        let lane = subject.sink.claim(&request("g")).await?;
        let sample = |id: &str| Sample { rank: Some(1), ..Sample::new(id, 100) };
        let draft =
            |lane, id| Draft::new(Authority::Stream, &SAMPLES).lane(lane, 1).record(0, &sample(id));
        let first = draft(&lane, "a").build();
        let lane = subject.sink.commit(&first, Durability::Visible).await?.stored.remove(0);
        subject.client.batch_execute(change).await?;
        let next = Draft::new(Authority::Stream, &SAMPLES).lane(&lane, 2).record(1, &sample("b"));
        let next = next.build();
        let error = subject.sink.commit(&next, Durability::Visible).await.expect_err(change);
        assert_eq!(error.exit_code(), 78, "{change}: {}", error.chain());
        assert!(error.chain().contains(says), "{change}: {}", error.chain());
    }
    Ok(())
}

/// The statements of the probe were prepared for the narrower column.
async fn widened(context: Context) -> Result<(), Failure> {
    let subject = subject(&context).await?;
    let lane = subject.sink.claim(&request("g")).await?;
    let draft = |lane, from: i64| {
        let draft = Draft::new(Authority::Stream, &SAMPLES).lane(lane, from + 1);
        draft.record(from, &Sample::new("a", 100)).build()
    };
    let stored = subject.sink.commit(&draft(&lane, 0), Durability::Visible).await?.stored;
    // From here on repeats take the probe path first.
    let stored = subject.sink.commit(&draft(&stored[0], 1), Durability::Visible).await?.stored;
    let widen = "alter table samples alter amount type numeric(20, 2)";
    subject.client.batch_execute(widen).await?;
    let again = draft(&stored[0], 2);
    let stored = within_liveness(async || subject.sink.commit(&again, Durability::Visible).await);
    assert_eq!(stored.await?.stored[0].counts[Outcome::Duplicate], 2);
    Ok(())
}
