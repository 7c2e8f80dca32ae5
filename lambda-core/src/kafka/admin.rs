//! What an operator asks of a cluster: what it says about the topic and the group, and
//! to have the topic as it should be. Each question is asked once; who wants to wait
//! asks again.

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
use crate::kafka::config::{KafkaConfig, refused};
use crate::kafka::context::Asking;
use crate::kafka::position::Kept;
use crate::kafka::topic::{self, ANSWER_TIMEOUT, Observer};
use crate::remedy;

/// How long brokers may take to create a topic everywhere.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a change that somebody else made meanwhile is looked at again.
const TRIES: u32 = 30;

/// How long news of a change may take to be with every broker.
const NEWS: Duration = Duration::from_millis(200);

/// A cluster as its brokers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The brokers that are up, as `host:port`.
    pub brokers: Vec<String>,
    /// The topic's partitions; none: it is not there.
    pub partitions: Vec<Partition>,
}

impl Cluster {
    /// The partitions that nobody leads, so that nothing can be read or written there.
    pub fn without_leader(&self) -> Vec<i32> {
        self.partitions.iter().filter(|it| it.leader.is_none()).map(|it| it.id).collect()
    }

    /// In how many copies the topic is kept; of partitions that differ, the fewest.
    pub fn replication_factor(&self) -> usize {
        self.partitions.iter().map(|it| it.replicas).min().unwrap_or_default()
    }
}

/// A partition as its brokers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub id: i32,
    /// The broker that leads it, if one does.
    pub leader: Option<i32>,
    /// How many brokers keep it.
    pub replicas: usize,
    /// How many of them have all of it.
    pub in_sync: usize,
}

/// A setting of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// What counts now.
    pub value: String,
    /// Whether it was set for this topic, and not for all.
    pub own: bool,
}

/// A consumer group as its coordinator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `Stable`, `Empty`, `PreparingRebalance` …
    pub state: String,
    /// How partitions are assigned (`cooperative-sticky`).
    pub protocol: String,
    /// How many members it has.
    pub members: usize,
}

/// Asks once, on a client of its own. What goes wrong is told by its reason: to a wrong
/// password or a certificate that is not trusted the question itself only says that
/// nobody answers.
async fn asking<T: Send + 'static>(
    config: &KafkaConfig,
    question: impl Fn(&KafkaConfig, &Observer) -> Result<T, Error> + Send + Sync + 'static,
) -> Result<T, Error> {
    topic::ask(config, move |config| {
        let observer = topic::observer(config)?;
        question(config, &observer).map_err(|error| {
            let error = topic::reason(&observer, error);
            match observer.context().distrust() {
                // Whoever reads goes on with the brokers that it trusts. Here those were
                // not enough for an answer.
                Some(why) if matches!(error, Error::Unreachable { .. }) => {
                    remedy::distrusted(config.bootstrap(), why)
                }
                _ => unreachable(config, observer.context().failure(), error),
            }
        })
    })
    .await
}

/// Names the brokers in an error that says that none of them answered, and the `failure` of
/// the last connection if librdkafka reported one.
fn unreachable(config: &KafkaConfig, failure: Option<String>, error: Error) -> Error {
    let Error::Unreachable { server, .. } = error else { return error };
    let asked = config.bootstrap();
    let why = failure.unwrap_or_else(|| format!("no answer within {ANSWER_TIMEOUT:?}"));
    let source = format!("{asked}: {why}; {}", remedy::REACH_BROKERS).into();
    Error::Unreachable { server, source }
}

