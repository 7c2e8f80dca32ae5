//! A source that no longer matches what was read of it (rule R18 in docs/protocol.md):
//! recreated topics, another cluster at the same address, expired and compacted messages,
//! transactions. On the real broker; the tests know what they produced.

#[path = "betrayal/damage.rs"]
mod damage;
mod support;
#[path = "betrayal/truncation.rs"]
mod truncation;

use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::liveness::until;
use lambda_lab::processes::{Process, Program, Signal};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use support::{Bench, DEADLINE};

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite.real_kafka("a recreated topic with fewer messages stops the next run", fewer);
        suite.real_kafka("a recreated topic with as many messages stops the next run", as_many);
        suite.real_kafka("a recreated topic with more messages stops the next run", more);
        suite.real_kafka(
            "a topic recreated with fewer messages under a running consumer stops it",
            fewer_running,
        );
        suite.real_kafka(
            "a topic recreated with more messages under a running consumer stops it before one is \
             stored",
            more_running,
        );
        suite.real_kafka(
            "with groups coordinated by the broker a recreated topic stops a running consumer too",
            more_running_broker_side,
        );
        suite.real_kafka(
            "two running members allowed to restart read a recreated topic once",
            restart_running,
        );
        suite.real_kafka(
            "another cluster at the same address stops a running consumer and is another source",
            another_cluster,
        );
        suite.real_kafka("messages that expired unread stop the next run", expired);
        suite.real_kafka("messages that expire unread stop a running consumer", expired_running);
        suite.real_kafka(
            "a member whose partitions all expire at once reads each again",
            all_expire,
        );
        suite.real_kafka("a last message that expired does not stop the next run", last_expired);
        suite.real_kafka("a last message that was compacted does not stop the next run", compacted);
        suite.real_kafka(
            "a topic is read up to its open transaction, and further after abort and commit",
            transactions,
        );
        suite.docker(
            "a byte that a broker's disk flips stops the lane there and is not stored",
            damage::flipped_byte,
        );
        suite.real_kafka("messages of every codec are read", damage::codecs);
        suite.real_kafka(
            "a topic of something else stops the consumer before it fills the dead letters",
            damage::envelopes,
        );
        suite.real_kafka(
            "with --start latest a partition that is added later is read from its beginning",
            damage::added_later,
        );
        suite.real_kafka(
            "two databases behind one consumer group are detected",
            damage::two_databases,
        );
        suite.real_kafka(
            "two members with one group.instance.id do not fence each other endlessly",
            damage::static_members,
        );
        suite.deadline(120 + 180 * truncation::rounds());
        suite.docker(
            "a log that loses its tail and grows past it stops its readers",
            truncation::loses_tail,
        );
    })
}

fn admin(bootstrap: &str) -> Result<AdminClient<DefaultClientContext>, Failure> {
    Ok(ClientConfig::new().set("bootstrap.servers", bootstrap).create()?)
}

fn patient() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(DEADLINE))
}

/// Creates a topic, once a deleted one of the same name is gone.
async fn create(bootstrap: &str, topic: &NewTopic<'_>) -> Result<(), Failure> {
    let admin = admin(bootstrap)?;
    until("the topic could be created", async || {
        let created = admin.create_topics([topic], &patient()).await?;
        Ok(created.into_iter().all(|result| result.is_ok()))
    })
    .await
}

/// A record's message, always the same for the same id.
fn payload(id: &str) -> String {
    format!(
        r#"{{"transaction_id":"{id}","account_id":"A","transaction_type":"deposit","amount":1,"timestamp":"2026-01-01 00:00:00"}}"#
    )
}

/// Sends messages to a partition, one for each payload, and waits until all are
/// stored by the broker.
fn send(bench: &Bench, partition: i32, payloads: &[String]) -> Result<(), Failure> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.bootstrap)
        .set("enable.idempotence", "true")
        .set("max.in.flight", "1")
        .create()?;
    for payload in payloads {
        let record = BaseRecord::to(&bench.topic).partition(partition).key("A").payload(payload);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(DEADLINE)?)
}

