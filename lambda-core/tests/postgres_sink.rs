//! Promises of the sink on PostgreSQL, on a real server.

#[path = "postgres/catalog.rs"]
mod catalog;
#[path = "postgres/evidence.rs"]
mod evidence;
#[path = "postgres/fit.rs"]
mod fit;
#[path = "postgres/keys.rs"]
mod keys;
#[path = "postgres/model.rs"]
mod model;
#[path = "postgres/serving.rs"]
mod serving;
#[path = "postgres/sessions.rs"]
mod sessions;
#[path = "postgres/slow.rs"]
mod slow;
#[path = "postgres/subject.rs"]
mod subject;
#[path = "postgres/tables.rs"]
mod tables;
#[path = "postgres/types.rs"]
mod types;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use lambda_core::Pipeline;
use lambda_core::error::{Error, Kind};
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::postgres::schema::migrate::PROTOCOL;
use lambda_core::postgres::{Connection, connect};
use lambda_core::progress::LaneName;
use lambda_core::sink::{ClaimRequest, Durability, Sink};
use lambda_core::testing::draft::{Draft, SAMPLES, Sample};
use lambda_core::testing::sink::CASES;
use lambda_lab::Failure;
use lambda_lab::harness::{self, Context};
use lambda_lab::liveness::{LIVENESS, until};
use lambda_lab::servers::Database;

use crate::subject::PostgresSubject;

fn main() -> ExitCode {
    harness::main(|suite| {
        for (promise, case) in CASES {
            suite.postgres(promise, async move |context| {
                case(&subject(&context).await?).await;
                Ok(())
            });
        }
        suite.postgres("values come back as they were sent", values_come_back);
        suite.postgres("a claim ends the backend of a frozen owner", claims_from_a_frozen_owner);
        suite.postgres(
            "timeouts of the database keep no claim from ending a frozen owner",
            claims_under_timeouts,
        );
        suite.postgres(
            "timeouts of the database keep no commit from ending a frozen loader",
            commits_under_timeouts,
        );
        suite.postgres(
            "a claim that freezes in the middle gives its lane back",
            claims_from_a_claim,
        );
        suite.postgres(
            "a claim ends the backend that the claim before it waits for",
            claims_behind_a_claim,
        );
        suite.postgres("a claim of a lane that others lock names them", claims_in_vain);
        suite.postgres("a claim waits for a migration and does not end it", claims_from_migration);
        suite.postgres("without track_activities a frozen owner is ended too", claims_blindly);
        suite.postgres("a claim over another active group is refused", refuses_another_group);
        fit::tests(suite);
        keys::tests(suite);
        types::tests(suite);
        catalog::tests(suite);
        tables::tests(suite);
        slow::tests(suite);
        sessions::tests(suite);
        suite.postgres(
            "the merged view is the sum of the current rows",
            serving::view_is_the_sum_of_the_rows,
        );
        suite.deadline(240);
        suite.postgres(
            "outcomes of concurrent transactions follow from taking them one after another",
            async |context| {
                let config = context.icu_database().await?.config().clone();
                model::outcomes_follow_from_a_serial_order::<Sample>(config).await;
                Ok(())
            },
        );
        keys::models(suite);
    })
}

async fn subject(context: &Context) -> Result<PostgresSubject, Failure> {
    Ok(PostgresSubject::<Sample>::new(context.database().await?.config(), 2).await)
}

fn request(group: &str) -> ClaimRequest {
    request_of(&SAMPLES, group)
}

fn request_of(pipeline: &Pipeline, group: &str) -> ClaimRequest {
    let (pipeline, source) = (pipeline.name().into(), "test".into());
    ClaimRequest {
        format: "json".into(),
        name: LaneName { pipeline, source, partition: 0 },
        first_position: 0.into(),
        owner: "test".into(),
        group: Some(group.into()),
        take_over: false,
        given_up: None,
    }
}

/// A value must have one form only: what the server returns is compared byte by byte with
/// what is sent.
async fn values_come_back(context: Context) -> Result<(), Failure> {
    let subject = subject(&context).await?;
    let mut random = fastrand::Rng::with_seed(7);
    let edges = [0, 1, -1, 99, 100, 9_999, 10_000, 1_000_000, 999_999_999_999, -999_999_999_999];
    let amounts: Vec<i64> = edges
        .into_iter()
        .chain((0..2_000).map(|digits| random.i64(-1_000_000..1_000_000) * 10_i64.pow(digits % 6)))
        .collect();
    let lane = subject.sink.claim(&request("g")).await?;
    let draft = |lane, to: usize| {
        let mut draft = Draft::new(Authority::Stream, &SAMPLES).lane(lane, to as i64);
        for (index, amount) in amounts.iter().enumerate() {
            let sample = Sample {
                note: (index % 3 == 0).then(|| format!("käse {index}")),
                flag: [None, Some(true), Some(false)][index % 3],
                rank: (index % 2 == 0).then_some(-(index as i32)),
                ..Sample::new(&format!("{index:05}"), *amount)
            };
            draft = draft.record(lane.position + index as i64, &sample);
        }
        draft.build()
    };
    let count = amounts.len();
    let first = subject.sink.commit(&draft(&lane, count), Durability::Visible).await?;
    let again = draft(&first.stored[0], count * 2);
    let second = subject.sink.commit(&again, Durability::Visible).await?;
    assert_eq!(
        second.stored[0].counts[Outcome::Duplicate],
        count as i64,
        "{:?}",
        second.stored[0].counts
    );
    let rows = subject.client.query("select amount::text from samples order by id", &[]).await?;
    let stored: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let sent = amounts.iter().map(|cents| {
        let sign = if *cents < 0 { "-" } else { "" };
        format!("{sign}{}.{:02}", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100)
    });
    assert_eq!(stored, sent.collect::<Vec<_>>());
    Ok(())
}

