//! `lambda doctor` on the cluster, the topic and what is stored of it.

use std::time::Duration;

use lambda_lab::Failure;
use lambda_lab::harness::{Context, Suite};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, Producer as _};

use crate::support::{Bench, DEADLINE};
use crate::{Report, of_all};

pub(super) fn tests(suite: &mut Suite) {
    suite.real_kafka("settings of a topic that lose messages are reported", topics);
    suite.real_kafka("lag, unread lanes and lost lanes are reported", lags);
    suite.real_kafka("a lane that moves during the check does not count as idle", moving);
    suite.plain("partitions without a leader or with one replica are reported", leaders);
}

async fn topics(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    let missing = of_all(&bench).env("KAFKA_TOPIC", "nobody-made-this");
    let report = Report::of(&missing, 78).await?;
    report.says("topic", "problem", "nobody-made-this does not exist", "lambda topic ensure");
    report.says("retention", "skipped", "the topic does not exist", "");

    let settings = |settings: &[&str]| {
        let ensure = bench.context.program(env!("CARGO_BIN_EXE_lambda"));
        let ensure = ensure
            .env("KAFKA_BOOTSTRAP_SERVERS", &bench.bootstrap)
            .env("KAFKA_TOPIC", &bench.topic)
            .args(["topic", "ensure", "--partitions", "2"]);
        settings.iter().fold(ensure, |ensure, setting| ensure.args(["--config", setting]))
    };
    let warns = ["cleanup.policy=compact", "retention.ms=3600000"];
    settings(&warns).run(DEADLINE).await?.expect_code(0)?;
    let report = Report::of(&of_all(&bench), 0).await?;
    report.says("cleanup", "warning", "cleanup.policy is compact", "set cleanup.policy=delete");
    report.says("retention", "warning", "expire after 1 h", "set retention.ms to 3 days");

    let fails = [
        ("min.insync.replicas=2", "in-sync", "2 of 1 replicas", "lower min.insync.replicas"),
        (
            "unclean.leader.election.enable=true",
            "election",
            "acknowledged messages can be lost",
            "set unclean.leader.election.enable=false",
        ),
        (
            "max.message.bytes=200000000",
            "message-size",
            "a consumer accepts 20971008 bytes",
            "lower",
        ),
    ];
    let back = ["min.insync.replicas=1", "unclean.leader.election.enable=false"];
    for (setting, check, found, remedy) in fails {
        settings(&back).args(["--config", setting]).run(DEADLINE).await?.expect_code(0)?;
        let report = Report::of(&of_all(&bench), 78).await?;
        report.says(check, "problem", found, remedy);
    }

    settings(&back)
        .args(["--config", "max.message.bytes=1048588"])
        .run(DEADLINE)
        .await?
        .expect_code(0)?;
    Report::of(&of_all(&bench), 0).await?;
    let eager: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &bench.bootstrap)
        .set("group.id", format!("{}-group", bench.topic))
        .set("partition.assignment.strategy", "range")
        .create()?;
    eager.subscribe(&[&bench.topic])?;
    while eager.assignment()?.count() < 2 {
        eager.poll(Duration::from_millis(50));
    }
    let report = Report::of(&of_all(&bench), 78).await?;
    report.says("group", "problem", "range", "stop the members that use this assignor");
    Ok(())
}

async fn lags(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    bench.produce(1_000).await?;
    let report = Report::of(&of_all(&bench).args(["--lag-max", "10"]), 75).await?;
    report.says("lag", "problem", "1000 messages are not stored", "start more lambda-consumer");
    report.says("consumers", "problem", "2 partitions have messages", "start lambda-consumer");
    bench.consume_to_end().await?;
    let report = Report::of(&of_all(&bench).args(["--lag-max", "0"]), 0).await?;
    assert_eq!(report.not_ok(), ["dead-letters", "role"], "{}", report.text);

    // Messages arrived while the lanes did not move.
    bench.burst(8, 500).await?;
    let report = Report::of(&of_all(&bench), 0).await?;
    report.says("lag", "ok", "500 messages are not stored", "");
    bench
        .sql
        .batch_execute("update ingest_progress set updated_at = now() - interval '1 h'")
        .await?;
    let report = Report::of(&of_all(&bench), 75).await?;
    report.says("consumers", "problem", "for 36", "start lambda-consumer");

    let lost = "update ingest_progress set position = position + 1000000 where partition = 1";
    bench.sql.batch_execute(lost).await?;
    let report = Report::of(&of_all(&bench), 78).await?;
    report.says(
        "positions",
        "problem",
        "has changed since it was read",
        "--on-source-change restart",
    );

    bench
        .sql
        .batch_execute("update ingest_progress set source = 'other/' || split_part(source, '/', 2)")
        .await?;
    let report = Report::of(&of_all(&bench), 75).await?;
    report.says("positions", "warning", "but these were: other/", "check KAFKA_BOOTSTRAP_SERVERS");
    Ok(())
}

/// By the clock both lanes have been idle for an hour; what counts is whether they move
/// during the check.
async fn moving(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    bench.produce(1_000).await?;
    bench.consume_to_end().await?;
    // More than this test moves the lanes by.
    bench.burst(8, 5_000).await?;
    let long_ago = "update ingest_progress set updated_at = now() - interval '1 h'";
    bench.sql.batch_execute(long_ago).await?;
    let program = of_all(&bench);
    let report_while_moving = async |lanes: &str, code: i32| {
        let sql = format!("update ingest_progress set position = position + 1 where {lanes}");
        let moves = async {
            loop {
                if let Err(error) = bench.sql.batch_execute(&sql).await {
                    return Failure::from(error);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            report = Report::of(&program, code) => report,
            error = moves => Err(error),
        }
    };
    let report = report_while_moving("true", 0).await?;
    report.says("consumers", "ok", "every partition with messages is being stored", "");
    let report = report_while_moving("partition = 0", 75).await?;
    report.says("consumers", "problem", "no progress; 1 idle for 36", "start lambda-consumer");
    Ok(())
}

/// librdkafka's broker can be set to report a partition without a leader.
async fn leaders(context: Context) -> Result<(), Failure> {
    let producer: BaseProducer =
        ClientConfig::new().set("test.mock.num.brokers", "3").set("log_level", "2").create()?;
    let cluster = producer.client().mock_cluster().ok_or("no broker in this process")?;
    cluster.create_topic("led", 3, 1)?;
    let program = context
        .program(env!("CARGO_BIN_EXE_lambda"))
        .env("KAFKA_BOOTSTRAP_SERVERS", cluster.bootstrap_servers())
        .env("KAFKA_TOPIC", "led")
        .env("LAMBDA_OUTPUT", "json")
        .args(["doctor", "--only", "kafka"]);
    let report = Report::of(&program, 0).await?;
    report.says("replication", "warning", "1 replica on 3 brokers", "kafka-reassign-partitions.sh");
    report.says("topic", "ok", "3 partitions, all with a leader", "");
    cluster.partition_leader("led", 1, None)?;
    let report = Report::of(&program, 75).await?;
    report.says("topic", "problem", "[1] of led have no leader", "start the brokers");
    Ok(())
}
