//! `lambda topic ensure` on a real broker, which is then asked for the result.

use std::process::ExitCode;
use std::time::Duration;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::Program;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigSource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.real_kafka("a topic is created, grown and configured, then left alone", ensure);
        suite.real_kafka("settings that are not given stay", others_stay);
        suite.real_kafka("settings are compared as brokers understand them", by_meaning);
        suite.real_kafka("impossible changes are refused with 78", refused);
        suite.real_kafka("one of many concurrent runs creates the topic, and all succeed", at_once);
        suite.plain("without a broker the exit code is 69", no_broker);
    })
}

struct Topic {
    name: String,
    program: Program,
    admin: AdminClient<DefaultClientContext>,
}

impl Topic {
    async fn new(context: &Context, name: &str) -> Result<Self, Failure> {
        let name = format!("{name}-{}", std::process::id());
        let bootstrap = context.bootstrap().await?;
        let program = context
            .program(env!("CARGO_BIN_EXE_lambda"))
            .env("KAFKA_BOOTSTRAP_SERVERS", &bootstrap)
            .env("KAFKA_TOPIC", &name)
            .env("LAMBDA_OUTPUT", "json")
            .args(["topic", "ensure"]);
        let admin = ClientConfig::new().set("bootstrap.servers", &bootstrap).create()?;
        Ok(Self { name, program, admin })
    }

    /// The changes that it prints.
    async fn ensure(&self, arguments: &[&str]) -> Result<Value, Failure> {
        let ended = self.program.clone().args(arguments).run(DEADLINE).await?.expect_code(0)?;
        let summary = ended.json("changes")?;
        assert_eq!(summary["topic"], *self.name);
        Ok(summary["changes"].clone())
    }

    fn partitions(&self) -> Result<usize, Failure> {
        let all = self.admin.inner().fetch_metadata(None, DEADLINE)?;
        let found = all.topics().iter().find(|topic| topic.name() == self.name);
        Ok(found.map_or(0, |topic| topic.partitions().len()))
    }

