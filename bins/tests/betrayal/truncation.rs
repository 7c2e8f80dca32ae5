//! A broker that loses the tail of its logs, as after a power failure before everything is on
//! disk, or an unclean election. The log then grows past the position of its readers. Without
//! a comparison with what was read, the new messages in between would never be stored.

use std::time::Duration;

use futures_util::future::try_join_all;
use lambda_core::postgres::Connection;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::liveness::until;
use lambda_lab::processes::{Process, Signal};
use lambda_lab::servers::OwnKafka;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::support::{Bench, DEADLINE};
use super::{ids, send};

/// Number of rounds: `LAMBDA_TEST_ROUNDS`, else 1.
pub(crate) fn rounds() -> u64 {
    std::env::var("LAMBDA_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().expect("a number"))
}

/// Messages in a batch; logs are cut between batches.
const BATCH: usize = 100;

/// More messages than a consumer reads while the database stores none.
const MANY: u32 = 60_000;

/// Way in which a lane reached its position before its log is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It was claimed, and nothing was read of it since.
    Claimed,
    /// The same, in a group that the broker coordinates.
    ClaimedBrokerSide,
    /// It was read to its end by the consumer that holds it.
    Read,
    /// The same, in a group that the broker coordinates.
    ReadBrokerSide,
    /// Another member of the group came and left since.
    Rebalanced,
    /// It was fenced and claimed again.
    Fenced,
    /// The database stores nothing, so the lane is paused.
    Paused,
    /// It is being read.
    Busy,
}

impl Way {
    const ALL: [Self; 8] = [
        Self::Claimed,
        Self::ClaimedBrokerSide,
        Self::Read,
        Self::ReadBrokerSide,
        Self::Rebalanced,
        Self::Fenced,
        Self::Paused,
        Self::Busy,
    ];

    fn settings(self) -> &'static str {
        match self {
            Self::ClaimedBrokerSide | Self::ReadBrokerSide => "group.protocol=consumer",
            _ => "",
        }
    }

    /// Messages sent after the cut: the log grows past the position of its readers.
    fn grows_by(self) -> u32 {
        match self {
            Self::Paused | Self::Busy => MANY + 10_000,
            _ => 300,
        }
    }

    /// The offset at which its log is cut.
    fn cut_at(self) -> i64 {
        match self {
            Self::Paused => 5_000,
            _ => 100,
        }
    }
}

/// A topic of one partition, its database and its consumer.
struct Lane {
    way: Way,
    bench: Bench,
    consumer: Process,
    /// Holds a lock, so that the database stores nothing.
    blocker: Option<Connection>,
}

pub(crate) async fn loses_tail(context: Context) -> Result<(), Failure> {
    for _ in 0..rounds() {
        let broker = context.own_kafka(None).await?;
        let begun = Way::ALL.map(|way| Lane::begin(&context, &broker, way));
        let lanes = try_join_all(begun).await?;
        // The last step before the logs are cut.
        for lane in lanes.iter().filter(|lane| lane.way == Way::Busy) {
            send_in_batches(&lane.bench, &ids(200..MANY))?;
        }
        broker.kill().await?;
        for lane in &lanes {
            let end = broker.cut(&lane.bench.topic, 0, lane.way.cut_at())?;
            assert_eq!(end, lane.way.cut_at(), "{:?}", lane.way);
        }
        broker.start_again().await?;
        for lane in &lanes {
            send_in_batches(&lane.bench, &ids(100_000..100_000 + lane.way.grows_by()))?;
        }
        try_join_all(lanes.into_iter().map(Lane::loses_nothing)).await?;
        broker.remove().await?;
    }
    Ok(())
}

