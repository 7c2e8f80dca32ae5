//! Which cluster, topic and group, and the librdkafka settings that the protocol
//! rests on.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use crate::error::Error;

/// Settings of a consumer that `KAFKA_CONFIG` may change. They bound memory (rule R25,
/// docs/protocol.md) and takeover times. With librdkafka's own queue backoff of a second the
/// queue would be empty most of the time.
const CONSUMER_DEFAULTS: &[(&str, &str)] = &[
    ("fetch.message.max.bytes", "262144"),
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.wait.max.ms", "100"),
    ("queued.max.messages.kbytes", "8192"),
    // New partitions are noticed as often.
    ("topic.metadata.refresh.interval.ms", "30000"),
];

/// Default of `fetch.max.bytes`: bytes that a broker gathers for one response. librdkafka
/// uncompresses all of them before it returns the first message.
const FETCH_BYTES_MAX: u64 = 1 << 20;

/// Default of `receive.message.max.bytes`: the largest response that is accepted. A broker sends
/// a batch whole even if it exceeds `fetch.max.bytes`, so this bounds the memory of a batch.
const RECEIVE_BYTES_MAX: u64 = 20 << 20;

/// Bytes that a response may have around one batch, as librdkafka counts them.
const BATCH_OVERHEAD_BYTES: u64 = 512;

/// Bytes that a full response may have around its batches: some for each partition and each
/// aborted transaction in it.
const RESPONSE_OVERHEAD_BYTES: u64 = 1 << 20;

/// The same, for the classic group protocol only: a frozen member is replaced after its
/// session, here 6 s instead of librdkafka's 45 s (rule R15, docs/protocol.md).
const CLASSIC_DEFAULTS: &[(&str, &str)] = &[
    ("heartbeat.interval.ms", "2000"),
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("session.timeout.ms", "6000"),
];

/// Settings of a client with TLS that `KAFKA_CONFIG` may change. The OpenSSL in it does not know
/// where this machine keeps its certificate authorities.
const TLS_DEFAULTS: &[(&str, &str)] = &[("ssl.ca.location", "probe")];

