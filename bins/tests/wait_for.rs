//! `lambda wait-for`, as an init container runs it: each thing is missing first, and appears
//! during the wait.

use std::process::ExitCode;
use std::time::Duration;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::{Process, Program, Signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const DEADLINE: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(120);
        suite.plain("a port is waited for until it listens or the time is over", tcp);
        suite.plain("a signal ends the wait with 75", stopped);
        suite.plain("a ZooKeeper server is waited for until it serves", zookeeper);
        suite.plain("a database is waited for, a wrong login is not", postgres);
        suite.postgres("a schema is waited for, with the role that its setup creates", schema);
        suite.real_kafka("a topic is waited for until it exists", topic);
        suite.real_kafka("brokers are waited for until they answer", kafka);
    })
}

fn wait_for(context: &Context, arguments: &[&str]) -> Program {
    context.program(env!("CARGO_BIN_EXE_lambda")).arg("wait-for").args(arguments)
}

/// Waits until it has logged once what is missing.
async fn waiting(program: &Program, what: &str) -> Result<Process, Failure> {
    let mut process = program.start()?;
    process.says(&format!("waiting for {what}"), DEADLINE).await?;
    Ok(process)
}

async fn over(program: Program, says: &[&str]) -> Result<(), Failure> {
    let ended = program.args(["--timeout", "1"]).run(DEADLINE).await?.expect_code(69)?;
    assert!(ended.took >= Duration::from_secs(1), "{:?}", ended.took);
    assert!(ended.stderr.contains("was not ready within 1 s"), "{}", ended.stderr);
    assert!(says.iter().all(|text| ended.stderr.contains(text)), "{}", ended.stderr);
    Ok(())
}

/// An address that no program listens on.
async fn free() -> Result<String, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string())
}

async fn tcp(context: Context) -> Result<(), Failure> {
    let address = free().await?;
    let program = wait_for(&context, &["tcp", &address]);
    over(program.clone(), &[&address, "refused"]).await?;
    let process = waiting(&program, &address).await?;
    let _listening = TcpListener::bind(&address).await?;
    let ended = process.wait(DEADLINE).await?.expect_code(0)?;
    assert!(ended.stdout.contains(&format!("{address} is ready")), "{}", ended.stdout);
    wait_for(&context, &["tcp", "nonsense"]).run(DEADLINE).await?.expect_code(2)?;
    Ok(())
}

async fn stopped(context: Context) -> Result<(), Failure> {
    let address = free().await?;
    let process = waiting(&wait_for(&context, &["tcp", &address]), &address).await?;
    process.signal(Signal::TERM)?;
    process.wait(DEADLINE).await?.expect_code(75)?;
    Ok(())
}

/// Answers one `srvr` after the other with `answers`, as ZooKeeper does, and then always with
/// the last one.
async fn answer(listener: TcpListener, answers: &'static [&'static str]) {
    let mut answers = answers.iter().peekable();
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut word = [0; 4];
        if stream.read_exact(&mut word).await.is_err() {
            continue;
        }
        assert_eq!(&word, b"srvr");
        let Some(text) = answers.next() else { return };
        if answers.peek().is_none() {
            let _ = stream.write_all(text.as_bytes()).await;
            return;
        }
        let _ = stream.write_all(text.as_bytes()).await;
    }
}

const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";
const SERVING: &str = "Zookeeper version: 3.9.3\nLatency min/avg/max: 0/0.0/0\nMode: leader\n";
const FORBIDDEN: &str = "srvr is not executed because it is not in the whitelist.\n";