fn ids(numbers: Range<u32>) -> Vec<String> {
    numbers.map(|number| payload(&format!("T{number}"))).collect()
}

/// Deletes the topic and creates it again, empty.
async fn recreate(bench: &Bench, partitions: i32) -> Result<(), Failure> {
    let deleted = admin(&bench.bootstrap)?.delete_topics(&[&bench.topic], &patient()).await?;
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let topic = NewTopic::new(&bench.topic, partitions, TopicReplication::Fixed(1));
    create(&bench.bootstrap, &topic).await
}

fn restart(bench: &Bench) -> Program {
    bench.consumer().args(["--on-source-change", "restart"])
}

/// Outcomes of all lanes: read, inserted, duplicate, rejected.
async fn counts(bench: &Bench) -> Result<[i64; 4], Failure> {
    let sql = "select sum(read)::bigint, sum(inserted)::bigint, sum(duplicate)::bigint, \
               sum(rejected)::bigint from ingest_progress";
    let row = bench.sql.query_one(sql, &[]).await?;
    Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?])
}

/// The lanes of a partition in the order of their numbers: what follows the topic in
/// their source, position, and whether a process holds them.
async fn lanes(bench: &Bench, partition: i32) -> Result<Vec<(String, i64, bool)>, Failure> {
    let sql = "select split_part(source, '/', 2), lane, position, claim is not null \
               from ingest_progress where partition = $1 order by lane";
    let mut lanes = Vec::new();
    for row in bench.sql.query(sql, &[&partition]).await? {
        let (name, lane): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
        let name = name.strip_prefix(&bench.topic).ok_or("a lane of another topic")?;
        let aside = name.replace(&format!("#{lane}"), "#");
        lanes.push((aside, row.try_get(2)?, row.try_get(3)?));
    }
    Ok(lanes)
}

/// Checks that each lane's counts match its rows and dead letters.
async fn evidence_holds(bench: &Bench) -> Result<(), Failure> {
    let rows = "select count(*) from ingest_progress p where inserted <> \
                (select count(*) from transactions t where t.lane = p.lane)";
    assert_eq!(bench.number(rows).await?, 0, "rows are their lanes'");
    let letters = "select count(*) from ingest_progress p where rejected <> \
                   (select count(*) from dead_letters d where d.lane = p.lane)";
    assert_eq!(bench.number(letters).await?, 0, "dead letters are their lanes'");
    Ok(())
}

/// A consumer stops with 78, names partition 0, the offset and the remedy, and has stored
/// nothing.
async fn refuses(bench: &Bench, consumer: &Program, offset: &str) -> Result<(), Failure> {
    let before = counts(bench).await?;
    refused(bench, consumer.start()?, offset).await?;
    assert_eq!(counts(bench).await?, before, "nothing is stored");
    Ok(())
}

async fn refused(bench: &Bench, consumer: Process, offset: &str) -> Result<(), Failure> {
    let said = consumer.wait(DEADLINE).await?.expect_code(78)?.stderr;
    let last = said.lines().last().unwrap_or_default();
    for part in [&format!("partition 0 of {}", bench.topic), offset, "--on-source-change restart"] {
        assert!(last.contains(part), "no {part:?} in:\n{said}");
    }
    Ok(())
}

/// 100 messages of partition 0 are stored, the fourth as a dead letter; partition 1
/// is empty.
async fn stored_hundred(context: Context) -> Result<Bench, Failure> {
    let bench = Bench::new(context, 2).await?;
    let mut messages = ids(0..100);
    messages[3] = "not a record".into();
    send(&bench, 0, &messages)?;
    assert_eq!(bench.consume_to_end().await?["counts"]["read"], 100);
    Ok(bench)
}

