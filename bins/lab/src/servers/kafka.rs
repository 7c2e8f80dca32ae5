//! A broker to test against: an existing one, or librdkafka's own inside this process.

use std::any::Any;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, Producer};

use crate::Failure;

/// Time between two checks whether a broker answers.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// A broker, and how to get fresh topics from it.
pub struct KafkaServer {
    bootstrap: String,
    names: AtomicU32,
    broker: Broker,
}

enum Broker {
    Given,
    Held(#[expect(dead_code, reason = "held until it is dropped")] Box<dyn Any + Send + Sync>),
    InProcess(BaseProducer),
}

impl std::fmt::Debug for KafkaServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kafka({})", self.bootstrap)
    }
}

impl KafkaServer {
    /// Uses an existing cluster.
    pub fn at(bootstrap: &str) -> Self {
        Self::of(bootstrap.to_owned(), Broker::Given)
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

    /// A broker that lives as long as `container` is held.
    pub fn held(bootstrap: String, container: impl Any + Send + Sync) -> Self {
        Self::of(bootstrap, Broker::Held(Box::new(container)))
    }

    fn of(bootstrap: String, broker: Broker) -> Self {
        Self { bootstrap, names: AtomicU32::new(0), broker }
    }

    /// Address of its brokers, for `bootstrap.servers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Creates a topic with a unique name, which begins with `prefix`.
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
            result.map_err(|(topic, code)| format!("could not create topic {topic}: {code}"))?;
        }
        Ok(name)
    }

    /// Waits until a broker answers.
    ///
    /// # Errors
    /// When none does so in time.
    pub async fn until_answering(&self, patience: Duration) -> Result<(), Failure> {
        let (admin, deadline) = (self.admin()?, Instant::now() + patience);
        let asked = tokio::task::spawn_blocking(move || {
            loop {
                match admin.inner().fetch_metadata(None, Duration::from_secs(5)) {
                    Ok(_) => return Ok(()),
                    // A broker whose connections end while it starts fails this at once.
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

fn patient() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)))
}
