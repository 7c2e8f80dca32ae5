//! `lambda wait-for`: holds whoever needs something until it is there; made for init
//! containers.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use lambda_core::Error;
use lambda_core::error::Kind;
use lambda_core::kafka::admin;
use lambda_core::postgres::{connect, migrate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::args::{DatabaseArgs, KafkaArgs};
use crate::operate::timeout::TimeoutArgs;

/// How long to wait before looking again.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often it is said what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// How long a host and port may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// ZooKeeper's question about the server: the one that is allowed by default since 3.5
/// (`4lw.commands.whitelist`).
const SRVR: &str = "srvr";

/// Waits for something to be there.
#[derive(Debug, Args)]
pub struct WaitForArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Brokers that answer
    Kafka(KafkaArgs),
    /// The topic, with a leader for every partition
    Topic(KafkaArgs),
    /// A database that lets us log in
    Postgres(DatabaseArgs),
    /// A schema that this version's loaders can use
    Schema(DatabaseArgs),
    /// A ZooKeeper server that serves (asked by `srvr`)
    Zookeeper {
        /// Where it is
        #[arg(value_name = "HOST:PORT", value_parser = address)]
        address: String,
    },
    /// A port that takes connections
    Tcp {
        /// Where it is
        #[arg(value_name = "HOST:PORT", value_parser = address)]
        address: String,
    },
}

/// Why something is not there yet, or will never be.
enum Missing {
    /// It may come: why it is not there.
    Yet(String),
    /// It may come, but if it does not, this was the reason.
    Unless(Error),
    /// Somebody must set up something else.
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
/// 69 over time, 75 when told to stop, 78 at once for what waiting does not mend.
pub async fn run(
    args: &WaitForArgs,
    timeout: TimeoutArgs,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let waiting = Waiting { timeout: timeout.waiting(), shutdown };
    match &args.what {
        What::Kafka(kafka) => {
            let kafka = kafka.config()?;
            let what = format!("Kafka at {}", kafka.bootstrap());
            waiting.until(&what, async || brokers(&admin::cluster(&kafka).await?)).await
        }
        What::Topic(kafka) => {
            let kafka = kafka.config()?;
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
        What::Schema(database) => {
            let database = database.config()?;
            let look = async || {
                let ready = async {
                    let connection = connect(&database, "wait").await?;
                    migrate::require(&connection, migrate::LOADERS_NEED).await
                };
                // lambda-db-setup makes the role and its grants, too.
                ready.await.map_err(Missing::Unless)
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
    shutdown: &'a CancellationToken,
}

impl Waiting<'_> {
    /// Looks again and again until `what` is there.
    async fn until(
        &self,
        what: &str,
        look: impl AsyncFn() -> Result<(), Missing>,
    ) -> Result<(), Failure> {
        tokio::select! {
            there = self.look_until(what, look) => there,
            () = self.shutdown.cancelled() => {
                let what = format!("waiting for {what} was stopped");
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
                Ok(()) => return crate::print(format_args!("{what} is there")),
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
        Failure::Found { what: format!("{what} was not there within {seconds} s: {why}"), code: 69 }
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
        return Err(Missing::Yet("the topic is not there; lambda topic ensure creates it".into()));
    }
    match cluster.without_leader().as_slice() {
        [] => Ok(()),
        without => Err(Missing::Yet(format!("partitions {without:?} have no leader"))),
    }
}

/// Asks a ZooKeeper server by its four-letter word.
async fn serves(address: &str) -> Result<(), Missing> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(SRVR.as_bytes()).await?;
        let mut answer = String::new();
        // It closes behind its answer, which is far smaller than this.
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
                format!("ZooKeeper at {address} does not answer {SRVR}"),
                "add srvr to its 4lw.commands.whitelist",
            )
            .into(),
        ));
    }
    let line = answer.lines().next().unwrap_or_default();
    Err(Missing::Yet(if line.is_empty() {
        "it gave no answer".into()
    } else {
        format!("it says: {}", line.chars().take(100).collect::<String>())
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
        _ => Err("write it as host:port".into()),
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