/// Recreates the topic with the first `again` earlier messages, one more bad one at the same
/// offset, and `new` further ones, while no consumer runs.
async fn recreated(context: Context, again: u32, new: u32) -> Result<(), Failure> {
    let bench = stored_hundred(context).await?;
    recreate(&bench, 2).await?;
    let mut messages = ids(0..again);
    messages[3] = "not a record either".into();
    messages.rotate_left(1);
    messages.swap(2, 3);
    messages.extend(ids(1_000..1_000 + new));
    send(&bench, 0, &messages)?;
    refuses(&bench, &bench.consumer(), "offset 100").await?;
    refuses(&bench, &bench.consumer().arg("--exit-at-end"), "offset 100").await?;

    let ended = restart(&bench).arg("--exit-at-end").run(DEADLINE).await?.expect_code(0)?;
    let (again, new) = (i64::from(again), i64::from(new));
    assert!(ended.stderr.contains("reading it again as another lane"), "{}", ended.stderr);
    let summary = &ended.json("topics")?["topics"][0];
    assert_eq!(summary["read"], again + new);
    assert_eq!(summary["counts"]["read"], 100 + again + new, "counts continue");
    assert_eq!(counts(&bench).await?, [100 + again + new, 99 + new, again - 1, 2]);
    assert_eq!(bench.number("select count(*) from transactions").await?, 99 + new);
    let lanes = lanes(&bench, 0).await?;
    assert_eq!(lanes, [("#".into(), 100, false), (String::new(), again + new, true)]);
    evidence_holds(&bench).await?;
    // The new lane behaves like any other.
    assert_eq!(bench.consume_to_end().await?["read"], 0);
    Ok(())
}

async fn fewer(context: Context) -> Result<(), Failure> {
    recreated(context, 30, 10).await
}

async fn as_many(context: Context) -> Result<(), Failure> {
    recreated(context, 60, 40).await
}

async fn more(context: Context) -> Result<(), Failure> {
    recreated(context, 90, 60).await
}

async fn fewer_running(context: Context) -> Result<(), Failure> {
    let bench = stored_hundred(context).await?;
    let consumer = bench.consumer().start()?;
    bench.holds_lanes(&consumer).await?;
    recreate(&bench, 2).await?;
    send(&bench, 0, &ids(1_000..1_040))?;
    refused(&bench, consumer, "offset 100").await?;
    assert_eq!(counts(&bench).await?, [100, 99, 0, 1]);
    Ok(())
}

/// Freezes consumers that have read something, while the topic is recreated with 150
/// messages in partition 0.
async fn recreate_behind(bench: &Bench, consumers: &[&Process]) -> Result<(), Failure> {
    for consumer in consumers {
        consumer.freeze().await?;
    }
    recreate(bench, 2).await?;
    send(bench, 0, &ids(1_000..1_150))?;
    for consumer in consumers {
        consumer.thaw()?;
    }
    Ok(())
}

async fn more_running_by(context: Context, settings: &str) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    let consumer = bench.consumer().env("KAFKA_CONFIG", settings).start()?;
    send(&bench, 0, &ids(0..100))?;
    bench.stored(100).await?;
    recreate_behind(&bench, &[&consumer]).await?;
    refused(&bench, consumer, "offset 99").await?;
    assert_eq!(counts(&bench).await?, [100, 100, 0, 0], "nothing of the new topic is stored");
    Ok(())
}

async fn more_running(context: Context) -> Result<(), Failure> {
    more_running_by(context, "").await
}

async fn more_running_broker_side(context: Context) -> Result<(), Failure> {
    more_running_by(context, "group.protocol=consumer").await
}

