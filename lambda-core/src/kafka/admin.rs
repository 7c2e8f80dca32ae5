//! An operator's questions about a cluster: its topic and group as the brokers describe
//! them, and a function that creates or changes the topic. Each question is asked once;
//! callers that want to wait ask again.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewPartitions, NewTopic,
    ResourceSpecifier, TopicReplication, TopicResult,
};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::error::Error;
use crate::kafka::config::{Kafka, refused};
use crate::kafka::context::Asking;
use crate::kafka::position::Watermarks;
use crate::kafka::remedy;
use crate::kafka::topic::{self, ANSWER_TIMEOUT, Observer};

/// Time that brokers may take to create a topic everywhere.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of looks at a change that another client made in the meantime.
const TRIES: u32 = 30;

/// Time for a change to reach every broker.
const NEWS: Duration = Duration::from_millis(200);

/// A cluster as its brokers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cluster {
    /// The brokers that are up, as `host:port`.
    pub brokers: Vec<String>,
    /// The topic's partitions; none if it does not exist.
    pub partitions: Vec<Partition>,
}

impl Cluster {
    /// The partitions without a leader, which can be neither read nor written.
    pub fn without_leader(&self) -> Vec<i32> {
        self.partitions.iter().filter(|it| it.leader.is_none()).map(|it| it.id).collect()
    }

    /// Replication factor of the topic; if partitions differ, the lowest.
    pub fn replication_factor(&self) -> usize {
        self.partitions.iter().map(|it| it.replicas).min().unwrap_or_default()
    }
}

/// A partition as its brokers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// Its number.
    pub id: i32,
    /// The broker that leads it, if any.
    pub leader: Option<i32>,
    /// Number of brokers that keep it.
    pub replicas: usize,
    /// Number of replicas in sync.
    pub in_sync: usize,
}

/// A setting of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// The effective value.
    pub value: String,
    /// Whether it was set on this topic, instead of by default.
    pub own: bool,
}

/// A consumer group as its coordinator describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `Stable`, `Empty`, `PreparingRebalance` …
    pub state: String,
    /// Assignment protocol (`cooperative-sticky`).
    pub protocol: String,
    /// Number of members.
    pub members: usize,
}

/// Asks once, on a client of its own. Returns the reason of a failure: after a wrong
/// password or an untrusted certificate, the query itself only reports that no broker
/// answered.
async fn asking<T: Send + 'static>(
    config: &Kafka,
    question: impl Fn(&Kafka, &Observer) -> Result<T, Error> + Send + Sync + 'static,
) -> Result<T, Error> {
    topic::ask(config, move |config| {
        let observer = topic::observer(config)?;
        question(config, &observer).map_err(|error| {
            let error = topic::reason(&observer, error);
            match observer.context().distrust() {
                // A reader continues with the brokers that it trusts. Here those were not
                // enough for an answer.
                Some(why) if matches!(error, Error::Unreachable { .. }) => {
                    remedy::distrusted(config.bootstrap(), why)
                }
                _ => unreachable(config, observer.context().failure(), error),
            }
        })
    })
    .await
}

/// Names the brokers in an error that none of them answered, with the `failure` of the last
/// connection if librdkafka reported one.
fn unreachable(config: &Kafka, failure: Option<String>, error: Error) -> Error {
    let Error::Unreachable { server, .. } = error else { return error };
    let asked = config.bootstrap();
    let why = failure.unwrap_or_else(|| format!("no answer within {ANSWER_TIMEOUT:?}"));
    let source = format!("{asked}: {why}; {}", remedy::REACH_BROKERS).into();
    Error::Unreachable { server, source }
}

