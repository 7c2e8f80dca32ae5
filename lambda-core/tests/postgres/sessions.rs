//! The sessions of a sink: closed by the server, all busy, refused after a failover.

use lambda_core::error::{Error, Kind};
use lambda_core::outcome::Authority;
use lambda_core::postgres::schema::registry;
use lambda_core::postgres::schema::roles::{Access, Role, ensure};
use lambda_core::postgres::{Connection, PostgresSink, connect};
use lambda_core::progress::Progress;
use lambda_core::sink::{Durability, Sink as _};
use lambda_core::testing::draft::{Draft, SAMPLE_DDL, SAMPLES, Sample};
use lambda_lab::Failure;
use lambda_lab::harness::{Context, Suite};
use lambda_lab::liveness::until;

use crate::{request, subject, within_liveness};

pub(crate) fn tests(suite: &mut Suite) {
    suite.postgres("idle sessions that the server closed cost no commit", closed);
    suite.postgres("sessions that are all busy are reported as such", busy);
    suite.postgres("a login that a failover has lost for a while is waited for", lost_login);
    suite.postgres("row security on a table of ours stops a loader, by name", secured);
    suite.pgbouncer("a pooler in transaction mode is named", pooled);
}

fn batch(lane: &Progress, to: i64) -> lambda_core::batch::Batch {
    let draft = Draft::new(Authority::Stream, &SAMPLES).lane(lane, to);
    draft.record(to - 1, &Sample::new(&format!("{to:03}"), 1)).build()
}

/// Ends the sessions of a sink, and waits until both sides know.
async fn close(client: &Connection) -> Result<(), Failure> {
    let close = "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
                 where datname = current_database() and application_name = 'lambda-sink'";
    client.query(close, &[]).await?;
    Ok(())
}