async fn restart_running(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    let consumers = [restart(&bench).start()?, restart(&bench).start()?];
    for consumer in &consumers {
        bench.holds_lanes(consumer).await?;
    }
    send(&bench, 0, &ids(0..100))?;
    send(&bench, 1, &ids(100..200))?;
    bench.stored(200).await?;
    recreate_behind(&bench, &[&consumers[0], &consumers[1]]).await?;
    // Partition 1 has half of its earlier messages again.
    send(&bench, 1, &ids(150..200))?;
    bench.stored(400).await?;
    assert_eq!(counts(&bench).await?, [400, 350, 50, 0]);
    let lanes_now = |end| [("#".into(), 100, false), (String::new(), end, true)];
    assert_eq!(lanes(&bench, 0).await?, lanes_now(150));
    assert_eq!(lanes(&bench, 1).await?, lanes_now(50));
    // Once more, now with fewer messages.
    recreate(&bench, 2).await?;
    send(&bench, 0, &ids(1_100..1_160))?;
    bench.stored(460).await?;
    assert_eq!(counts(&bench).await?, [460, 360, 100, 0]);
    assert_eq!(bench.number("select count(*) from transactions").await?, 360);
    assert_eq!(lanes(&bench, 0).await?.len(), 3);
    evidence_holds(&bench).await?;
    for consumer in consumers {
        consumer.signal(Signal::TERM)?;
        consumer.wait(DEADLINE).await?.expect_code(0)?;
    }
    Ok(())
}

async fn another_cluster(context: Context) -> Result<(), Failure> {
    let first = context.own_kafka(None).await?;
    let port = first.port();
    let mut bench = Bench::new(context.clone(), 1).await?;
    bench.bootstrap = format!("127.0.0.1:{port}");
    let topic = bench.topic.clone();
    let topic = NewTopic::new(&topic, 2, TopicReplication::Fixed(1));
    create(&bench.bootstrap, &topic).await?;
    let consumer = bench.consumer().start()?;
    bench.holds_lanes(&consumer).await?;
    send(&bench, 0, &ids(0..100))?;
    bench.stored(100).await?;

    consumer.freeze().await?;
    first.remove().await?;
    let second = context.own_kafka(Some(port)).await?;
    create(&bench.bootstrap, &topic).await?;
    send(&bench, 0, &ids(50..200))?;
    send(&bench, 1, &ids(200..220))?;
    consumer.thaw()?;
    let said = consumer.wait(DEADLINE).await?.expect_code(78)?.stderr;
    let last = said.lines().last().unwrap_or_default();
    let known: String =
        bench.sql.query_one("select min(source) from ingest_progress", &[]).await?.try_get(0)?;
    for part in [&*bench.bootstrap, &*known, "start again"] {
        assert!(last.contains(part), "no {part:?} in:\n{said}");
    }
    assert_eq!(counts(&bench).await?, [100, 100, 0, 0], "nothing is mixed");

    assert_eq!(bench.consume_to_end().await?["counts"]["read"], 170);
    assert_eq!(counts(&bench).await?, [270, 220, 50, 0]);
    let sources = "select count(distinct source) from ingest_progress";
    assert_eq!(bench.number(sources).await?, 2);
    let positions = format!(
        "select count(*) from ingest_progress where source = '{known}' and position > 0 \
         and (partition, position) <> (0, 100)"
    );
    assert_eq!(bench.number(&positions).await?, 0, "the first cluster's lanes are as they were");
    second.remove().await
}

/// Makes partition 0 begin at `offset`, as retention does.
async fn expire(bench: &Bench, offset: i64) -> Result<(), Failure> {
    expire_in(bench, &[0], offset).await
}

async fn expire_in(bench: &Bench, partitions: &[i32], offset: i64) -> Result<(), Failure> {
    let mut before = TopicPartitionList::new();
    for partition in partitions {
        before.add_partition_offset(&bench.topic, *partition, Offset::Offset(offset))?;
    }
    let deleted = admin(&bench.bootstrap)?.delete_records(&before, &patient()).await?;
    assert!(deleted.elements().iter().all(|element| element.error().is_ok()), "{deleted:?}");
    Ok(())
}

