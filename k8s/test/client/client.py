"""Counts ids in topic and table, with independent client libraries.

Runs in a pod of its own; each command prints one JSON object.
"""

import argparse
import json
import os
import sys
import threading
import time

import confluent_kafka
import confluent_kafka.admin
import psycopg

BROKERS = {"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"]}
BROKERS |= dict(it.split("=", 1) for it in os.environ.get("KAFKA_CONFIG", "").splitlines() if it)
TOPIC = os.environ["KAFKA_TOPIC"]


def connect(**options):
    return psycopg.connect(
        host=os.environ["DB_HOST"],
        dbname=os.environ["DB_NAME"],
        user=os.environ["DB_USER"],
        password=os.environ["DB_PASSWORD"],
        connect_timeout=5,
        **options,
    )


def topic():
    """A consumer that commits nothing, and the topic's partitions."""
    consumer = confluent_kafka.Consumer(BROKERS | {
        "group.id": f"e2e-{os.getpid()}-{time.time_ns()}",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
    })
    return consumer, sorted(consumer.list_topics(TOPIC, timeout=30).topics[TOPIC].partitions)


def ends_of(consumer, partitions, timeout=30):
    """First offset and end of each partition."""
    return [
        consumer.get_watermark_offsets(confluent_kafka.TopicPartition(TOPIC, number), timeout=timeout)
        for number in partitions
    ]


def topic_ids():
    """The distinct ids in the topic from its first to its present end, how many messages, and
    whether its beginning was deleted."""
    consumer, partitions = topic()
    ends, ids, messages, cut = {}, set(), 0, False
    for number, (low, high) in zip(partitions, ends_of(consumer, partitions)):
        cut = cut or low > 0
        if high > low:
            ends[number] = high
    consumer.assign([
        confluent_kafka.TopicPartition(TOPIC, number, confluent_kafka.OFFSET_BEGINNING)
        for number in ends
    ])
    while ends:
        for message in consumer.consume(10_000, timeout=30):
            number = message.partition()
            if message.error():
                if message.error().code() != confluent_kafka.KafkaError._PARTITION_EOF:
                    raise SystemExit(str(message.error()))
                ends.pop(number, None)
                continue
            if number not in ends or message.offset() >= ends[number]:
                continue
            messages += 1
            try:
                ids.add(json.loads(message.value())["transaction_id"])
            except (ValueError, KeyError, TypeError):
                pass
            if message.offset() + 1 >= ends[number]:
                del ends[number]
    consumer.close()
    return ids, messages, cut


def table_ids():
    with connect() as connection:
        rows = connection.execute(
            "select transaction_id from transactions where ingestion_type = 'STREAM'"
        ).fetchall()
    return [row[0] for row in rows]


def compare(arguments):
    """Waits until the table has the topic's ids; returns how they differ."""
    deadline = time.monotonic() + arguments.wait
    while True:
        produced, messages, cut = topic_ids()
        stored = table_ids()
        missing, extra = produced - set(stored), set(stored) - produced
        if not missing or time.monotonic() > deadline:
            return {
                "messages": messages,
                "cut": cut,
                "produced": len(produced),
                "stored": len(stored),
                "missing": len(missing),
                "extra": len(extra),
                "twice": len(stored) - len(set(stored)),
                "examples": sorted(missing)[:5],
            }
        time.sleep(2)


def query(arguments):
    with connect() as connection:
        return {"rows": connection.execute(arguments.sql).fetchall()}


def watermarks(_):
    return {"partitions": ends_of(*topic())}


def lag(_):
    """The number of messages in the topic beyond the positions in the table."""
    with connect() as connection:
        positions = dict(connection.execute(
            "select partition, position from lambda.ingest_progress where source like '%/transactions'"
        ).fetchall())
    consumer, partitions = topic()
    ends = ends_of(consumer, partitions)
    return {"records": sum(high - max(low, positions.get(n, 0)) for n, (low, high) in zip(partitions, ends))}


def flow(arguments):
    """The longest time during which the topic did not grow."""
    consumer, partitions = topic()
    heights, gap = {}, 0.0
    last = time.monotonic()
    stop = last + arguments.seconds
    while time.monotonic() < stop:
        for number in partitions:
            try:
                [(_, high)] = ends_of(consumer, [number], timeout=1)
            # Its leader is away.
            except confluent_kafka.KafkaException:
                continue
            if high > heights.get(number, -1):
                heights[number], last = high, time.monotonic()
        gap = max(gap, time.monotonic() - last)
        time.sleep(0.2)
    return {"gap_seconds": round(gap, 1)}


def cluster(_):
    admin = confluent_kafka.admin.AdminClient(BROKERS)
    return {"id": admin.describe_cluster(request_timeout=30).result().cluster_id}


def within(seconds, work):
    """Runs it in a thread, and abandons it if it takes longer: the kernel of a frozen server still
    acknowledges packets, so no socket error occurs."""
    done = []

    def attempt():
        try:
            done.append((work(), None))
        except psycopg.Error as error:
            done.append((None, error))
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if not done:
        raise TimeoutError(f"no answer in {seconds} s")
    answer, error = done[0]
    if error:
        raise error
    return answer


def write(arguments):
    """Writes a row every 100 ms, each in its own synchronous commit. Returns how many were
    acknowledged, how many of those were lost, and the longest time without an acknowledgement."""
    table = "create table if not exists e2e_writes (id bigint primary key, at timestamptz default clock_timestamp())"
    acknowledged, gap, number, connection = [], 0.0, time.time_ns(), None

    def open_one():
        made = connect(autocommit=True, target_session_attrs="read-write")
        made.execute(table)
        return made

    last = time.monotonic()
    stop = last + arguments.seconds
    while time.monotonic() < stop:
        try:
            if connection is None:
                connection = within(6, open_one)
            within(3, lambda: connection.execute("insert into e2e_writes (id) values (%s)", (number,)))
            now = time.monotonic()
            gap, last = max(gap, now - last), now
            acknowledged.append(number)
        except (psycopg.Error, TimeoutError) as error:
            print(f"{time.strftime('%X')} {str(error).strip()[:100]}", file=sys.stderr)
            # Not closed: closing may wait for a server that does not answer.
            connection = None
        number += 1
        time.sleep(0.1)
    gap = max(gap, time.monotonic() - last)
    for _ in range(60):
        try:
            with connect() as connection:
                if arguments.lose:
                    connection.execute("delete from e2e_writes where id = %s", (acknowledged[0],))
                stored = {row[0] for row in connection.execute("select id from e2e_writes").fetchall()}
            break
        except psycopg.Error:
            time.sleep(1)
    else:
        raise SystemExit("no server answers what is stored")
    lost = [number for number in acknowledged if number not in stored]
    return {"acknowledged": len(acknowledged), "lost": len(lost), "gap_seconds": round(gap, 1)}


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)

    def command(run):
        added = commands.add_parser(run.__name__)
        added.set_defaults(run=run)
        return added

    command(compare).add_argument("--wait", type=float, default=60)
    command(query).add_argument("sql")
    command(watermarks)
    command(lag)
    command(cluster)
    command(flow).add_argument("--seconds", type=float, default=60)
    writing = command(write)
    writing.add_argument("--seconds", type=float, default=60)
    writing.add_argument("--lose", action="store_true", help="take one row away before they are counted")
    arguments = parser.parse_args()
    print(json.dumps(arguments.run(arguments), default=str))


main()