async fn zookeeper(context: Context) -> Result<(), Failure> {
    let address = free().await?;
    let program = wait_for(&context, &["zookeeper", &address]);
    over(program.clone(), &["ZooKeeper", "refused"]).await?;
    let process = waiting(&program, "ZooKeeper").await?;
    let listener = TcpListener::bind(&address).await?;
    let server = tokio::spawn(answer(listener, &[NOT_SERVING, "", SERVING]));
    process.wait(DEADLINE).await?.expect_code(0)?;
    server.await?;

    let listener = TcpListener::bind(&address).await?;
    let server = tokio::spawn(answer(listener, &[FORBIDDEN]));
    let ended = program.run(DEADLINE).await?.expect_code(78)?;
    assert!(ended.stderr.contains("4lw.commands.whitelist"), "{}", ended.stderr);
    Ok(server.await?)
}

async fn postgres(context: Context) -> Result<(), Failure> {
    let mut own = context.own_postgres(&[]).await?;
    let program = wait_for(&context, &["postgres"]).envs(own.server.admin().environment());
    let wrong = program.clone().env("DB_PASSWORD", "a wrong secret");
    let ended = wrong.run(DEADLINE).await?.expect_code(78)?;
    assert!(ended.stderr.contains("check DB_USER and DB_PASSWORD"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("a wrong secret"), "{}", ended.stderr);
    let nameless = program.clone().env("DB_NAME", "nowhere");
    let ended = nameless.run(DEADLINE).await?.expect_code(78)?;
    assert!(ended.stderr.contains("create the database"), "{}", ended.stderr);
    own.server.kill()?;
    over(program.clone(), &["PostgreSQL is not reachable"]).await?;
    let process = waiting(&program, "PostgreSQL").await?;
    own.server.start_again().await?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    Ok(())
}

async fn schema(context: Context) -> Result<(), Failure> {
    let database = context.empty_database().await?;
    let loader = format!("{}_loader", database.login().database);
    let owner = wait_for(&context, &["schema"]).envs(database.environment());
    over(owner.clone(), &["run lambda-db-setup"]).await?;
    let as_loader = owner.env("DB_USER", &loader).env("DB_PASSWORD", "loader's secret");
    // It was not created: the configuration is wrong, no server is missing.
    let ended = as_loader.clone().args(["--timeout", "1"]).run(DEADLINE).await?.expect_code(78)?;
    assert!(ended.stderr.contains("check DB_USER and DB_PASSWORD"), "{}", ended.stderr);
    let process = waiting(&as_loader, "the schema").await?;
    context
        .program(env!("CARGO_BIN_EXE_lambda-db-setup"))
        .envs(database.environment())
        .env("DB_LOADER_USER", &loader)
        .env("DB_LOADER_PASSWORD", "loader's secret")
        .run(DEADLINE)
        .await?
        .expect_code(0)?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    let sql = format!("drop owned by {loader}; drop role {loader}");
    Ok(database.connect().await?.batch_execute(&sql).await?)
}

async fn topic(context: Context) -> Result<(), Failure> {
    let name = format!("waited-for-{}", std::process::id());
    let on_kafka = [("KAFKA_BOOTSTRAP_SERVERS", context.bootstrap().await?), ("KAFKA_TOPIC", name)];
    let program = wait_for(&context, &["topic"]).envs(on_kafka.clone());
    over(program.clone(), &["the topic does not exist", "lambda topic ensure"]).await?;
    let process = waiting(&program, "topic waited-for").await?;
    let ensure = context.program(env!("CARGO_BIN_EXE_lambda")).envs(on_kafka);
    let ensure = ensure.args(["topic", "ensure", "--partitions", "3"]);
    ensure.run(DEADLINE).await?.expect_code(0)?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    Ok(())
}

async fn kafka(context: Context) -> Result<(), Failure> {
    let own = context.own_kafka(None).await?;
    let bootstrap = own.broker().bootstrap().to_owned();
    own.kill().await?;
    let program = wait_for(&context, &["kafka"]).env("KAFKA_BOOTSTRAP_SERVERS", &bootstrap);
    over(program.clone(), &["Kafka is not reachable"]).await?;
    let process = waiting(&program, "Kafka").await?;
    own.start_again().await?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    own.remove().await
}
