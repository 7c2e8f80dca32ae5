"""Counts from topic and table, by clients that are not ours.

Runs in a pod of its own; each command prints one JSON object.
"""

import argparse
import json
import os
import sys
import time

import confluent_kafka
import psycopg

BOOTSTRAP = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
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


def topic_ids():
    """The distinct ids in the topic from its first to its present end, and how many messages."""
    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": BOOTSTRAP,
        "group.id": f"e2e-{os.getpid()}-{time.time_ns()}",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
    })
    partitions = consumer.list_topics(TOPIC, timeout=30).topics[TOPIC].partitions
    ends, ids, messages = {}, set(), 0
    for number in partitions:
        low, high = consumer.get_watermark_offsets(
            confluent_kafka.TopicPartition(TOPIC, number), timeout=30
        )
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
    return ids, messages


def table_ids():
    with connect() as connection:
        rows = connection.execute(
            "select transaction_id from transactions where ingestion_type = 'STREAM'"
        ).fetchall()
    return [row[0] for row in rows]


def compare(arguments):
    """Waits until the table has the topic's ids, and tells how they differ."""
    deadline = time.monotonic() + arguments.wait
    while True:
        produced, messages = topic_ids()
        stored = table_ids()
        missing, extra = produced - set(stored), set(stored) - produced
        if not missing or time.monotonic() > deadline:
            return {
                "messages": messages,
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


def write(arguments):
    """Writes a row every 100 ms, each in a synchronous commit of its own; remembers which
    were acknowledged, and the longest time without."""
    table = "create table if not exists e2e_writes (id bigint primary key, at timestamptz default clock_timestamp())"
    acknowledged, gap, number, connection = [], 0.0, 0, None
    last = time.monotonic()
    stop = last + arguments.seconds
    while time.monotonic() < stop:
        try:
            if connection is None:
                connection = connect(
                    autocommit=True,
                    target_session_attrs="read-write",
                    options="-c statement_timeout=3000 -c tcp_user_timeout=3000",
                    keepalives_idle=1, keepalives_interval=1, keepalives_count=2,
                )
                connection.execute(table)
            connection.execute("insert into e2e_writes (id) values (%s)", (number,))
            now = time.monotonic()
            gap, last = max(gap, now - last), now
            acknowledged.append(number)
        except psycopg.Error as error:
            print(f"{time.strftime('%X')} {str(error).strip()[:100]}", file=sys.stderr)
            if connection is not None:
                connection.close()
            connection = None
        number += 1
        time.sleep(0.1)
    for _ in range(60):
        try:
            with connect() as connection:
                stored = {row[0] for row in connection.execute("select id from e2e_writes").fetchall()}
            break
        except psycopg.Error:
            time.sleep(1)
    lost = [number for number in acknowledged if number not in stored]
    return {"acknowledged": len(acknowledged), "lost": len(lost), "gap_seconds": round(gap, 1)}


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("compare")
    command.add_argument("--wait", type=float, default=60)
    command.set_defaults(run=compare)
    command = commands.add_parser("query")
    command.add_argument("sql")
    command.set_defaults(run=query)
    command = commands.add_parser("write")
    command.add_argument("--seconds", type=float, default=60)
    command.set_defaults(run=write)
    arguments = parser.parse_args()
    print(json.dumps(arguments.run(arguments), default=str))


main()
