//! A commit that takes long, on a server that answers.

use std::sync::Arc;
use std::time::Duration;

use lambda_core::Stop;
use lambda_core::delivery::{Flow, FlowConfig};
use lambda_core::error::Error;
use lambda_core::health::Health;
use lambda_core::metrics::Outcomes;
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::sink::{Durability, Sink};
use lambda_core::testing::draft::{Draft, SAMPLES, Sample};
use lambda_core::testing::source::Lists;
use lambda_lab::Failure;
use lambda_lab::harness::{Context, Suite};
use lambda_lab::liveness::until;

use crate::{request, subject};

pub(crate) fn tests(suite: &mut Suite) {
    suite.postgres("a commit that others block is given up, and names them", held_up);
    suite.postgres("a commit that a trigger makes slow says so", triggered);
    suite.postgres("a batch with one locked row is stored around it, then whole", around);
}

const A_MOMENT: Duration = Duration::from_secs(1);

/// Holds the id in a transaction that stays open.
const HOLD: &str = "begin; insert into samples \
    (id, amount, ingestion_type, lane, position, checksum, written_xid) \
    values ('held', 1, 'STREAM', 0, 0, 0, 0)";

async fn held_up(context: Context) -> Result<(), Failure> {
    let subject = subject(&context).await?;
    let lane = subject.sink.claim(&request("g")).await?;
    let holder = lambda_core::postgres::connect(subject.sink.config(), "test").await?;
    holder.batch_execute("set application_name = 'a forgotten psql'").await?;
    holder.batch_execute(HOLD).await?;
    let pid: i32 = holder.query_one("select pg_backend_pid()", &[]).await?.try_get(0)?;
    let draft = Draft::new(Authority::Stream, &SAMPLES).lane(&lane, 2);
    let batch = draft.record(0, &Sample::new("held", 1)).record(1, &Sample::new("free", 1)).build();
    let error = subject.sink.commit_within(&batch, Durability::Visible, A_MOMENT).await;
    let error = error.expect_err("held up");
    assert!(matches!(error, Error::Slow { .. }), "{}", error.chain());
    let says = error.chain();
    for part in [
        &format!("pid {pid} (application_name a forgotten psql, role "),
        "idle in transaction",
        "statement started ",
        "transaction started ",
        " s ago)",
    ] {
        assert!(says.contains(part), "{part}: {says}");
    }
    assert!(!says.contains("insert"), "no text of a query: {says}");
    // Nothing of the commit is left on the server.
    let left = "select count(*) = 0 from pg_stat_activity where datname = current_database() \
                and application_name = 'lambda-sink' and state <> 'idle'";
    until(left, async || Ok(subject.client.query_one(left, &[]).await?.try_get(0)?)).await?;
    holder.batch_execute("rollback").await?;
    let stored = subject.sink.commit(&batch, Durability::Visible).await?.stored;
    assert_eq!(stored[0].counts[Outcome::Inserted], 2);
    Ok(())
}

async fn triggered(context: Context) -> Result<(), Failure> {
    let subject = subject(&context).await?;
    let lane = subject.sink.claim(&request("g")).await?;
    let slow = "create function slow() returns trigger language plpgsql as \
                    $$ begin perform pg_sleep(600); return null; end $$; \
                create trigger slow after insert on samples execute function slow()";
    subject.client.batch_execute(slow).await?;
    let batch = Draft::new(Authority::Stream, &SAMPLES).lane(&lane, 1);
    let batch = batch.record(0, &Sample::new("a", 1)).build();
    let error = subject.sink.commit_within(&batch, Durability::Visible, A_MOMENT).await;
    let says = error.expect_err("slow").chain();
    assert!(
        says.contains("no lock blocks it; the server's wait event is Timeout PgSleep"),
        "{says}"
    );
    subject.client.batch_execute("drop trigger slow on samples").await?;
    let stored = subject.sink.commit(&batch, Durability::Visible).await?.stored;
    assert_eq!(stored[0].counts[Outcome::Inserted], 1);
    Ok(())
}

/// The halves without the row are stored while it is locked.
async fn around(context: Context) -> Result<(), Failure> {
    let subject = subject(&context).await?;
    let holder = lambda_core::postgres::connect(subject.sink.config(), "test").await?;
    holder.batch_execute("set application_name = 'psql'").await?;
    holder.batch_execute(HOLD).await?;
    let sample = |index: usize| match index {
        7 => Sample::new("held", 1),
        _ => Sample::new(&format!("{index:03}"), 1),
    };
    let records: Vec<Sample> = (0..8).map(sample).collect();
    let source = Lists::new(vec![records], fastrand::Rng::with_seed(1));
    let config = FlowConfig {
        authority: Authority::Stream,
        pipeline: "samples".into(),
        format: "json".into(),
        owner: "test".into(),
        group: None,
        take_over: false,
        patience: Some(A_MOMENT),
        health: Health::default(),
        outcomes: Outcomes::default(),
    };
    let sink = Arc::new(subject.sink);
    let flow = Flow::new(config, source, sink as Arc<dyn Sink>).halving_after(A_MOMENT);
    let stop = Stop::new();
    let flow = tokio::spawn(flow.run(stop));
    let client = &subject.client;
    let others = "select count(*) = 7 from samples";
    until(others, async || Ok(client.query_one(others, &[]).await?.try_get(0)?)).await?;
    assert!(!flow.is_finished(), "the last one is waited for");
    holder.batch_execute("rollback").await?;
    flow.await?.1?;
    let row = client.query_one("select read, inserted from ingest_progress", &[]).await?;
    assert_eq!((row.try_get::<_, i64>(0)?, row.try_get::<_, i64>(1)?), (8, 8));
    Ok(())
}