/// Settings of a consumer that `KAFKA_CONFIG` may not change. Positions are in the database, so
/// Kafka must neither move nor guess one. Messages that a broker's disk damaged must not be
/// stored.
const CONSUMER_FORCED: &[(&str, &str)] = &[
    ("auto.offset.reset", "error"),
    ("check.crcs", "true"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
];

/// Settings of a client outside the group that `KAFKA_CONFIG` may change. It reads single
/// messages.
const OBSERVER_DEFAULTS: &[(&str, &str)] = &[
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.wait.max.ms", "10"),
    ("queued.max.messages.kbytes", "4096"),
    ("queued.min.messages", "1000"),
];

/// Log context in which librdkafka reports that a topic has another id. It reports that nowhere
/// else (rule R18, docs/protocol.md).
const DEBUG: (&str, &str) = ("debug", "metadata");

/// Interval at which librdkafka reports partition ends and the brokers it reaches.
const STATISTICS_EVERY_MS: &str = "1000";

/// Settings of a producer that `KAFKA_CONFIG` may change. Two milliseconds of linger give a
/// lower tail latency than none.
const PRODUCER_DEFAULTS: &[(&str, &str)] = &[
    ("compression.type", "lz4"),
    ("linger.ms", "2"),
    ("queue.buffering.max.kbytes", "32768"),
    ("queue.buffering.max.messages", "100000"),
];

/// Settings of a producer that `KAFKA_CONFIG` may not change. One request in flight, by either
/// name of the setting: a leader that is new to the partition may refuse the first of two
/// requests and accept the second (KAFKA-15591), and librdkafka then reports both as delivered.
/// Batches grow during the wait for a response, which costs latency but not throughput. Every
/// message gets a delivery report.
const PRODUCER_FORCED: &[(&str, &str)] = &[
    ("delivery.report.only.error", "false"),
    ("enable.idempotence", "true"),
    ("max.in.flight", "1"),
    ("max.in.flight.requests.per.connection", "1"),
];

/// Keys of `KAFKA_CONFIG` that have a setting of their own, and which.
const ELSEWHERE: &[(&str, &str)] = &[
    ("bootstrap.servers", "KAFKA_BOOTSTRAP_SERVERS"),
    ("metadata.broker.list", "KAFKA_BOOTSTRAP_SERVERS"),
    ("group.id", "KAFKA_GROUP_ID"),
];

/// Which cluster, topic and group. Its `Debug` shows no value of `KAFKA_CONFIG`,
/// which holds passwords.
#[derive(Clone)]
pub struct Kafka {
    bootstrap: String,
    topic: String,
    group_id: String,
    extra: BTreeMap<String, String>,
}

impl Kafka {
    /// A topic of the cluster behind `bootstrap` (`host:port`, several separated by commas), to
    /// be read as the group `lambda-consumer`.
    ///
    /// ```
    /// use lambda_core::Kafka;
    ///
    /// let kafka = Kafka::new("kafka-1:9092,kafka-2:9092", "readings").group("readings");
    /// assert_eq!((kafka.topic(), kafka.group_id()), ("readings", "readings"));
    /// ```
    pub fn new(bootstrap: &str, topic: &str) -> Self {
        Self {
            bootstrap: bootstrap.trim().into(),
            topic: topic.trim().into(),
            group_id: "lambda-consumer".into(),
            extra: BTreeMap::new(),
        }
    }

    /// The same topic, to be read as another group.
    #[must_use]
    pub fn group(self, group_id: &str) -> Self {
        Self { group_id: group_id.trim().into(), ..self }
    }

    /// The same with further librdkafka settings, one `key=value` a line; blank lines and lines
    /// that start with `#` are skipped.
    ///
    /// ```
    /// use lambda_core::Kafka;
    ///
    /// let kafka = || Kafka::new("kafka:9092", "readings");
    /// assert!(kafka().settings("# smaller fetches\nfetch.max.bytes=262144").is_ok());
    /// // Positions are in PostgreSQL, so Kafka must not keep any.
    /// assert!(kafka().settings("enable.auto.commit=true").is_err());
    /// ```
    ///
    /// # Errors
    /// [`Error::Misconfigured`] if a line is no `key=value`, and as for [`Self::check`].
    pub fn settings(self, lines: &str) -> Result<Self, Error> {
        let config = Self { extra: parse_extra(lines)?, ..self };
        config.check()?;
        Ok(config)
    }

    /// The brokers asked first.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The consumer group.
    pub fn group_id(&self) -> &str {
        &self.group_id
    }

    /// Size of the largest batch that a consumer reads, in bytes as the broker keeps it.
    pub fn batch_bytes_max(&self) -> u64 {
        self.receive_bytes_max() - BATCH_OVERHEAD_BYTES
    }

    /// A setting of `KAFKA_CONFIG`; nothing also if it is no number, which librdkafka refuses.
    fn number(&self, key: &str) -> Option<u64> {
        self.extra.get(key)?.parse().ok()
    }

    fn fetch_bytes_max(&self) -> u64 {
        // librdkafka refuses a fetch that is smaller than what the same settings let a producer
        // send.
        let sent = self.number("message.max.bytes").unwrap_or_default();
        self.number("fetch.max.bytes").unwrap_or(FETCH_BYTES_MAX.max(sent))
    }

    /// The largest response that is read from a broker, in bytes.
    pub(crate) fn receive_bytes_max(&self) -> u64 {
        let fetched = self.fetch_bytes_max().saturating_add(RESPONSE_OVERHEAD_BYTES);
        self.number("receive.message.max.bytes").unwrap_or(RECEIVE_BYTES_MAX.max(fetched))
    }

    /// Bounds the responses of a client that reads.
    fn bound_responses(&self, config: &mut ClientConfig) {
        let bounds = [
            ("fetch.max.bytes", self.fetch_bytes_max()),
            ("receive.message.max.bytes", self.receive_bytes_max()),
        ];
        for (key, bytes) in bounds {
            if !self.extra.contains_key(key) {
                config.set(key, bytes.to_string());
            }
        }
    }

    /// Whether groups are coordinated by the broker (KIP-848) instead of by one of
    /// their members.
    fn broker_side_groups(&self) -> bool {
        self.extra.get("group.protocol").is_some_and(|it| it.eq_ignore_ascii_case("consumer"))
    }

    /// The settings of a consumer in the group.
    pub(crate) fn consumer(&self) -> ClientConfig {
        let mut config = self.base(CONSUMER_DEFAULTS);
        if !self.broker_side_groups() {
            // The broker-side protocol refuses these three outright.
            self.defaults(&mut config, CLASSIC_DEFAULTS);
        }
        config.set("group.id", &self.group_id).set("statistics.interval.ms", STATISTICS_EVERY_MS);
        self.bound_responses(&mut config);
        force(&mut config, CONSUMER_FORCED);
        let (key, ours) = DEBUG;
        let debug = match self.extra.get(key) {
            Some(theirs) => format!("{theirs},{ours}"),
            None => ours.to_owned(),
        };
        config.set(key, debug).set_log_level(RDKafkaLogLevel::Debug);
        config
    }

    /// The settings of a client that asks about the topic and reads single messages.
    /// It bears the group's name, without which librdkafka assigns nothing, and
    /// never joins it.
    pub(crate) fn observer(&self) -> ClientConfig {
        let mut config = self.base(OBSERVER_DEFAULTS);
        // It has no session, so these could only contradict librdkafka's defaults.
        for key in
            ["group.protocol", "group.instance.id", "session.timeout.ms", "max.poll.interval.ms"]
        {
            config.remove(key);
        }
        config.set("group.id", &self.group_id);
        self.bound_responses(&mut config);
        force(&mut config, CONSUMER_FORCED);
        config
    }

    /// The settings of a producer.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.base(PRODUCER_DEFAULTS);
        config.set("statistics.interval.ms", STATISTICS_EVERY_MS);
        force(&mut config, PRODUCER_FORCED);
        config
    }

    fn base(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("client.id", "lambda");
        for (key, value) in &self.extra {
            config.set(key, value);
        }
        self.defaults(&mut config, defaults);
        let protocol = self.extra.get("security.protocol");
        if protocol.is_some_and(|it| is_tls(it)) && !self.extra.contains_key("ssl.ca.pem") {
            self.defaults(&mut config, TLS_DEFAULTS);
        }
        config
    }

    fn defaults(&self, config: &mut ClientConfig, defaults: &[(&str, &str)]) {
        for (key, value) in defaults {
            if !self.extra.contains_key(*key) {
                config.set(*key, *value);
            }
        }
    }

    /// Checks names and settings, which every client does before it connects.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] if a name is empty, a setting is unknown to librdkafka, or
    /// one contradicts the delivery protocol.
    pub fn check(&self) -> Result<(), Error> {
        let named = [
            ("KAFKA_BOOTSTRAP_SERVERS", &self.bootstrap),
            ("KAFKA_TOPIC", &self.topic),
            ("KAFKA_GROUP_ID", &self.group_id),
        ];
        for (variable, value) in named {
            if value.is_empty() || value.contains('\0') {
                return Err(Error::misconfigured(
                    format!("{variable} is empty or holds a NUL"),
                    format!("set {variable}"),
                ));
            }
        }
        for (key, value) in &self.extra {
            if let Some((_, variable)) = ELSEWHERE.iter().find(|(other, _)| other == key) {
                return Err(Error::misconfigured(
                    format!("KAFKA_CONFIG sets {key}"),
                    format!("set {variable} instead"),
                ));
            }
            let mut forced = CONSUMER_FORCED.iter().chain(PRODUCER_FORCED);
            if let Some((_, wanted)) =
                forced.find(|(other, wanted)| other == key && wanted != value)
            {
                return Err(Error::misconfigured(
                    format!("KAFKA_CONFIG sets {key}, on which exactly-once delivery rests"),
                    format!("leave it out; it is always {wanted}"),
                ));
            }
        }
        // Only the leader knows the end of a partition. Read from a follower that lags,
        // messages would look like the gaps that transaction markers leave (rule R8,
        // docs/protocol.md).
        if self.extra.contains_key("client.rack") {
            return Err(Error::misconfigured(
                "KAFKA_CONFIG sets client.rack, by which brokers let followers be read",
                "leave it out; only leaders are read, since a follower may not have yet what \
                 the leader says is there",
            ));
        }
        self.check_assignors()?;
        self.check_tls()?;
        // librdkafka rejects unknown keys and values only when it builds a client's settings.
        self.consumer().create_native_config().map_err(|error| refused(&error))?;
        self.producer().create_native_config().map_err(|error| refused(&error))?;
        Ok(())
    }

    /// Refuses in its own words what librdkafka without OpenSSL cannot do.
    fn check_tls(&self) -> Result<(), Error> {
        let asks = |key: &str, value: &str| match key {
            "security.protocol" => is_tls(value),
            "sasl.mechanism" | "sasl.mechanisms" => value.to_ascii_uppercase().starts_with("SCRAM"),
            _ => key.starts_with("ssl."),
        };
        match self.extra.iter().find(|(key, value)| asks(key, value)) {
            Some((key, _)) if !cfg!(feature = "kafka-tls") => Err(Error::misconfigured(
                format!(
                    "KAFKA_CONFIG sets {key}, and this program was built without TLS for Kafka"
                ),
                "use one that was built with the Cargo feature kafka-tls",
            )),
            _ => Ok(()),
        }
    }

    fn check_assignors(&self) -> Result<(), Error> {
        let Some(strategy) = self.extra.get("partition.assignment.strategy") else {
            return Ok(());
        };
        if self.broker_side_groups() {
            return Err(Error::misconfigured(
                "KAFKA_CONFIG sets partition.assignment.strategy beside group.protocol=consumer",
                "leave it out; the broker assigns",
            ));
        }
        match strategy.split(',').map(str::trim).find(|name| *name != "cooperative-sticky") {
            None => Ok(()),
            Some(name) => Err(Error::misconfigured(
                format!("KAFKA_CONFIG sets the partition assignor {name}"),
                "use cooperative-sticky: an eager assignor stops every consumer at each rebalance",
            )),
        }
    }
}