    /// The topic's own settings.
    async fn own(&self) -> Result<Vec<(String, String)>, Failure> {
        let asked = [ResourceSpecifier::Topic(&self.name)];
        let told = self.admin.describe_configs(&asked, &AdminOptions::new()).await?;
        let told = told.into_iter().next().ok_or("no answer")?;
        let resource = told.map_err(|code| format!("not returned: {code}"))?;
        let own = resource.entries.into_iter();
        let own = own.filter(|entry| entry.source == ConfigSource::DynamicTopic);
        let mut own: Vec<(String, String)> =
            own.map(|entry| (entry.name, entry.value.unwrap_or_default())).collect();
        own.sort();
        Ok(own)
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn ensure(context: Context) -> Result<(), Failure> {
    let topic = Topic::new(&context, "ensured").await?;
    let three = ["--partitions", "3", "--config", "retention.ms=604800001"];
    let created = json!([{ "change": "created", "partitions": 3 }]);
    assert_eq!(topic.ensure(&[&three[..], &["--dry-run"]].concat()).await?, created);
    assert_eq!(topic.partitions()?, 0, "a dry run does nothing");
    assert_eq!(topic.ensure(&three).await?, created);
    assert_eq!(topic.partitions()?, 3);
    assert_eq!(topic.own().await?, pairs(&[("retention.ms", "604800001")]));
    assert_eq!(topic.ensure(&three).await?, json!([]));

    let five = ["--partitions", "5", "--config", "retention.ms=604800002"];
    let changed = json!([
        { "change": "grown", "from": 3, "to": 5 },
        { "change": "set", "name": "retention.ms", "from": "604800001", "to": "604800002" },
    ]);
    assert_eq!(topic.ensure(&[&five[..], &["--dry-run"]].concat()).await?, changed);
    assert_eq!(topic.partitions()?, 3, "a dry run does nothing");
    assert_eq!(topic.own().await?, pairs(&[("retention.ms", "604800001")]));
    assert_eq!(topic.ensure(&five).await?, changed);
    assert_eq!(topic.partitions()?, 5);
    assert_eq!(topic.own().await?, pairs(&[("retention.ms", "604800002")]));
    assert_eq!(topic.ensure(&five).await?, json!([]));

    let people = topic.program.clone().args(["--output", "human", "--partitions", "6"]);
    let said = people.clone().run(DEADLINE).await?.expect_code(0)?.stdout;
    assert!(said.contains("grown from 5 to 6 partitions: keys move between them"), "{said}");
    let said = people.run(DEADLINE).await?.expect_code(0)?.stdout;
    assert!(said.contains("nothing to change"), "{said}");
    Ok(())
}

/// Kafka's request replaces all of a topic's own settings.
async fn others_stay(context: Context) -> Result<(), Failure> {
    let topic = Topic::new(&context, "kept").await?;
    topic
        .ensure(&[
            "--partitions",
            "1",
            "--config",
            "retention.ms=604800001",
            "--config=segment.ms=3600000",
        ])
        .await?;
    let set = topic.ensure(&["--partitions", "1", "--config", "cleanup.policy=compact"]).await?;
    assert_eq!(
        set,
        json!([{ "change": "set", "name": "cleanup.policy", "from": "delete", "to": "compact" }])
    );
    let expected = pairs(&[
        ("cleanup.policy", "compact"),
        ("retention.ms", "604800001"),
        ("segment.ms", "3600000"),
    ]);
    assert_eq!(topic.own().await?, expected);
    Ok(())
}

/// Brokers return a value in their own form.
async fn by_meaning(context: Context) -> Result<(), Failure> {
    let topic = Topic::new(&context, "meant").await?;
    let written = [
        "--partitions=1",
        "--config=min.cleanable.dirty.ratio=0.250",
        "--config=unclean.leader.election.enable=TRUE",
        "--config=cleanup.policy=compact, delete",
        "--config=retention.ms=9223372036854775806",
    ];
    let created = json!([{ "change": "created", "partitions": 1 }]);
    assert_eq!(topic.ensure(&written).await?, created);
    assert_eq!(topic.ensure(&written).await?, json!([]));
    let own = topic.own().await?;
    // A value that is the default need not be set.
    let default = ["--partitions=1", "--config=flush.messages=9223372036854775807"];
    assert_eq!(topic.ensure(&default).await?, json!([]));
    assert_eq!(topic.own().await?, own);
    // As fractions these two are the same.
    let set = topic.ensure(&["--partitions=1", "--config=retention.ms=9223372036854775807"]);
    let (from, to) = ("9223372036854775806", "9223372036854775807");
    let changed = json!([{ "change": "set", "name": "retention.ms", "from": from, "to": to }]);
    assert_eq!(set.await?, changed);
    Ok(())
}

async fn refused(context: Context) -> Result<(), Failure> {
    let topic = Topic::new(&context, "refused").await?;
    topic.ensure(&["--partitions", "3", "--replication-factor", "1"]).await?;
    let new = Topic::new(&context, "never").await?;
    let cases = [
        (&topic, vec!["--partitions", "2"], "partitions cannot be removed"),
        (&topic, vec!["--partitions", "3", "--config", "no.such=1"], "check the names and values"),
        (&topic, vec!["--partitions", "3", "--config", "retention.ms=x"], "check the names"),
        (&new, vec!["--partitions", "3", "--config", "no.such=1"], "check the names and values"),
        (&new, vec!["--partitions", "1", "--replication-factor", "9"], "as there are brokers"),
    ];
    for (topic, arguments, says) in cases {
        let ended = topic.program.clone().args(&arguments).run(DEADLINE).await?.expect_code(78)?;
        assert!(ended.stderr.contains(says), "{arguments:?}: {}", ended.stderr);
    }
    assert_eq!((topic.partitions()?, new.partitions()?), (3, 0));
    // Only moving replicas changes it: this is reported, and no failure.
    let left = topic.ensure(&["--partitions", "3", "--replication-factor", "2"]).await?;
    assert_eq!(left, json!([{ "change": "replication_left", "is": 1, "wanted": 2 }]));
    for usage in [["--partitions", "0"], ["--config", "nonsense"]] {
        topic.program.clone().args(usage).run(DEADLINE).await?.expect_code(2)?;
    }
    Ok(())
}

async fn at_once(context: Context) -> Result<(), Failure> {
    let topic = Topic::new(&context, "raced").await?;
    let count = async |arguments: [&str; 2], change: &str| {
        let program = topic.program.clone().args(arguments);
        let started: Vec<_> = (0..6).map(|_| program.start()).collect::<Result<_, _>>()?;
        let mut count = 0;
        for process in started {
            let ended = process.wait(DEADLINE).await?.expect_code(0)?;
            let summary = ended.json("changes")?;
            let changes = summary["changes"].as_array().cloned().unwrap_or_default();
            count += changes.iter().filter(|it| it["change"] == change).count();
        }
        Ok::<_, Failure>(count)
    };
    assert_eq!(count(["--partitions", "3"], "created").await?, 1);
    assert_eq!(topic.partitions()?, 3);
    assert_eq!(count(["--partitions", "7"], "grown").await?, 1);
    assert_eq!(topic.partitions()?, 7);
    Ok(())
}

async fn no_broker(context: Context) -> Result<(), Failure> {
    let program = context.program(env!("CARGO_BIN_EXE_lambda"));
    let program = program.env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1");
    let program = program.args(["topic", "ensure", "--partitions", "1"]);
    let ended = program.run(DEADLINE).await?.expect_code(69)?;
    assert!(ended.stderr.contains("Kafka is not reachable"), "{}", ended.stderr);
    Ok(())
}