async fn closed(context: Context) -> Result<(), Failure> {
    let subject = subject(&context).await?;
    let mut lane = subject.sink.claim(&request("g")).await?;
    for to in 1..4 {
        let batch = batch(&lane, to);
        let stored = subject.sink.commit(&batch, Durability::Durable);
        lane = stored.await?.stored.remove(0);
        close(&subject.client).await?;
        // The client notices a moment later.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn busy(context: Context) -> Result<(), Failure> {
    let subject =
        crate::PostgresSubject::<Sample>::new(context.database().await?.config(), 1).await;
    let lane = subject.sink.claim(&request("g")).await?;
    let hold = "begin; insert into samples \
                (id, amount, ingestion_type, lane, position, checksum, written_xid) \
                values ('001', 1, 'STREAM', 0, 0, 0, 0)";
    subject.client.batch_execute("set application_name = 'psql'").await?;
    subject.client.batch_execute(hold).await?;
    let (first, other) = (batch(&lane, 1), batch(&lane, 1));
    let blocked = subject.sink.commit(&first, Durability::Visible);
    let waiting = async {
        // Starts once the other one has the only session.
        let looker = connect(subject.sink.config(), "test").await?;
        let waits = "select count(*) = 1 from pg_stat_activity where datname = current_database() \
                    and application_name = 'lambda-sink' and wait_event_type = 'Lock'";
        until(waits, async || Ok(looker.query_one(waits, &[]).await?.try_get(0)?)).await?;
        let second = subject.sink.commit(&other, Durability::Visible).await;
        subject.client.batch_execute("rollback").await?;
        Ok::<_, Failure>(second)
    };
    let (blocked, second) = tokio::join!(blocked, waiting);
    blocked?;
    let error = second?.expect_err("busy");
    let says = error.chain();
    assert_eq!(error.kind(), Kind::Transient, "{says}");
    assert!(says.contains("all sessions of this process are in long commits"), "{says}");
    assert!(!says.contains("bb8") && !says.contains("schema"), "{says}");
    Ok(())
}

async fn lost_login(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let sql = database.connect().await?;
    sql.batch_execute(SAMPLE_DDL).await?;
    registry::register(database.config(), &[&SAMPLES]).await?;
    let name = format!("{}_loader", database.login().database);
    let role = Role { access: Access::Loader, name: name.clone(), password: "a password".into() };
    ensure(database.config(), std::slice::from_ref(&role), &[]).await?;
    let config = database.login().with_user(&name, &role.password).config();
    let sink = PostgresSink::connect(config, &SAMPLES, "sink", 2, None).await?;
    let lane = sink.claim(&request("g")).await?;
    let lane = sink.commit(&batch(&lane, 1), Durability::Visible).await?.stored.remove(0);
    // As on a standby that does not have the role yet.
    sql.batch_execute(&format!("alter role {name} rename to {name}_later")).await?;
    close(&sql).await?;
    let next = batch(&lane, 2);
    let error = loop {
        let error = sink.commit(&next, Durability::Visible).await.expect_err("no role");
        // The session that was closed may fail first.
        if !matches!(error, Error::Unreachable { .. }) {
            break error;
        }
    };
    let says = error.chain();
    assert_eq!((error.kind(), error.exit_code()), (Kind::Transient, 75), "{says}");
    assert!(says.contains("failover"), "{says}");
    sql.batch_execute(&format!("alter role {name}_later rename to {name}")).await?;
    within_liveness(async || sink.commit(&next, Durability::Visible).await).await?;
    drop(sink);
    // A login that never worked is not waited for.
    let config = database.login().with_user(&format!("{name}_never"), "a password").config();
    let error =
        PostgresSink::connect(config, &SAMPLES, "sink", 2, None).await.expect_err("no role");
    assert_eq!(error.exit_code(), 78, "{}", error.chain());
    sql.batch_execute(&format!("drop owned by {name}; drop role {name}")).await?;
    Ok(())
}

async fn secured(context: Context) -> Result<(), Failure> {
    for table in ["public.samples", "lambda.ingest_progress", "lambda.dead_letters"] {
        let database = context.database().await?;
        let sql = database.connect().await?;
        sql.batch_execute(SAMPLE_DDL).await?;
        registry::register(database.config(), &[&SAMPLES]).await?;
        let name = format!("{}_loader", database.login().database);
        let role = Role { access: Access::Loader, name: name.clone(), password: "secret".into() };
        ensure(database.config(), std::slice::from_ref(&role), &[]).await?;
        let config = database.login().with_user(&name, &role.password).config();
        let sink = PostgresSink::connect(config.clone(), &SAMPLES, "sink", 2, None).await?;
        let lane = sink.claim(&request("g")).await?;
        let lane = sink.commit(&batch(&lane, 1), Durability::Visible).await?.stored.remove(0);
        sql.batch_execute(&format!("alter table {table} enable row level security")).await?;
        let says = format!("row security applies to {table} for the role {name}");
        let again = PostgresSink::connect(config, &SAMPLES, "sink", 2, None).await;
        let error = again.expect_err(table);
        assert_eq!(error.exit_code(), 78, "{}", error.chain());
        assert!(error.chain().contains(&says), "{}", error.chain());
        // Under a running loader: which check finds it first differs by table.
        let running = sink.commit(&batch(&lane, 2), Durability::Visible).await;
        match running {
            Ok(committed) => assert_ne!(table, "public.samples", "{committed:?}"),
            Err(error) => {
                assert_eq!(error.exit_code(), 78, "{}", error.chain());
                assert!(error.chain().contains(&says), "{}", error.chain());
            }
        }
        drop(sink);
        sql.batch_execute(&format!("drop owned by {name}; drop role {name}")).await?;
    }
    Ok(())
}

/// Runs statements on another backend than prepared them.
async fn pooled(context: Context) -> Result<(), Failure> {
    for settings in [
        &["pool_mode = transaction", "server_round_robin = 1", "min_pool_size = 4"][..],
        &["pool_mode = statement"],
    ] {
        let database = context.database().await?;
        database.connect().await?.batch_execute(SAMPLE_DDL).await?;
        registry::register(database.config(), &[&SAMPLES]).await?;
        let pooler = context.pgbouncer(&database, settings).await?;
        let config = pooler.login().config();
        let connect_and_store = async || {
            let sink = PostgresSink::connect(config.clone(), &SAMPLES, "sink", 2, None).await?;
            store(&sink).await
        };
        let error = loop {
            // The pooler may close a connection before its reason is read.
            if let Err(error) = connect_and_store().await
                && error.kind() != Kind::Transient
            {
                break error;
            }
        };
        let says = error.chain();
        assert_eq!(error.exit_code(), 78, "{says}");
        assert!(says.contains("pooler in transaction mode"), "{says}");
        assert!(says.contains("pool_mode to session"), "{says}");
    }
    Ok(())
}

async fn store(sink: &PostgresSink) -> Result<(), Error> {
    let lane = sink.claim(&request("g")).await?;
    sink.commit(&batch(&lane, lane.position + 1), Durability::Visible).await.map(drop)
}
