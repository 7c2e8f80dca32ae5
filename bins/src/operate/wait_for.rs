//! `lambda wait-for`: waits until a server, topic or schema is ready. Made for init
//! containers.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use lambda_core::Error;
use lambda_core::error::Kind;
use lambda_core::kafka::admin;
use lambda_core::postgres::connect;
use lambda_core::postgres::schema::migrate::{LOADERS_NEED, PROTOCOL};
use lambda_core::postgres::schema::registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::args::{DatabaseArgs, KafkaArgs};
use crate::operate::timeout::TimeoutArgs;
use crate::pipelines::{NameArgs, PipelineArgs};
use crate::{Failure, Stop};

/// Time between two attempts.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Time between two log lines about what is missing.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Time that a port may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// ZooKeeper's command for the server's state, the only one allowed by default since 3.5
/// (`4lw.commands.whitelist`).
const SRVR: &str = "srvr";

/// Arguments of `lambda wait-for`.
#[derive(Debug, Args)]
pub struct WaitForArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Wait until a broker answers
    Kafka(KafkaArgs),
    /// Wait until every partition of the topic has a leader
    Topic {
        #[command(flatten)]
        pipeline: PipelineArgs,
        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Wait until a login to the database succeeds
    Postgres(DatabaseArgs),
    /// Wait until the schema fits this version's loaders, and has the pipeline
    Schema {
        #[command(flatten)]
        name: NameArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Wait until a ZooKeeper server serves (command srvr)
    Zookeeper {
        /// Address of the server
        #[arg(value_name = "HOST:PORT", value_parser = address)]
        address: String,
    },
    /// Wait until a port accepts connections
    Tcp {
        /// Address of the port
        #[arg(value_name = "HOST:PORT", value_parser = address)]
        address: String,
    },
}

/// Reason why something is not ready.
enum Missing {
    /// It may become ready.
    Yet(String),
    /// It may become ready; if it does not in time, this error is the reason.
    Unless(Error),
    /// Waiting does not help: the configuration is wrong.
    Never(Failure),
}

impl From<Error> for Missing {
    fn from(error: Error) -> Self {
        match error.kind() {
            Kind::Transient => Self::Yet(error.chain()),
            Kind::Data | Kind::Fenced | Kind::Fatal => Self::Never(error.into()),
        }
    }
}

/// Waits.
///
/// # Errors
/// 69 after the time limit, 75 on a signal to stop, 78 at once if the configuration is wrong.
pub async fn run(args: &WaitForArgs, timeout: TimeoutArgs, shutdown: &Stop) -> Result<(), Failure> {
    let waiting = Waiting { timeout: timeout.waiting(), shutdown };
    match &args.what {
        What::Kafka(kafka) => {
            let kafka = kafka.config()?;
            let what = format!("Kafka at {}", kafka.bootstrap());
            waiting.until(&what, async || brokers(&admin::cluster(&kafka).await?)).await
        }
        What::Topic { pipeline, kafka } => {
            let chosen = pipeline.chosen()?;
            let kafka = kafka.config_for(chosen.name(), chosen.topic())?;
            let look = async || led(&admin::cluster(&kafka).await?);
            waiting.until(&kafka.to_string(), look).await
        }
        What::Postgres(database) => {
            let database = database.config()?;
            let look = async || {
                connect(&database, "wait").await?;
                Ok(())
            };
            waiting.until(&format!("PostgreSQL at {database}"), look).await
        }
        What::Schema { name, database } => {
            let (name, database) = (&name.pipeline, database.config()?);
            let look = async || {
                let ready = async {
                    let connection = connect(&database, "wait").await?;
                    PROTOCOL.require(&connection, LOADERS_NEED).await?;
                    registry::knows(&connection, name).await
                };
                // lambda-db-setup also creates the role and its grants.
                if ready.await.map_err(Missing::Unless)? {
                    return Ok(());
                }
                let what = format!(
                    "pipeline {name} is not ready for this role: run lambda-db-setup for both"
                );
                Err(Missing::Yet(what))
            };
            waiting.until(&format!("the schema of {database}"), look).await
        }
        What::Zookeeper { address } => {
            waiting.until(&format!("ZooKeeper at {address}"), async || serves(address).await).await
        }
        What::Tcp { address } => {
            let look = async || within(ANSWER_TIMEOUT, TcpStream::connect(address)).await.map(drop);
            waiting.until(address, look).await
        }
    }
}

struct Waiting<'a> {
    timeout: Duration,
    shutdown: &'a Stop,
}

