//! The examples do what they claim, on real servers. What they have stored is read by plain SQL.

mod support;

#[expect(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/embedded.rs"]
mod embedded;
#[expect(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../../lambda-core/examples/own_decoder.rs"]
mod own_decoder;
#[expect(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/own_load_and_consume.rs"]
mod own_load_and_consume;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use lambda_core::postgres::Connection;
use lambda_core::{Kafka, Stop};
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::liveness;
use lambda_lab::probe::Probe;
use lambda_lab::servers::Database;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use support::{DEADLINE, until};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(120);
        suite.kafka("files and a topic fill one table at the same time", load_and_consume);
        suite.kafka("messages in an own format are rows, and broken ones dead letters", decoder);
        suite.kafka("a service consumes beside its own tables and routes, and stops", embedded);
    })
}

/// The value of a reading in hundredths, as its topic has it: the file has others below 310.
fn reading(number: usize) -> (String, String, String) {
    let taken_at = format!("2026-01-01T{:02}:{:02}:00Z", number / 60, number % 60);
    (format!("s-{}", number % 7), taken_at, format!("{}.{:02}", number % 50, number % 100))
}

/// Readings 0 to 599 are in the topic, 300 to 899 in the file. Each also has one that is
/// rejected.
async fn load_and_consume(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let sql = database.connect().await?;
    let (bootstrap, topic) = (context.bootstrap().await?, context.topic("readings", 2).await?);
    let message = |number| {
        let (sensor, taken_at, degrees) = reading(number);
        format!(r#"{{"sensor":"{sensor}","taken_at":"{taken_at}","degrees":{degrees}}}"#)
    };
    let hot = message(0).replace(":0.00", ":60.01");
    let messages = (0..600).map(message).chain([hot]).map(String::into_bytes);
    send(&bootstrap, &topic, messages)?;
    let mut csv = String::from("taken_at,sensor,note,degrees\n");
    for number in 300..900 {
        let (sensor, taken_at, degrees) = reading(number);
        let degrees = if number < 310 { "-1.5" } else { &degrees };
        writeln!(csv, "{taken_at},{sensor},,{degrees}")?;
    }
    csv.push_str("yesterday,s-1,,1\n");
    let file = context.folder()?.join("readings.csv");
    std::fs::write(&file, csv)?;

    let (postgres, kafka) = (database.config(), Kafka::new(&bootstrap, &topic).group(&topic));
    let run = async || {
        let files = file.to_string_lossy();
        own_load_and_consume::run(postgres, &kafka, &files, &Stop::new()).await
    };
    run().await?;
    // Whichever was first, the file takes precedence.
    let stored = "select concat_ws(' ', count(*), count(*) filter (where ingestion_type = 'BATCH'), \
                      count(*) filter (where ingestion_type = 'STREAM'), \
                      count(*) filter (where degrees = -1.5), sum(degrees)) from ops.readings";
    let hundredths = |number: usize| match number {
        300..310 => -150,
        _ => (number % 50 * 100 + number % 100) as i64,
    };
    let sum: i64 = (0..900).map(hundredths).sum();
    let sum = format!("{}.{:02}", sum / 100, sum % 100);
    assert_eq!(text(&sql, stored).await?, format!("900 600 300 10 {sum}"));
    let rejected = "select string_agg(concat_ws(' ', reason, field, line), ', ' \
                        order by job_id nulls first) from lambda.dead_letters";
    let of_both = "invalid_field degrees, invalid_field taken_at 602";
    assert_eq!(text(&sql, rejected).await?, of_both);

    let whole = "select md5(string_agg(r::text, '' order by r)) from ops.readings r";
    let before = text(&sql, whole).await?;
    run().await?;
    assert_eq!(text(&sql, whole).await?, before, "nothing is stored a second time");
    assert_eq!(text(&sql, rejected).await?, of_both);
    Ok(())
}

async fn decoder(context: Context) -> Result<(), Failure> {
    const TABLE: &str = "\
        create schema ops; \
        create table ops.readings ( \
            sensor text primary key, value bigint not null, valid boolean not null, \
            job_id text, ingestion_type text not null, lane integer not null, \
            position bigint not null, checksum bigint not null, written_xid bigint not null)";
    let database = context.empty_database().await?;
    let sql = database.connect().await?;
    sql.batch_execute(TABLE).await?;
    let (bootstrap, topic) = (context.bootstrap().await?, context.topic("binary", 1).await?);
    let encode = |number: i64| {
        let valid = number % 2 == 0;
        let reading = own_decoder::Reading { sensor: format!("s-{number}"), value: number, valid };
        own_decoder::encode(&reading)
    };
    let mut messages = (0..100).map(encode).collect::<Result<Vec<_>, _>>()?;
    messages.push(messages[7][..9].to_vec());
    messages.push([&messages[8][..], b"?"].concat());
    send(&bootstrap, &topic, messages)?;

    let (postgres, readings) = (database.config(), own_decoder::pipeline()?);
    postgres.set_up(&[&readings]).await?;
    let kafka = Kafka::new(&bootstrap, &topic).group(&topic);
    let summary = lambda_stream::consume(&readings, &kafka, postgres).exit_at_end(true).await?;
    assert!(summary.counts.balanced());
    let stored = "select concat_ws(' ', count(*), sum(value), count(*) filter (where valid)) \
                  from ops.readings";
    assert_eq!(text(&sql, stored).await?, "100 4950 50");
    let rejected = "select string_agg(concat_ws(' ', reason, detail, length(payload)), ', ' \
                        order by position) from lambda.dead_letters";
    assert_eq!(
        text(&sql, rejected).await?,
        "invalid_message the message ends at byte 9, within value: 8 bytes from byte 5 9, \
         invalid_message the reading ends at byte 14, but the message has 15 bytes 15"
    );
    Ok(())
}

async fn embedded(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let sql = database.connect().await?;
    // Another tool's history of migrations, under the name that ours have in our own schema.
    sql.batch_execute(
        "create table public.refinery_schema_history ( \
             version integer primary key, name text, applied_on text, checksum text); \
         insert into public.refinery_schema_history values (1, 'theirs', 'yesterday', '7')",
    )
    .await?;
    let (bootstrap, topic) = (context.bootstrap().await?, context.topic("orders", 2).await?);
    let order = |number: usize| {
        let customer = if number.is_multiple_of(4) { "C-2" } else { "C-1" };
        let total = format!("{number}.25");
        format!(r#"{{"id":"O-{number}","customer":"{customer}","total":"{total}"}}"#).into_bytes()
    };
    let kafka = Kafka::new(&bootstrap, &topic).group(&topic);

    // 75 orders of 1 to 99 are of the first customer.
    send(&bootstrap, &topic, (0..100).map(order))?;
    let service = Service::start(&database, &kafka).await?;
    service.answers("/customers/C-1/total", "Ada: 3768.75").await?;
    service.answers("/customers/C-2/total", "Grace: 1206.25").await?;
    service.answers("/readyz", "").await?;
    let (unknown, live) = (service.probe.get("/customers/C-3/total"), service.probe.get("/livez"));
    assert_eq!((unknown.await?.status, live.await?.status), (404, 200));
    service.stop(&sql).await?;

    // It runs again on what it left.
    send(&bootstrap, &topic, (100..200).map(order))?;
    let service = Service::start(&database, &kafka).await?;
    until(&sql, "select count(*) from shop.orders", 200).await?;
    service.stop(&sql).await?;
    let stored = "select concat_ws(' ', count(*), count(distinct id), sum(total)) \
                  from shop.orders";
    assert_eq!(text(&sql, stored).await?, "200 200 19950.00");

    let tables = "select string_agg(tablename::text, ' ' order by tablename) from pg_tables \
                  where schemaname = $1";
    for (schema, holds) in
        [("public", "refinery_schema_history schema_history"), ("shop", "customers orders")]
    {
        let found: String = sql.query_one(tables, &[&schema]).await?.try_get(0)?;
        assert_eq!(found, holds, "{schema}");
    }
    let histories = "select concat_ws(' ', (select count(*) from public.schema_history), version, \
                         name, applied_on, checksum) from public.refinery_schema_history";
    assert_eq!(text(&sql, histories).await?, "2 1 theirs yesterday 7");
    Ok(())
}

/// A service that runs in this process.
struct Service {
    probe: Probe,
    stop: Stop,
    running: JoinHandle<Result<lambda_stream::Summary, Failure>>,
}

impl Service {
    async fn start(database: &Database, kafka: &Kafka) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (probe, stop) = (Probe::at(listener.local_addr()?.to_string()), Stop::new());
        let (url, kafka, stopped) = (url(database), kafka.clone(), stop.clone());
        let running =
            tokio::spawn(async move { embedded::run(&url, &kafka, listener, stopped).await });
        Ok(Self { probe, stop, running })
    }

    /// Waits until it answers with this text.
    async fn answers(&self, path: &str, text: &str) -> Result<(), Failure> {
        liveness::until(format!("{path} is {text}"), async || {
            if self.running.is_finished() {
                return Err("the service has ended".into());
            }
            // It answers nothing before its migrations are applied.
            let Ok(answer) = self.probe.get(path).await else { return Ok(false) };
            Ok(answer.status == 200 && answer.text == text)
        })
        .await
    }

    /// Stops it: it leaves neither a listener nor a session.
    async fn stop(self, sql: &Connection) -> Result<(), Failure> {
        self.stop.stop();
        let _summary = tokio::time::timeout(DEADLINE, self.running).await???;
        assert!(self.probe.get("/livez").await.is_err(), "nothing listens");
        let sessions = "select count(*) from pg_stat_activity where datname = current_database() \
                        and backend_type = 'client backend' and pid <> pg_backend_pid()";
        until(sql, sessions, 0).await
    }
}

fn url(database: &Database) -> String {
    let login = database.login();
    format!(
        "postgresql://{}:{}@{}:{}/{}",
        login.user, login.password, login.host, login.port, login.database
    )
}

/// Sends messages to the partitions in turn.
fn send(
    bootstrap: &str,
    topic: &str,
    messages: impl IntoIterator<Item = Vec<u8>>,
) -> Result<(), Failure> {
    let mut config = ClientConfig::new();
    let producer: BaseProducer = config.set("bootstrap.servers", bootstrap).create()?;
    for (number, message) in messages.into_iter().enumerate() {
        let key = number.to_string();
        let record = BaseRecord::to(topic).key(&key).payload(&message);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.poll(Duration::ZERO);
    }
    Ok(producer.flush(DEADLINE)?)
}

async fn text(sql: &Connection, query: &str) -> Result<String, Failure> {
    Ok(sql.query_one(query, &[]).await?.try_get(0)?)
}