/// Reads the brokers and the topic.
///
/// # Errors
/// `Transient` when no broker answers; `Fatal` for a login, a grant or untrusted
/// certificates.
pub async fn cluster(config: &Kafka) -> Result<Cluster, Error> {
    asking(config, |config, observer| {
        let metadata = observer
            .fetch_metadata(Some(config.topic()), ANSWER_TIMEOUT)
            .map_err(|error| remedy::explain(error, "list the brokers and the topic in Kafka"))?;
        let brokers = metadata.brokers().iter();
        let brokers = brokers.map(|it| format!("{}:{}", it.host(), it.port())).collect();
        let mut partitions = Vec::new();
        for topic in metadata.topics().iter().filter(|it| it.name() == config.topic()) {
            match topic.error().map(RDKafkaErrorCode::from) {
                None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
                Some(RDKafkaErrorCode::UnknownTopicOrPartition) => continue,
                Some(code) => {
                    let error = KafkaError::MetadataFetch(code);
                    return Err(remedy::explain(error, "describe the topic in Kafka"));
                }
            }
            partitions.extend(topic.partitions().iter().map(|it| Partition {
                id: it.id(),
                leader: (it.leader() >= 0).then(|| it.leader()),
                replicas: it.replicas().len(),
                in_sync: it.isr().len(),
            }));
        }
        Ok(Cluster { brokers, partitions })
    })
    .await
}

/// Reads the topic's settings, by name.
///
/// # Errors
/// As for [`cluster`]; also `Fatal` when our user may not read them, and `Transient` when
/// the topic does not exist.
pub async fn settings(config: &Kafka) -> Result<BTreeMap<String, Setting>, Error> {
    let admin = Admin::new(config)?;
    Ok(topic_settings(&admin.describe().await?))
}

/// Reads which offsets the topic's partitions keep, and its name as a source (see
/// [`topic::Topic::source`]).
///
/// # Errors
/// As for [`cluster`]; also `Transient` when the topic does not exist.
pub async fn offsets(config: &Kafka) -> Result<(String, BTreeMap<i32, Watermarks>), Error> {
    asking(config, |config, observer| {
        let found = topic::describe(observer.client(), config.topic())?;
        let mut offsets = BTreeMap::new();
        for partition in found.partitions {
            let watermarks = topic::watermarks(observer.client(), config.topic(), partition)?;
            offsets.insert(partition, watermarks);
        }
        Ok((found.source, offsets))
    })
    .await
}

/// Describes the consumer group. `None`: the coordinator knows no such group, keeps it by
/// the broker-side protocol, which this request cannot see, or does not understand the
/// request.
///
/// # Errors
/// As for [`cluster`].
pub async fn group(config: &Kafka) -> Result<Option<Group>, Error> {
    asking(config, |config, observer| {
        let groups = match observer.fetch_group_list(Some(config.group_id()), ANSWER_TIMEOUT) {
            Err(KafkaError::GroupListFetch(RDKafkaErrorCode::UnsupportedFeature)) => {
                return Ok(None);
            }
            groups => groups
                .map_err(|error| remedy::explain(error, "describe the consumer group in Kafka"))?,
        };
        let found = groups.groups().iter().find(|it| it.name() == config.group_id());
        Ok(found.filter(|it| !matches!(it.state(), "Dead" | "")).map(|it| Group {
            state: it.state().to_owned(),
            protocol: it.protocol().to_owned(),
            members: it.members().len(),
        }))
    })
    .await
}

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Number of partitions.
    pub partitions: i32,
    /// Replication factor; `None`: the brokers' default.
    pub replication_factor: Option<i32>,
    /// Settings with required values; others stay as they are.
    pub settings: BTreeMap<String, String>,
}