/// Markers that each session of a loader keeps, and each of a claim.
const LOADER: &str = "select pg_advisory_lock_shared(1818324322, 1);";
const CLAIM: &str = "select pg_advisory_lock_shared(1818324322, 2);";

/// An idle session with these markers that has the rows of all lanes locked.
async fn holder_of_lanes(database: &Database, marks: &str) -> Result<Connection, Failure> {
    // The name of a loader, which is not a marker.
    let holder = connect(database.config(), "stream").await?;
    holder.batch_execute(&format!("{marks} begin; select from ingest_progress for update")).await?;
    Ok(holder)
}

/// The owner is a frozen loader that holds the lane's row (rule R13, docs/protocol.md).
async fn claims_from_a_frozen_owner(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let subject = PostgresSubject::<Sample>::new(database.config(), 2).await;
    let before = subject.sink.claim(&request("g")).await?;
    let owner = holder_of_lanes(&database, LOADER).await?;
    let begun = Instant::now();
    let after = subject.sink.claim(&request("g")).await?;
    assert_ne!(after.claim, before.claim);
    assert!(begun.elapsed() < Duration::from_secs(10), "took {:?}", begun.elapsed());
    let late = owner.batch_execute("commit").await;
    assert!(late.is_err(), "the frozen owner's backend was ended");
    Ok(())
}

/// Timeouts that would end a wait for the owner before its backend is looked up.
async fn claims_under_timeouts(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let subject = PostgresSubject::<Sample>::new(database.config(), 2).await;
    let before = subject.sink.claim(&request("g")).await?;
    let owner = holder_of_lanes(&database, LOADER).await?;
    let name = &database.login().database;
    let impatient = format!(
        "alter database {name} set statement_timeout = '500ms'; \
         alter database {name} set lock_timeout = '500ms'"
    );
    subject.client.batch_execute(&impatient).await?;
    let after = subject.sink.claim(&request("g")).await?;
    assert_ne!(after.claim, before.claim);
    assert!(owner.batch_execute("commit").await.is_err(), "the frozen owner's backend was ended");
    Ok(())
}

/// The loader holds an id, and is ended once its transaction is old (rule R13, docs/protocol.md).
async fn commits_under_timeouts(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let name = &database.login().database;
    let subject = PostgresSubject::<Sample>::new(database.config(), 2).await;
    let lane = subject.sink.claim(&request("g")).await?;
    let frozen = connect(database.config(), "stream").await?;
    let insert = format!(
        "{LOADER} begin; insert into samples \
         (id, amount, ingestion_type, lane, position, checksum, written_xid) \
         values ('a', 1, 'STREAM', 0, 0, 0, 0)"
    );
    frozen.batch_execute(&insert).await?;
    let impatient = format!(
        "alter database {name} set statement_timeout = '2s'; \
         alter database {name} set lock_timeout = '1s'"
    );
    subject.client.batch_execute(&impatient).await?;
    let draft = Draft::new(Authority::Stream, &SAMPLES).lane(&lane, 1);
    let batch = draft.record(0, &Sample::new("a", 100)).build();
    let stored = within_liveness(async || subject.sink.commit(&batch, Durability::Visible).await);
    assert_eq!(stored.await?.stored[0].counts[Outcome::Inserted], 1);
    assert!(frozen.batch_execute("commit").await.is_err(), "the frozen loader's backend was ended");
    Ok(())
}

/// Giving up a lane takes two statements.
async fn claims_from_a_claim(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let subject = PostgresSubject::<Sample>::new(database.config(), 2).await;
    let before = subject.sink.claim(&request("g")).await?;
    // A session that no claim ends.
    let holder = holder_of_lanes(&database, "").await?;
    let given_up = ClaimRequest { given_up: Some(before.lane), ..request("g") };
    let frozen = subject.sink.claim(&given_up);
    tokio::pin!(frozen);
    tokio::select! {
        claimed = &mut frozen => return Err(format!("not held: {claimed:?}").into()),
        blocked = until_claim(&subject, "wait_event_type = 'Lock'") => blocked?,
    }
    // From here on it gets no further statement.
    holder.batch_execute("rollback").await?;
    until_claim(&subject, "state = 'idle in transaction'").await?;
    let claimed = within_liveness(async || subject.sink.claim(&request("g")).await).await?;
    assert_eq!(claimed.lane, before.lane, "nothing was set aside");
    frozen.await.expect_err("the claim had frozen");
    Ok(())
}

