//! Kafka, or librdkafka's own broker inside this process where there is none.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, Producer};
use testcontainers_modules::kafka::apache::{self, KAFKA_PORT};
use testcontainers_modules::testcontainers::runners::AsyncRunner;
use testcontainers_modules::testcontainers::{ContainerAsync, ContainerRequest, ImageExt};

use crate::Failure;
use crate::servers::docker;
use crate::servers::scratch::Scratch;

/// A cluster to use instead of starting one.
pub const SERVERS: &str = "LAMBDA_TEST_BOOTSTRAP_SERVERS";

/// Between two questions whether a broker answers.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// A broker, and how to get fresh topics from it.
pub struct Kafka {
    bootstrap: String,
    names: AtomicU32,
    broker: Broker,
}

enum Broker {
    Given,
    Container(
        #[expect(dead_code, reason = "held until it is dropped")]
        Box<ContainerAsync<apache::Kafka>>,
    ),
    InProcess(BaseProducer),
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kafka({})", self.bootstrap)
    }
}

impl Kafka {
    /// The cluster of the environment; a container where a Docker engine answers;
    /// else a broker in this process.
    ///
    /// # Errors
    /// When none of them can be used.
    pub async fn start(scratch: &Arc<Scratch>) -> Result<Self, Failure> {
        if let Ok(bootstrap) = env::var(SERVERS) {
            return Ok(Self::at(&bootstrap));
        }
        if docker::available().await? {
            return Self::container(scratch).await;
        }
        Self::in_process()
    }

    /// A cluster that is there.
    pub fn at(bootstrap: &str) -> Self {
        Self::of(bootstrap.to_owned(), Broker::Given)
    }

    /// Whether [`Kafka::start`] would give a real broker.
    ///
    /// # Errors
    /// When Docker is required and missing.
    pub async fn real_is_available() -> Result<bool, Failure> {
        Ok(env::var(SERVERS).is_ok() || docker::available().await?)
    }

    /// librdkafka's broker, in this process: real groups on both protocols, but
    /// nothing on disk, no transactions, and at most 5 MiB or 100,000 messages
    /// kept in a partition.
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn in_process() -> Result<Self, Failure> {
        let producer: BaseProducer = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            // The broker's own client would log each connection that ends.
            .set("log_level", "2")
            .create()?;
        let bootstrap = producer
            .client()
            .mock_cluster()
            .ok_or("librdkafka was built without its mock broker")?
            .bootstrap_servers();
        Ok(Self::of(bootstrap, Broker::InProcess(producer)))
    }

    async fn container(scratch: &Arc<Scratch>) -> Result<Self, Failure> {
        scratch.watch_containers()?;
        let container = image().start().await?;
        let port = container.get_host_port_ipv4(KAFKA_PORT).await?;
        Ok(Self::of(format!("127.0.0.1:{port}"), Broker::Container(Box::new(container))))
    }

    fn of(bootstrap: String, broker: Broker) -> Self {
        Self { bootstrap, names: AtomicU32::new(0), broker }
    }

    /// Where its brokers are, for `bootstrap.servers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// A new topic with a name of its own, which begins with `prefix`.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn topic(&self, prefix: &str, partitions: i32) -> Result<String, Failure> {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{}-{number}", std::process::id());
        if let Broker::InProcess(producer) = &self.broker {
            let cluster = producer.client().mock_cluster().ok_or("the broker is gone")?;
            cluster.create_topic(&name, partitions, 1)?;
            return Ok(name);
        }
        let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        let results = self.admin()?.create_topics([&topic], &patient()).await?;
        for result in results {
            result.map_err(|(topic, code)| format!("cannot create topic {topic}: {code}"))?;
        }
        Ok(name)
    }

    /// Waits until a broker answers.
    ///
    /// # Errors
    /// When none does so in time.
    pub(super) async fn until_answering(&self, patience: Duration) -> Result<(), Failure> {
        let (admin, deadline) = (self.admin()?, Instant::now() + patience);
        let asked = tokio::task::spawn_blocking(move || {
            loop {
                match admin.inner().fetch_metadata(None, Duration::from_secs(5)) {
                    Ok(_) => return Ok(()),
                    // One whose connections end while it starts fails this at once.
                    Err(_) if Instant::now() < deadline => thread::sleep(TRY_AGAIN),
                    Err(error) => return Err(error.into()),
                }
            }
        });
        asked.await?
    }

    /// Deletes topics that a given cluster would keep.
    pub async fn close(&self, topics: &[String]) {
        let (Broker::Given, Ok(admin)) = (&self.broker, self.admin()) else { return };
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let _ = admin.delete_topics(&names, &patient()).await;
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, Failure> {
        Ok(ClientConfig::new().set("bootstrap.servers", &self.bootstrap).create()?)
    }
}

/// The container of a broker, to be started.
pub(super) fn image() -> ContainerRequest<apache::Kafka> {
    apache::Kafka::default()
        .with_jvm_image()
        .with_tag("4.3.1")
        // A group's first join would wait three seconds for further members.
        .with_env_var("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0")
        // The broker's session decides under the broker-side protocol, 45 s by default.
        .with_env_var("KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS", "6000")
        .with_env_var("KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS", "6000")
        .with_env_var("KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS", "1000")
        .with_env_var("KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS", "2000")
        .with_env_var("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
        .with_env_var("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1")
        .with_env_var("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
        .with_label(docker::OWNER, docker::owner())
        .with_startup_timeout(Duration::from_mins(2))
}

fn patient() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)))
}