/// A change that [`ensure`] made, or would make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The topic is new.
    Created {
        /// Its partitions.
        partitions: i32,
    },
    /// It has more partitions. Keys move: messages of one account keep their order only
    /// among those written before the change, and among those after it.
    Grown {
        /// Number of partitions before.
        from: i32,
        /// Number of partitions now.
        to: i32,
    },
    /// A setting has another value.
    Set {
        /// Its name.
        name: String,
        /// The effective value before.
        from: String,
        /// The effective value now.
        to: String,
    },
    /// The replication factor was left alone: only a reassignment of replicas changes it.
    ReplicationLeft {
        /// The present factor.
        is: usize,
        /// The wanted factor.
        wanted: i32,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created { partitions } => write!(f, "created, {partitions} partitions"),
            Self::Grown { from, to } => write!(
                f,
                "grown from {from} to {to} partitions: keys move between them, so the messages \
                 of an account keep their order only among those from before and among those after"
            ),
            Self::Set { name, from, to } => write!(f, "{name} set to {to}, it was {from}"),
            Self::ReplicationLeft { is, wanted } => write!(
                f,
                "replication factor left at {is}, not {wanted}: \
                 kafka-reassign-partitions.sh changes it"
            ),
        }
    }
}

/// Creates or changes the topic as wanted, and returns the changes: none, the second time.
/// Concurrent calls do no harm. With `dry_run` it changes nothing, and cannot know whether
/// the brokers would accept a setting's value.
///
/// ```no_run
/// use lambda_core::Kafka;
/// use lambda_core::kafka::admin::{Wanted, ensure};
///
/// # async fn run() -> Result<(), lambda_core::Error> {
/// let settings = [("retention.ms".into(), "604800000".into())].into();
/// let wanted = Wanted { partitions: 12, replication_factor: Some(3), settings };
/// for change in ensure(&Kafka::new("kafka:9092", "readings"), &wanted, false).await? {
///     println!("{change}");
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Fatal` when the topic has more partitions than wanted, which cannot be removed without
/// losing messages, or when the brokers refuse a setting or our user; `Transient` when no
/// broker answers.
pub async fn ensure(config: &Kafka, wanted: &Wanted, dry_run: bool) -> Result<Vec<Change>, Error> {
    let admin = Admin::new(config)?;
    let mut tries = 0;
    loop {
        let found = cluster(config).await?;
        let done = if found.partitions.is_empty() {
            admin.create(wanted, dry_run).await
        } else {
            admin.mend(&found, wanted, dry_run).await
        };
        match done {
            // Another client was faster, or some brokers do not know the topic yet.
            Err(Refusal::Raced(_)) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(NEWS).await;
            }
            Err(Refusal::Raced(code)) => return Err(admin.refuses(code)),
            Err(Refusal::Error(error)) => return Err(error),
            Ok(changes) => {
                if !dry_run {
                    await_partitions(config, wanted.partitions).await?;
                }
                return Ok(changes);
            }
        }
    }
}

/// Waits until brokers report all partitions and their leaders, which they do a moment
/// after the creation. Callers that need them for longer wait further.
async fn await_partitions(config: &Kafka, wanted: i32) -> Result<(), Error> {
    for _ in 0..TRIES {
        let found = cluster(config).await?;
        if found.partitions.len() as i32 >= wanted && found.without_leader().is_empty() {
            break;
        }
        tokio::time::sleep(NEWS).await;
    }
    Ok(())
}

/// Reason why a change was not made.
enum Refusal {
    /// The topic has changed since it was read.
    Raced(RDKafkaErrorCode),
    Error(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Whether brokers read two texts of a setting as the same value: they return what they
/// read (0.5 for 0.50, true for TRUE, a list without spaces).
fn same(one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(str::trim);
    // Integers are compared as such: a float cannot hold the largest of them.
    if let (Ok(one), Ok(other)) = (one.parse::<i64>(), other.parse::<i64>()) {
        return one == other;
    }
    if let (Ok(one), Ok(other)) = (one.parse::<f64>(), other.parse::<f64>()) {
        return one.total_cmp(&other).is_eq();
    }
    let plain = |text: &str| text.replace(' ', "").to_ascii_lowercase();
    plain(one) == plain(other)
}

/// A client that makes changes.
struct Admin {
    client: AdminClient<Asking>,
    config: Kafka,
    topic: String,
}

impl Admin {
    fn new(config: &Kafka) -> Result<Self, Error> {
        let client = config.producer().create_with_context(Asking::default());
        let client = client.map_err(|error| refused(&error))?;
        Ok(Self { client, config: config.clone(), topic: config.topic().to_owned() })
    }

    /// Error of a request to do `what`.
    fn failed(&self, error: KafkaError, what: &'static str) -> Error {
        unreachable(&self.config, None, remedy::explain(error, what))
    }

    async fn create(&self, wanted: &Wanted, dry_run: bool) -> Result<Vec<Change>, Refusal> {
        // -1: the brokers' default (KIP-464).
        let replication = TopicReplication::Fixed(wanted.replication_factor.unwrap_or(-1));
        let mut topic = NewTopic::new(&self.topic, wanted.partitions, replication);
        for (name, value) in &wanted.settings {
            topic = topic.set(name, value);
        }
        let created = self.client.create_topics([&topic], &options(dry_run)).await;
        self.answer(created)?;
        Ok(vec![Change::Created { partitions: wanted.partitions }])
    }

    /// Changes an existing topic to the wanted state.
    async fn mend(
        &self,
        found: &Cluster,
        wanted: &Wanted,
        dry_run: bool,
    ) -> Result<Vec<Change>, Refusal> {
        let mut changes = Vec::new();
        let from = found.partitions.len() as i32;
        if from > wanted.partitions {
            return Err(Refusal::Error(Error::misconfigured(
                format!("topic {} has {from} partitions, not {}", self.topic, wanted.partitions),
                "partitions cannot be removed without their messages: ask for as many or more, \
                 or create a topic with another name",
            )));
        }
        if from < wanted.partitions {
            let grown = NewPartitions::new(&self.topic, wanted.partitions as usize);
            self.answer(self.client.create_partitions([&grown], &options(dry_run)).await)?;
            changes.push(Change::Grown { from, to: wanted.partitions });
        }
        changes.extend(self.set(&wanted.settings, dry_run).await?);
        let is = found.replication_factor();
        if let Some(wanted) = wanted.replication_factor.filter(|wanted| *wanted != is as i32) {
            changes.push(Change::ReplicationLeft { is, wanted });
        }
        Ok(changes)
    }

    /// Sets the settings that differ. Kafka's request replaces all settings of the topic
    /// itself, so it carries the others unchanged.
    async fn set(
        &self,
        wanted: &BTreeMap<String, String>,
        dry_run: bool,
    ) -> Result<Vec<Change>, Refusal> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let is = topic_settings(&self.describe().await?);
        let mut changes = Vec::new();
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(&self.topic));
        for (name, setting) in is.iter().filter(|(_, setting)| setting.own) {
            alter = alter.set(name, &setting.value);
        }
        for (name, value) in wanted {
            let Some(before) = is.get(name) else {
                return Err(Refusal::Error(self.refuses(RDKafkaErrorCode::InvalidConfig)));
            };
            if !same(&before.value, value) {
                alter = alter.set(name, value);
                let (from, to) = (before.value.clone(), value.clone());
                changes.push(Change::Set { name: name.clone(), from, to });
            }
        }
        if changes.is_empty() {
            return Ok(changes);
        }
        let altered = self.client.alter_configs([&alter], &options(dry_run)).await;
        altered.map_err(|error| self.failed(error, "change the topic in Kafka"))?;
        if !dry_run {
            self.await_settings(wanted).await?;
        }
        Ok(changes)
    }

    /// Waits until the settings are in effect: the binding drops the brokers' refusal of a
    /// value, and an answer can come before every broker has the change.
    async fn await_settings(&self, wanted: &BTreeMap<String, String>) -> Result<(), Error> {
        for _ in 0..TRIES {
            let is = topic_settings(&self.describe().await?);
            if wanted
                .iter()
                .all(|(name, value)| is.get(name).is_some_and(|it| same(&it.value, value)))
            {
                return Ok(());
            }
            tokio::time::sleep(NEWS).await;
        }
        Err(self.refuses(RDKafkaErrorCode::InvalidConfig))
    }

    async fn describe(&self) -> Result<ConfigResource, Error> {
        const WHAT: &str = "read the topic's settings in Kafka";
        let asked = [ResourceSpecifier::Topic(&self.topic)];
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
        let told = self.client.describe_configs(&asked, &options).await;
        let told = told.map_err(|error| self.failed(error, WHAT))?.into_iter().next();
        match told {
            Some(Ok(resource)) => Ok(resource),
            Some(Err(RDKafkaErrorCode::TopicAuthorizationFailed)) => Err(Error::misconfigured(
                format!("could not read the settings of topic {}: not authorized", self.topic),
                "grant this user DescribeConfigs on the topic",
            )),
            Some(Err(code)) => Err(self.failed(KafkaError::AdminOp(code), WHAT)),
            None => Err(self.failed(KafkaError::AdminOp(RDKafkaErrorCode::Fail), WHAT)),
        }
    }

    /// The brokers' answer about the topic.
    fn answer(&self, answered: Result<Vec<TopicResult>, KafkaError>) -> Result<(), Refusal> {
        use RDKafkaErrorCode as Code;
        for result in answered.map_err(|error| self.failed(error, "change the topic in Kafka"))? {
            match result {
                Ok(_) => {}
                Err((
                    _,
                    code @ (Code::TopicAlreadyExists
                    | Code::UnknownTopicOrPartition
                    | Code::InvalidPartitions
                    | Code::ReassignmentInProgress),
                )) => return Err(Refusal::Raced(code)),
                Err((_, code)) => return Err(Refusal::Error(self.refuses(code))),
            }
        }
        Ok(())
    }

    fn refuses(&self, code: RDKafkaErrorCode) -> Error {
        use RDKafkaErrorCode as Code;
        let remedy = match code {
            Code::InvalidConfig | Code::InvalidRequest => {
                "check the names and values of the settings against Kafka's topic settings"
            }
            Code::InvalidReplicationFactor => {
                "ask for at most as many replicas as there are brokers"
            }
            Code::InvalidPartitions => "ask for a number of partitions that the brokers accept",
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                "grant this user Create, Alter, AlterConfigs and DescribeConfigs on the topic"
            }
            Code::PolicyViolation => "the cluster has a policy on topics: ask its administrator",
            _ => return self.failed(KafkaError::AdminOp(code), "change the topic in Kafka"),
        };
        Error::Misconfigured {
            what: format!("could not create or change topic {} in Kafka", self.topic),
            remedy: remedy.into(),
            source: Some(Box::new(KafkaError::AdminOp(code))),
        }
    }
}

fn options(dry_run: bool) -> AdminOptions {
    let options = AdminOptions::new().validate_only(dry_run);
    options.operation_timeout((!dry_run).then_some(OPERATION_TIMEOUT))
}

fn topic_settings(resource: &ConfigResource) -> BTreeMap<String, Setting> {
    let set = resource.entries.iter().filter_map(|entry| {
        let own = entry.source == ConfigSource::DynamicTopic;
        Some((entry.name.clone(), Setting { value: entry.value.clone()?, own }))
    });
    set.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::same;

    #[test]
    fn settings_are_the_same_if_brokers_read_the_same() {
        let table = [
            ("delete", "delete ", true),
            ("compact,delete", "compact, delete", true),
            ("true", "TRUE", true),
            ("0.5", "0.50", true),
            ("1209600000", "1209600000", true),
            ("1209600000", "01209600000", true),
            ("1209600000", "1209600001", false),
            ("-1", "1", false),
            ("0.5", "0.51", false),
            ("delete", "compact,delete", false),
            ("true", "false", false),
            ("", "0", false),
        ];
        for (one, other, are) in table {
            assert_eq!(same(one, other), are, "{one:?} and {other:?}");
            assert_eq!(same(other, one), are, "{other:?} and {one:?}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_are_the_same_only_if_they_are_equal(one: i64, step in -2_i64..=2) {
            let other = one.saturating_add(step);
            prop_assert_eq!(same(&one.to_string(), &format!(" {other} ")), one == other);
        }
    }
}