async fn expired(context: Context) -> Result<(), Failure> {
    let bench = stored_hundred(context).await?;
    send(&bench, 0, &ids(100..150))?;
    expire(&bench, 130).await?;
    refuses(&bench, &bench.consumer(), "offset is 100, but it holds 130..150").await?;
    refuses(&bench, &bench.consumer().arg("--exit-at-end"), "expired").await?;
    restart(&bench).arg("--exit-at-end").run(DEADLINE).await?.expect_code(0)?;
    assert_eq!(counts(&bench).await?, [120, 119, 0, 1], "all that the topic still has");
    let lanes = lanes(&bench, 0).await?;
    assert_eq!(lanes, [("#".into(), 100, false), (String::new(), 150, true)]);
    evidence_holds(&bench).await
}

async fn expired_running(context: Context) -> Result<(), Failure> {
    let bench = stored_hundred(context).await?;
    let consumer = bench.consumer().start()?;
    bench.holds_lanes(&consumer).await?;
    send(&bench, 0, &ids(100..110))?;
    bench.stored(110).await?;
    consumer.freeze().await?;
    send(&bench, 0, &ids(110..20_000))?;
    expire(&bench, 19_990).await?;
    consumer.thaw()?;
    // It may store what it fetched before it froze or was sent since.
    let said = consumer.wait(DEADLINE).await?.expect_code(78)?.stderr;
    let last = said.lines().last().unwrap_or_default();
    for part in ["holds 19990..20000", "expired", "--on-source-change restart"] {
        assert!(last.contains(part), "no {part:?} in:\n{said}");
    }
    let position = lanes(&bench, 0).await?.remove(0).1;
    assert!(last.contains(&format!("the next offset is {position},")), "{position} in:\n{said}");
    Ok(())
}

async fn all_expire(context: Context) -> Result<(), Failure> {
    const PARTITIONS: [i32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
    let numbers = |partition: i32, from: u32, to: u32| {
        let first = 1_000 * partition.cast_unsigned();
        ids(first + from..first + to)
    };
    let bench = Bench::new(context, 8).await?;
    let consumer = restart(&bench).start()?;
    bench.holds_lanes(&consumer).await?;
    for partition in PARTITIONS {
        send(&bench, partition, &numbers(partition, 0, 10))?;
    }
    bench.stored(80).await?;
    consumer.freeze().await?;
    for partition in PARTITIONS {
        send(&bench, partition, &numbers(partition, 10, 30))?;
    }
    expire_in(&bench, &PARTITIONS, 25).await?;
    consumer.thaw()?;
    // It may have been sent some expired messages: those of one fetch, not of all partitions.
    let at_end = "select count(*) from ingest_progress where claim is not null and position = 30";
    let ended = bench.until(at_end, 8).await;
    ended.map_err(|error| format!("{error}:\n{}", consumer.stderr()))?;
    let given_up = "select count(*) from ingest_progress where source like '%#%'";
    assert!(bench.number(given_up).await? >= 4);
    let kept = "select count(*) from transactions where position between 25 and 29";
    assert_eq!(bench.number(kept).await?, 8 * 5, "all that the topic still has");
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    evidence_holds(&bench).await
}

async fn last_expired(context: Context) -> Result<(), Failure> {
    let bench = stored_hundred(context).await?;
    // Nothing is left: the partition begins and ends at the position.
    expire(&bench, 100).await?;
    assert_eq!(bench.consume_to_end().await?["read"], 0);
    let mut consumer = bench.consumer().start()?;
    consumer.says("the last message read is gone", DEADLINE).await?;
    send(&bench, 0, &ids(100..120))?;
    bench.stored(120).await?;
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    assert_eq!(lanes(&bench, 0).await?, [(String::new(), 120, true)]);
    Ok(())
}

/// The first offset at or after `offset` that a reader of partition 0 gets.
fn first_offset(bench: &Bench, offset: i64) -> Result<i64, Failure> {
    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &bench.bootstrap)
        .set("group.id", format!("{}-reader", bench.topic))
        .create()?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&bench.topic, 0, Offset::Offset(offset))?;
    reader.assign(&from)?;
    Ok(reader.poll(DEADLINE).ok_or("nothing to read")??.offset())
}