impl Waiting<'_> {
    /// Tries until `what` is ready.
    async fn until(
        &self,
        what: &str,
        look: impl AsyncFn() -> Result<(), Missing>,
    ) -> Result<(), Failure> {
        tokio::select! {
            there = self.look_until(what, look) => there,
            () = self.shutdown.stopped() => {
                let what = format!("stopped while waiting for {what}");
                Err(Error::Interrupted { what }.into())
            }
        }
    }

    async fn look_until(
        &self,
        what: &str,
        look: impl AsyncFn() -> Result<(), Missing>,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut said: Option<Instant> = None;
        loop {
            let (why, last) = match look().await {
                Ok(()) => return crate::print(format_args!("{what} is ready")),
                Err(Missing::Never(failure)) => return Err(failure),
                Err(Missing::Yet(why)) => (why, None),
                Err(Missing::Unless(error)) => (error.chain(), Some(error)),
            };
            if begun.elapsed() >= self.timeout {
                return Err(match last {
                    Some(error) if error.kind() == Kind::Fatal => error.into(),
                    _ => self.over(what, &why),
                });
            }
            if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                said = Some(Instant::now());
                tracing::info!("waiting for {what}: {why}");
            }
            tokio::time::sleep(LOOK_EVERY.min(self.timeout)).await;
        }
    }

    fn over(&self, what: &str, why: &str) -> Failure {
        let seconds = self.timeout.as_secs();
        Failure::Found { what: format!("{what} was not ready within {seconds} s: {why}"), code: 69 }
    }
}

fn brokers(cluster: &admin::Cluster) -> Result<(), Missing> {
    if cluster.brokers.is_empty() {
        return Err(Missing::Yet("no broker is up".into()));
    }
    Ok(())
}

fn led(cluster: &admin::Cluster) -> Result<(), Missing> {
    if cluster.partitions.is_empty() {
        return Err(Missing::Yet(
            "the topic does not exist; create it with lambda topic ensure".into(),
        ));
    }
    match cluster.without_leader().as_slice() {
        [] => Ok(()),
        without => Err(Missing::Yet(format!("partitions {without:?} have no leader"))),
    }
}

/// Asks a ZooKeeper server for its state with a four-letter command.
async fn serves(address: &str) -> Result<(), Missing> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(SRVR.as_bytes()).await?;
        let mut answer = String::new();
        // The server closes the connection after its answer, which is much shorter than this.
        stream.take(64 * 1024).read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let answer = within(ANSWER_TIMEOUT, asked).await?;
    if answer.contains("Mode: ") {
        return Ok(());
    }
    if answer.contains("not in the whitelist") {
        return Err(Missing::Never(
            Error::misconfigured(
                format!("ZooKeeper at {address} does not allow the command {SRVR}"),
                "add srvr to its 4lw.commands.whitelist",
            )
            .into(),
        ));
    }
    let line = answer.lines().next().unwrap_or_default();
    Err(Missing::Yet(if line.is_empty() {
        "it closed the connection without an answer".into()
    } else {
        format!("it answers: {}", line.chars().take(100).collect::<String>())
    }))
}

async fn within<T>(
    limit: Duration,
    asked: impl Future<Output = std::io::Result<T>>,
) -> Result<T, Missing> {
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer.map_err(|error| Missing::Yet(error.to_string())),
        Err(_) => Err(Missing::Yet(format!("no answer within {limit:?}"))),
    }
}

fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|it| it > 0) => {
            Ok(text.to_owned())
        }
        _ => Err("write an address as host:port".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        assert!(address("zookeeper:2181").is_ok() && address("[::1]:2181").is_ok());
        for text in ["zookeeper", ":2181", "zookeeper:", "zookeeper:0", "zookeeper:99999"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
