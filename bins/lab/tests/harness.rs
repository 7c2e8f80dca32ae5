//! The harness gives each test its own servers and resources.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::Signal;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.postgres("a test's database is migrated and its own", databases);
        suite.postgres("a database can order text by ICU", icu);
        suite.postgres("an empty database has no schema", empty);
        suite.kafka("a test's topic has the partitions it asked for", topics);
        suite.real_kafka("a real broker keeps a cluster id", cluster_id);
        suite.plain("a PostgreSQL of a test's own is killed and started again", own_postgres);
        suite.real_kafka("a broker of a test's own is killed and started again", own_kafka);
        suite.plain("a program sees only the environment it was given", environment);
        suite.plain("a program can be frozen, thawed and ended", signals);
        suite.plain("a deadline ends the wait for a program", deadline);
        suite.plain("without PostgreSQL and a download the demo says what to install", no_download);
    })
}

async fn databases(context: Context) -> Result<(), Failure> {
    let (first, second) = (context.database().await?, context.database().await?);
    assert_ne!(first.login().database, second.login().database);
    let connection = first.connect().await?;
    connection.execute("update xid_offset set value = 7", &[]).await?;
    let other = second.connect().await?.query_one("select value from xid_offset", &[]).await?;
    assert_eq!(other.get::<_, i64>(0), 0);
    let fsync = connection.query_one("show fsync", &[]).await?;
    assert_eq!(fsync.get::<_, &str>(0), "on");
    Ok(())
}

async fn icu(context: Context) -> Result<(), Failure> {
    let connection = context.icu_database().await?.connect().await?;
    let row = connection.query_one("select 'a' < 'B', 'a' < 'B' collate \"C\"", &[]).await?;
    assert_eq!((row.get(0), row.get(1)), (true, false));
    Ok(())
}

async fn empty(context: Context) -> Result<(), Failure> {
    let connection = context.empty_database().await?.connect().await?;
    let row = connection.query_one("select to_regclass('transactions') is null", &[]).await?;
    assert!(row.get::<_, bool>(0));
    Ok(())
}

async fn topics(context: Context) -> Result<(), Failure> {
    let topic = context.topic("harness", 12).await?;
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", context.bootstrap().await?).create()?;
    let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(10))?;
    assert_eq!(metadata.topics()[0].partitions().len(), 12);
    Ok(())
}

async fn cluster_id(context: Context) -> Result<(), Failure> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", context.bootstrap().await?).create()?;
    let id = consumer.client().fetch_cluster_id(Duration::from_secs(10));
    assert!(id.is_some_and(|id| !id.starts_with("mock")));
    Ok(())
}

async fn own_postgres(context: Context) -> Result<(), Failure> {
    let mut own = context.own_postgres(&["wal_writer_delay=10s"]).await?;
    let database = own.database().await?;
    let connection = database.connect().await?;
    let setting = connection.query_one("show wal_writer_delay", &[]).await?;
    assert_eq!(setting.get::<_, &str>(0), "10s");
    connection.execute("update xid_offset set value = 7", &[]).await?;
    own.server.signal("walwriter", Signal::STOP)?;
    own.server.kill()?;
    assert!(database.connect().await.is_err());
    own.server.start_again().await?;
    let row = database.connect().await?.query_one("select value from xid_offset", &[]).await?;
    assert_eq!(row.get::<_, i64>(0), 7, "durable rows are kept");
    Ok(())
}

async fn own_kafka(context: Context) -> Result<(), Failure> {
    let first = context.own_kafka(None).await?;
    let port = first.port();
    let topic = first.broker().topic("own", 2).await?;
    let ask = async || {
        let servers = format!("127.0.0.1:{port}");
        let topic = topic.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer =
                ClientConfig::new().set("bootstrap.servers", servers).create()?;
            let wait = Duration::from_secs(20);
            let metadata = consumer.fetch_metadata(Some(&topic), wait)?;
            let partitions = metadata.topics()[0].partitions().len();
            Ok::<_, Failure>((consumer.client().fetch_cluster_id(wait), partitions))
        });
        asked.await?
    };
    let (id, partitions) = ask().await?;
    assert_eq!(partitions, 2);
    first.kill().await?;
    first.start_again().await?;
    assert_eq!(ask().await?, (id.clone(), 2), "the same cluster with its topics");
    first.remove().await?;
    let second = context.own_kafka(Some(port)).await?;
    second.broker().topic("own", 1).await?;
    assert_ne!(ask().await?.0, id, "another cluster at the same address");
    Ok(())
}

async fn environment(context: Context) -> Result<(), Failure> {
    let program = context.program("/usr/bin/env").env("DB_HOST", "db");
    let ended = program.run(Duration::from_secs(10)).await?.expect_code(0)?;
    assert!(ended.stdout.lines().any(|line| line == "DB_HOST=db"));
    assert!(!ended.stdout.contains("CARGO"), "{}", ended.stdout);
    Ok(())
}

async fn signals(context: Context) -> Result<(), Failure> {
    let program = context.program("/bin/sh").args(["-c", "echo ready >&2; exec sleep 600"]);
    let mut process = program.start()?;
    process.says("ready", Duration::from_secs(10)).await?;
    process.freeze().await?;
    process.signal(Signal::TERM)?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!process.has_ended()?, "a frozen program acted on a signal");
    process.thaw()?;
    let ended = process.wait(Duration::from_secs(10)).await?;
    assert_eq!(ended.code(), None);
    Ok(())
}

async fn deadline(context: Context) -> Result<(), Failure> {
    let process = context.program("/bin/sleep").arg("600").start()?;
    let error = process.wait(Duration::from_millis(50)).await.err();
    assert!(error.is_some_and(|error| error.to_string().contains("did not end")));
    Ok(())
}

/// A machine without PostgreSQL and without a network.
async fn no_download(context: Context) -> Result<(), Failure> {
    let (programs, cache) = (context.folder()?, context.folder()?);
    for name in ["sh", "cat", "rm", "kill", "sleep"] {
        let found = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
        let found = found.into_iter().find(|path| path.exists());
        symlink(found.ok_or(format!("no {name}"))?, programs.join(name))?;
    }
    let demo = context.program(env!("CARGO_BIN_EXE_lambda-lab")).args(["demo", "--programs"]);
    let demo = demo.arg(&programs).env("PATH", &programs).env("XDG_CACHE_HOME", &cache);
    let demo = demo.env("HTTPS_PROXY", "http://127.0.0.1:1");
    let ended = demo.run(Duration::from_mins(1)).await?.expect_code(1)?;
    let cause = "through the proxy that HTTPS_PROXY names";
    for part in ["PostgreSQL 17 or newer is needed", "repo1.maven.org", cause, "install PostgreSQL"]
    {
        assert!(ended.stderr.contains(part), "{part:?} is not in:\n{}", ended.stderr);
    }
    Ok(())
}