async fn compacted(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 1).await?;
    let name = format!("{}-compacted", bench.topic);
    let topic = NewTopic::new(&name, 1, TopicReplication::Fixed(1))
        .set("cleanup.policy", "compact")
        .set("segment.ms", "50")
        .set("min.cleanable.dirty.ratio", "0.001")
        .set("max.compaction.lag.ms", "1");
    create(&bench.bootstrap, &topic).await?;
    let bench = Bench { topic: name.clone(), ..bench };
    send(&bench, 0, &ids(0..20))?;
    bench.consume_to_end().await?;
    // All messages have one key. Later messages roll the segment, and the cleaner then
    // removes the earlier ones.
    let mut sent = 20;
    until("the last message read was compacted", async || {
        send(&bench, 0, &ids(sent..sent + 1))?;
        sent += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(first_offset(&bench, 19)? > 19)
    })
    .await?;
    let mut consumer = bench.consumer().start()?;
    consumer.says("the last message read is gone", DEADLINE).await?;
    send(&bench, 0, &ids(sent..sent + 1))?;
    until("the message after it was stored", async || {
        let sql = format!("select count(*) from transactions where transaction_id = 'T{sent}'");
        Ok(bench.number(&sql).await? == 1)
    })
    .await?;
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    assert_eq!(lanes(&bench, 0).await?, [(String::new(), i64::from(sent) + 1, true)]);
    admin(&bench.bootstrap)?.delete_topics(&[&name], &patient()).await?;
    Ok(())
}

/// A transaction of some messages in partition 0, left open.
fn begin(bench: &Bench, name: &str, numbers: Range<u32>) -> Result<BaseProducer, Failure> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.bootstrap)
        .set("transactional.id", format!("{}-{name}", bench.topic))
        .create()?;
    producer.init_transactions(DEADLINE)?;
    producer.begin_transaction()?;
    for message in ids(numbers) {
        let record = BaseRecord::to(&bench.topic).partition(0).key("A").payload(&message);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(DEADLINE)?;
    Ok(producer)
}

async fn transactions(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context, 2).await?;
    begin(&bench, "kept", 0..5)?.commit_transaction(DEADLINE)?;
    begin(&bench, "dropped", 5..8)?.abort_transaction(DEADLINE)?;
    let open = begin(&bench, "open", 8..12)?;
    // After the open transaction, so not visible before its end.
    begin(&bench, "behind", 12..14)?.commit_transaction(DEADLINE)?;
    // Five and three messages, and the marker after each of the two transactions.
    for read in [5, 0] {
        assert_eq!(bench.consume_to_end().await?["read"], read);
        assert_eq!(lanes(&bench, 0).await?, [(String::new(), 10, true)]);
    }
    let consumer = bench.consumer().start()?;
    bench.holds_lanes(&consumer).await?;
    open.abort_transaction(DEADLINE)?;
    bench.stored(7).await?;
    let stored = async |end| lanes(&bench, 0).await.map(|lanes| lanes[0].1 == end);
    // Four aborted and two committed messages, and two markers.
    until("the markers were passed", async || stored(18).await).await?;
    let open = begin(&bench, "open-too", 14..18)?;
    consumer.signal(Signal::TERM)?;
    consumer.wait(DEADLINE).await?.expect_code(0)?;
    assert_eq!(bench.consume_to_end().await?["read"], 0);
    open.commit_transaction(DEADLINE)?;
    assert_eq!(bench.consume_to_end().await?["read"], 4);
    assert_eq!(lanes(&bench, 0).await?, [(String::new(), 23, true)]);
    assert_eq!(counts(&bench).await?, [11, 11, 0, 0]);
    Ok(())
}