impl Lane {
    /// Stores 200 messages and brings the lane to its position by `way`.
    async fn begin(context: &Context, broker: &OwnKafka, way: Way) -> Result<Self, Failure> {
        let topic = broker.broker().topic("truncated", 1).await?;
        let bootstrap = broker.broker().bootstrap().to_owned();
        let bench = Bench::with(context.clone(), context.database().await?, topic, bootstrap);
        let bench = bench.await?;
        send_in_batches(&bench, &ids(0..200))?;
        if matches!(way, Way::Claimed | Way::ClaimedBrokerSide) {
            bench.consume_to_end().await?;
        }
        let consumer = bench.consumer().env("KAFKA_CONFIG", way.settings()).start()?;
        bench.holds_lanes(&consumer).await?;
        bench.stored(200).await?;
        let mut lane = Self { way, bench, consumer, blocker: None };
        match way {
            Way::Rebalanced => lane.rebalance().await?,
            Way::Fenced => lane.fence().await?,
            Way::Paused => lane.pause().await?,
            // A claim reaches librdkafka a moment later.
            _ => tokio::time::sleep(Duration::from_secs(1)).await,
        }
        Ok(lane)
    }

    async fn rebalance(&self) -> Result<(), Failure> {
        let mut other = self.bench.consumer().start()?;
        other.says("joining the group", DEADLINE).await?;
        tokio::time::sleep(Duration::from_secs(4)).await;
        other.signal(Signal::TERM)?;
        other.wait(DEADLINE).await?.expect_code(0)?;
        self.bench.holds_lanes(&self.consumer).await
    }

    /// Replaces the consumer's claim, which the consumer notices at its next commit.
    async fn fence(&self) -> Result<(), Failure> {
        let other = "update ingest_progress set claim = gen_random_uuid()";
        self.bench.sql.execute(other, &[]).await?;
        send(&self.bench, 0, &ids(200..201))?;
        self.bench.stored(201).await
    }

    /// Blocks the database until the consumer stops reading.
    async fn pause(&mut self) -> Result<(), Failure> {
        let blocker = self.bench.database.connect().await?;
        blocker.batch_execute("begin; select from ingest_progress for update").await?;
        self.blocker = Some(blocker);
        send_in_batches(&self.bench, &ids(200..MANY))?;
        self.consumer.says("pausing", DEADLINE).await
    }

    /// Checks that every message of the log is stored, and no other, or that the consumer
    /// stopped and named the place.
    async fn loses_nothing(mut self) -> Result<(), Failure> {
        drop(self.blocker.take());
        let way = self.way;
        let stored = "select count(*) from transactions \
                      where substring(transaction_id, 2)::int >= 100000";
        let mut complete = false;
        until(format!("{way:?}: it stores all or stops"), async || {
            complete = self.bench.number(stored).await? == i64::from(way.grows_by());
            Ok(complete || self.consumer.has_ended()?)
        })
        .await?;
        if complete {
            // It stored nothing of what was cut off, although it may have read it.
            let cut_off = format!(
                "select count(*) from transactions \
                 where substring(transaction_id, 2)::int between {} and 99999",
                way.cut_at()
            );
            assert_eq!(self.bench.number(&cut_off).await?, 0, "{way:?} had stored what was cut");
            return Ok(());
        }
        let said = self.consumer.wait(DEADLINE).await?.expect_code(78)?.stderr;
        let last = said.lines().last().unwrap_or_default();
        let named = format!("partition 0 of {}", self.bench.topic);
        for part in [&*named, "offset ", "--on-source-change restart"] {
            assert!(last.contains(part), "{way:?}: no {part:?} in:\n{said}");
        }
        Ok(())
    }
}

/// Sends messages in batches, each stored on disk as it was sent.
fn send_in_batches(bench: &Bench, payloads: &[String]) -> Result<(), Failure> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.bootstrap)
        .set("enable.idempotence", "true")
        .set("max.in.flight", "1")
        .set("batch.num.messages", BATCH.to_string())
        // Full batches, even on a slow machine.
        .set("linger.ms", "1000")
        .create()?;
    for payloads in payloads.chunks(10 * BATCH) {
        for payload in payloads {
            let record = BaseRecord::to(&bench.topic).partition(0).key("A").payload(payload);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(DEADLINE)?;
    }
    Ok(())
}