/// A claim whose process is gone keeps waiting in the server, ahead of all others.
async fn claims_behind_a_claim(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let subject = PostgresSubject::<Sample>::new(database.config(), 2).await;
    let before = subject.sink.claim(&request("g")).await?;
    let owner = holder_of_lanes(&database, LOADER).await?;
    let given_up = connect(database.config(), "claim").await?;
    let given_up = tokio::spawn(async move {
        let update = "update ingest_progress set updated_at = updated_at";
        given_up.batch_execute(&format!("{CLAIM} {update}")).await
    });
    until_claim(&subject, "wait_event_type = 'Lock'").await?;
    let after = subject.sink.claim(&request("g")).await?;
    assert_ne!(after.claim, before.claim);
    assert!(owner.batch_execute("commit").await.is_err(), "the frozen owner's backend was ended");
    given_up.await??;
    Ok(())
}

/// The holder is not a loader, despite its name, and is never ended.
async fn claims_in_vain(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let subject = PostgresSubject::<Sample>::new(database.config(), 2).await;
    subject.sink.claim(&request("g")).await?;
    let holder = holder_of_lanes(&database, "").await?;
    let error = subject.sink.claim(&request("g")).await.expect_err("locked");
    assert!(error.chain().contains("locked by another program"), "{}", error.chain());
    holder.batch_execute("rollback").await?;
    subject.sink.claim(&request("g")).await?;
    Ok(())
}

/// The migration runs as the same role, and its session has a name like a loader's.
async fn claims_from_migration(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let subject = PostgresSubject::<Sample>::new(database.config(), 2).await;
    let before = subject.sink.claim(&request("g")).await?;
    let name = format!("V{}__long", PROTOCOL.latest() + 1);
    let sql = "lock table ingest_progress; select pg_sleep(8)";
    let migration = PROTOCOL.migrate_beyond(database.config(), &name, sql);
    let claim = async {
        let migrating = "select count(*) > 0 from pg_locks where granted \
                         and relation = 'ingest_progress'::regclass and mode = 'AccessExclusiveLock'";
        until(migrating, async || {
            Ok(subject.client.query_one(migrating, &[]).await?.try_get(0)?)
        })
        .await?;
        within_liveness(async || subject.sink.claim(&request("g")).await).await
    };
    let (migrated, claimed) = tokio::join!(migration, claim);
    assert_eq!(migrated?, [name]);
    assert_ne!(claimed?.claim, before.claim);
    Ok(())
}

/// The server then shows no role the age of a transaction.
async fn claims_blindly(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let name = &database.login().database;
    let subject = PostgresSubject::<Sample>::new(database.config(), 2).await;
    let before = subject.sink.claim(&request("g")).await?;
    let off = format!("alter database {name} set track_activities = off");
    subject.client.batch_execute(&off).await?;
    let owner = holder_of_lanes(&database, LOADER).await?;
    let claimed = within_liveness(async || subject.sink.claim(&request("g")).await).await?;
    assert_ne!(claimed.claim, before.claim);
    assert!(owner.batch_execute("commit").await.is_err(), "the frozen owner's backend was ended");
    Ok(())
}

/// Waits until a claim's backend meets the condition.
async fn until_claim(subject: &PostgresSubject, condition: &str) -> Result<(), Failure> {
    let sql = format!(
        "select count(*) > 0 from pg_stat_activity where datname = current_database() \
         and application_name = 'lambda-claim' and {condition}"
    );
    until(&sql, async || Ok(subject.client.query_one(&sql, &[]).await?.try_get(0)?)).await
}

/// Retries transient errors, as a loader does.
async fn within_liveness<T>(mut work: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Failure> {
    let begun = Instant::now();
    loop {
        match work().await {
            Err(error) if error.kind() == Kind::Transient && begun.elapsed() < LIVENESS => {}
            done => return Ok(done?),
        }
    }
}

async fn refuses_another_group(context: Context) -> Result<(), Failure> {
    let subject = subject(&context).await?;
    let held = subject.sink.claim(&request("one")).await?;
    let refused = subject.sink.claim(&request("two")).await.expect_err("refused");
    assert_eq!(refused.exit_code(), 78);
    assert!(refused.chain().contains("--take-over"), "{}", refused.chain());
    let told = subject.sink.stored(&[held.lane]).await?;
    assert_eq!(told, [held], "a refused claim changes nothing");
    subject.sink.claim(&ClaimRequest { take_over: true, ..request("two") }).await?;
    Ok(())
}