fn parse_extra(text: &str) -> Result<BTreeMap<String, String>, Error> {
    let mut extra = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The line may hold a password, so the error names only its number.
        let pair = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        match pair {
            Some((key, value)) if is_key(key) && !line.contains('\0') => {
                extra.insert(key.to_owned(), value.to_owned());
            }
            _ => {
                return Err(Error::misconfigured(
                    format!("line {} of KAFKA_CONFIG is no setting", index + 1),
                    "write key=value, one a line",
                ));
            }
        }
    }
    Ok(extra)
}

/// Whether this value of `security.protocol` asks for TLS.
fn is_tls(protocol: &str) -> bool {
    protocol.to_ascii_lowercase().contains("ssl")
}

/// Whether a key looks like one of librdkafka's. An error does not show any other: it may be
/// part of a password or of a private key that was split into lines.
fn is_key(key: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_');
    !key.is_empty() && key.bytes().all(allowed)
}

fn force(config: &mut ClientConfig, settings: &[(&str, &str)]) {
    for (key, value) in settings {
        config.set(*key, *value);
    }
}

/// An error of librdkafka about a setting, without the setting's value.
pub(crate) fn refused(error: &KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, _, key, _) => Error::misconfigured(
            format!("librdkafka refuses the setting {key}"),
            "check KAFKA_CONFIG against librdkafka's CONFIGURATION.md",
        ),
        other => Error::Misconfigured {
            what: "librdkafka refuses its settings".into(),
            remedy: "check KAFKA_CONFIG".into(),
            source: Some(other.to_string().into()),
        },
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("bootstrap", &self.bootstrap)
            .field("topic", &self.topic)
            .field("group_id", &self.group_id)
            .field("extra", &self.extra.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl fmt::Display for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {} at {}", self.topic, self.bootstrap)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn with(extra: &str) -> Result<Kafka, Error> {
        Kafka::new("localhost:9092", "transactions").group("lambda").settings(extra)
    }

    fn remedy_of(extra: &str) -> String {
        let error = with(extra).unwrap_err();
        assert_eq!(error.exit_code(), 78, "{error}");
        error.remedy().unwrap().to_owned()
    }

    #[test]
    fn positions_are_never_kafkas_to_choose() {
        let consumer = with("").unwrap().consumer();
        assert_eq!(consumer.get("auto.offset.reset"), Some("error"));
        assert_eq!(consumer.get("enable.auto.commit"), Some("false"));
        assert!(remedy_of("auto.offset.reset=latest").contains("always error"));
        assert!(remedy_of("enable.idempotence=false").contains("always true"));
        for name in ["max.in.flight", "max.in.flight.requests.per.connection"] {
            assert!(remedy_of(&format!("{name}=5")).contains("always 1"), "{name}");
        }
    }

    #[test]
    fn eager_assignors_are_refused() {
        for extra in [
            "partition.assignment.strategy=range",
            "partition.assignment.strategy=cooperative-sticky,roundrobin",
        ] {
            assert!(remedy_of(extra).contains("cooperative-sticky"), "{extra}");
        }
        assert!(with("partition.assignment.strategy=cooperative-sticky").is_ok());
    }

    #[test]
    fn followers_are_not_read() {
        assert!(remedy_of("client.rack=eu-1a").contains("only leaders"));
    }

    #[test]
    fn the_broker_side_protocol_gets_no_classic_setting() {
        let consumer = with("group.protocol=consumer").unwrap().consumer();
        for (key, _) in CLASSIC_DEFAULTS {
            assert_eq!(consumer.get(key), None, "{key}");
        }
        assert!(
            remedy_of("group.protocol=consumer\npartition.assignment.strategy=cooperative-sticky")
                .contains("leave it out")
        );
    }

    #[test]
    fn settings_are_read_line_by_line_and_checked_at_once() {
        let config = with("# comment\n\n socket.keepalive.enable = true \n").unwrap();
        assert_eq!(config.consumer().get("socket.keepalive.enable"), Some("true"));
        assert!(
            with("session.timeout.ms=45000").unwrap().consumer().get("session.timeout.ms")
                == Some("45000")
        );
        assert!(with("no.such.setting=1").unwrap_err().to_string().contains("no.such.setting"));
        assert!(with("a=b\nnonsense").unwrap_err().to_string().contains("line 2"));
        assert!(remedy_of("group.id=other").contains("KAFKA_GROUP_ID"));
        for unnamed in
            [Kafka::new("", "t"), Kafka::new("k:1", " "), Kafka::new("k:1", "t").group("")]
        {
            assert_eq!(unnamed.check().unwrap_err().exit_code(), 78);
        }
    }

    #[test]
    fn the_largest_response_is_bounded_and_holds_what_is_fetched_at_once() {
        let limit = |extra: &str| {
            let config = with(extra).unwrap();
            let key = "receive.message.max.bytes";
            assert_eq!(config.consumer().get(key), config.observer().get(key));
            let consumer: Result<rdkafka::consumer::BaseConsumer, _> = config.consumer().create();
            assert!(consumer.is_ok(), "{extra}: {:?}", consumer.err());
            (config.consumer().get(key).unwrap().parse::<u64>().unwrap(), config.batch_bytes_max())
        };
        assert_eq!(limit(""), (20_971_520, 20_971_008));
        assert_eq!(limit("fetch.max.bytes=50000000"), (51_048_576, 51_048_064));
        assert_eq!(limit("receive.message.max.bytes=5000000"), (5_000_000, 4_999_488));
        assert_eq!(limit("message.max.bytes=40000000").0, 41_048_576);
        assert!(with("receive.message.max.bytes=many").is_err());
    }

    #[test]
    fn a_client_outside_the_group_is_not_bound_by_its_settings() {
        let kafka = with("max.poll.interval.ms=7000\ngroup.instance.id=one").unwrap();
        let observer: Result<rdkafka::consumer::BaseConsumer, _> = kafka.observer().create();
        assert!(observer.is_ok(), "{:?}", observer.err());
    }

    #[test]
    #[cfg(not(feature = "kafka-tls"))]
    fn what_needs_tls_is_refused_by_a_build_without_it() {
        for extra in [
            "security.protocol=SASL_SSL",
            "security.protocol=ssl",
            "sasl.mechanism=SCRAM-SHA-512",
            "ssl.ca.location=/ca.pem",
        ] {
            assert!(remedy_of(extra).contains("kafka-tls"), "{extra}");
        }
        let plain = "security.protocol=sasl_plaintext\nsasl.mechanism=PLAIN\nsasl.username=u\n\
                     sasl.password=p";
        assert!(with(plain).is_ok());
    }

    #[test]
    #[cfg(feature = "kafka-tls")]
    fn authorities_are_looked_for_on_this_machine_unless_they_are_named() {
        let location = |extra: &str| {
            let config = with(&format!("security.protocol=ssl\n{extra}")).unwrap().producer();
            config.get("ssl.ca.location").map(str::to_owned)
        };
        assert_eq!(location("").as_deref(), Some("probe"));
        assert_eq!(location("ssl.ca.location=/ca.pem").as_deref(), Some("/ca.pem"));
        assert_eq!(location("ssl.ca.pem=x"), None);
    }

    #[test]
    fn no_secret_is_ever_shown() {
        let config = with("sasl.username=me\nsasl.password=hunter2");
        let shown = match config {
            Ok(config) => format!("{config:?} {config}"),
            Err(error) => error.chain(),
        };
        assert!(!shown.contains("hunter2"), "{shown}");
        let refused = with("sasl.mechanism=hunter2\nno=hunter2").unwrap_err();
        assert!(!refused.chain().contains("hunter2"), "{}", refused.chain());
        let broken = with("ssl.key.pem=-----BEGIN\nMIIHunter2==").unwrap_err();
        assert!(!broken.chain().contains("Hunter2"), "{}", broken.chain());
    }
}