/// Asks for the brokers and the topic.
///
/// # Errors
/// `Transient` when no broker answers; `Fatal` for a login, a grant or certificates that
/// are not trusted.
pub async fn cluster(config: &KafkaConfig) -> Result<Cluster, Error> {
    asking(config, |config, observer| {
        let metadata = observer
            .fetch_metadata(Some(config.topic()), ANSWER_TIMEOUT)
            .map_err(|error| remedy::kafka(error, "list the brokers and the topic in Kafka"))?;
        let brokers = metadata.brokers().iter();
        let brokers = brokers.map(|it| format!("{}:{}", it.host(), it.port())).collect();
        let mut partitions = Vec::new();
        for topic in metadata.topics().iter().filter(|it| it.name() == config.topic()) {
            match topic.error().map(RDKafkaErrorCode::from) {
                None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
                Some(RDKafkaErrorCode::UnknownTopicOrPartition) => continue,
                Some(code) => {
                    let error = KafkaError::MetadataFetch(code);
                    return Err(remedy::kafka(error, "describe the topic in Kafka"));
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

/// Asks for the topic's settings, by name.
///
/// # Errors
/// As for [`cluster`]; `Fatal` too when our user may not read them, `Transient` when
/// the topic is not there.
pub async fn settings(config: &KafkaConfig) -> Result<BTreeMap<String, Setting>, Error> {
    let admin = Admin::new(config)?;
    Ok(topic_settings(&admin.describe().await?))
}

/// Asks which offsets the topic's partitions keep, and for its name as a source (see
/// [`topic::Topic::source`]).
///
/// # Errors
/// As for [`cluster`]; `Transient` too when the topic is not there.
pub async fn offsets(config: &KafkaConfig) -> Result<(String, BTreeMap<i32, Kept>), Error> {
    asking(config, |config, observer| {
        let found = topic::describe(observer.client(), config.topic())?;
        let mut offsets = BTreeMap::new();
        for partition in found.partitions {
            let kept = topic::kept(observer.client(), config.topic(), partition)?;
            offsets.insert(partition, kept);
        }
        Ok((found.source, offsets))
    })
    .await
}

/// Asks for the consumer group. `None`: the coordinator knows of no such group, or of
/// one that it keeps by the broker-side protocol, which this question cannot see, or it
/// does not understand the question.
///
/// # Errors
/// As for [`cluster`].
pub async fn group(config: &KafkaConfig) -> Result<Option<Group>, Error> {
    asking(config, |config, observer| {
        let groups = match observer.fetch_group_list(Some(config.group_id()), ANSWER_TIMEOUT) {
            Err(KafkaError::GroupListFetch(RDKafkaErrorCode::UnsupportedFeature)) => {
                return Ok(None);
            }
            groups => groups.map_err(|error| remedy::kafka(error, "describe the consumer group in Kafka"))?,
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
    /// How many partitions.
    pub partitions: i32,
    /// In how many copies; `None`: as the brokers do by default.
    pub replication_factor: Option<i32>,
    /// Settings that must have these values; others stay as they are.
    pub settings: BTreeMap<String, String>,
}

/// What [`ensure`] did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The topic is new, with so many partitions.
    Created {
        /// Its partitions.
        partitions: i32,
    },
    /// It has more partitions. Keys move: those of one account are in order only
    /// within what was written before, and within what comes after.
    Grown {
        /// How many there were.
        from: i32,
        /// How many there are.
        to: i32,
    },
    /// A setting has another value.
    Set {
        /// Its name.
        name: String,
        /// What counted before.
        from: String,
        /// What counts now.
        to: String,
    },
    /// Nothing was done about the number of copies, which only a reassignment of
    /// replicas changes.
    ReplicationLeft {
        /// How many there are.
        is: usize,
        /// How many were asked for.
        wanted: i32,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created { partitions } => write!(f, "created, {partitions} partitions"),
            Self::Grown { from, to } => write!(
                f,
                "grown from {from} to {to} partitions: keys move to others, so the messages of \
                 an account are in order only among those from before and among those after"
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

/// Sees to it that the topic is as wanted, and tells what it had to do: nothing, the
/// second time. Whoever does the same at the same time does no harm. With `dry_run` it
/// only tells, without knowing whether the brokers would take a setting's value.
///
/// # Errors
/// `Fatal` when the topic has more partitions than wanted, which nobody can take away
/// without losing messages, or when the brokers refuse a setting or our user;
/// `Transient` when no broker answers.
pub async fn ensure(
    config: &KafkaConfig,
    wanted: &Wanted,
    dry_run: bool,
) -> Result<Vec<Change>, Error> {
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
            // Somebody else was faster, or not every broker has heard of the topic yet.
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

/// Looks until brokers tell of all partitions and who leads them: they do so a moment
/// after they were made. Whoever needs them for longer waits on.
async fn await_partitions(config: &KafkaConfig, wanted: i32) -> Result<(), Error> {
    for _ in 0..TRIES {
        let found = cluster(config).await?;
        if found.partitions.len() as i32 >= wanted && found.without_leader().is_empty() {
            break;
        }
        tokio::time::sleep(NEWS).await;
    }
    Ok(())
}

/// Why a change was not made.
enum Refusal {
    /// The topic is not what it was a moment ago.
    Raced(RDKafkaErrorCode),
    Error(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Whether brokers mean the same by two texts of a setting: they give back what they
/// read (0.5 for 0.50, true for TRUE, a list without spaces).
fn same(one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(str::trim);
    // Whole numbers as such: a fraction has no room for the largest of them.
    if let (Ok(one), Ok(other)) = (one.parse::<i64>(), other.parse::<i64>()) {
        return one == other;
    }
    if let (Ok(one), Ok(other)) = (one.parse::<f64>(), other.parse::<f64>()) {
        return one.total_cmp(&other).is_eq();
    }
    let plain = |text: &str| text.replace(' ', "").to_ascii_lowercase();
    plain(one) == plain(other)
}

/// Asks for changes.
struct Admin {
    client: AdminClient<Asking>,
    config: KafkaConfig,
    topic: String,
}

impl Admin {
    fn new(config: &KafkaConfig) -> Result<Self, Error> {
        let client = config.producer().create_with_context(Asking::default());
        let client = client.map_err(|error| refused(&error))?;
        Ok(Self { client, config: config.clone(), topic: config.topic().to_owned() })
    }

    /// The error of a request to do `what`.
    fn failed(&self, error: KafkaError, what: &'static str) -> Error {
        unreachable(&self.config, None, remedy::kafka(error, what))
    }

    async fn create(&self, wanted: &Wanted, dry_run: bool) -> Result<Vec<Change>, Refusal> {
        // -1: as the brokers do by default (KIP-464).
        let replication = TopicReplication::Fixed(wanted.replication_factor.unwrap_or(-1));
        let mut topic = NewTopic::new(&self.topic, wanted.partitions, replication);
        for (name, value) in &wanted.settings {
            topic = topic.set(name, value);
        }
        let created = self.client.create_topics([&topic], &options(dry_run)).await;
        self.answer(created)?;
        Ok(vec![Change::Created { partitions: wanted.partitions }])
    }

    /// Brings a topic that is there to what is wanted.
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
                "partitions cannot be taken away without their messages: ask for as many or more, \
                 or make a topic of another name",
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

    /// Sets what differs. Kafka's request replaces all settings of the topic's own, so
    /// the others are sent along as they are.
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

    /// Looks whether settings count by now: the binding drops the brokers' refusal of a
    /// value, and an answer can come before every broker has the news.
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
                format!("the settings of topic {} may not be read", self.topic),
                "grant this user DescribeConfigs on the topic",
            )),
            Some(Err(code)) => Err(self.failed(KafkaError::AdminOp(code), WHAT)),
            None => Err(self.failed(KafkaError::AdminOp(RDKafkaErrorCode::Fail), WHAT)),
        }
    }

    /// What the brokers answered about the one topic.
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
            Code::InvalidReplicationFactor => "ask for at most as many copies as there are brokers",
            Code::InvalidPartitions => "ask for a number of partitions that the brokers allow",
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                "grant this user Create, Alter, AlterConfigs and DescribeConfigs on the topic"
            }
            Code::PolicyViolation => "the cluster has a policy on topics: ask who runs it",
            _ => return self.failed(KafkaError::AdminOp(code), "change the topic in Kafka"),
        };
        Error::Misconfigured {
            what: format!("Kafka refuses what is asked of topic {}", self.topic),
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
