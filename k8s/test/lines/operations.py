"""Backup and restore, and a disk that must not fill."""

import shutil
import time

from cluster import (
    LANES, ROOT, SCRATCH, client, from_nothing, kubectl, line, no_traffic, produce, psql, rate, rows, run, sets_equal,
    want,
)
from lines import batch


def backup():
    """Runs the nightly backup now."""
    kubectl("delete", "job", "e2e-backup", "--ignore-not-found", "--wait")
    kubectl("create", "job", "e2e-backup", "--from=cronjob/postgres-backup")
    kubectl("wait", "--for=condition=Complete", "job/e2e-backup", "--timeout=180s")
    kubectl("delete", "job", "e2e-backup", "--wait")


@line(11)
def backup_and_restore():
    """After a backup, more traffic, a dropped database and a restore, the stored set equals the produced set."""
    backup()
    produce(20_000)
    psql("drop database lambda with (force)", database="postgres")
    # The control: the database is gone.
    gone = psql("select count(*) from pg_database where datname = 'lambda'", database="postgres")
    want(gone.strip() == "0", "the database still exists")
    began = time.monotonic()
    run("k8s/restore")
    took = time.monotonic() - began
    with no_traffic():
        found = sets_equal(180)
    return f"restored in {took:.0f} s, {found['produced']:,} ids"


CLAIM = 2 * 1024 ** 3


@line(12)
def retention_bites():
    """With producers at full speed until retention deletes messages, Kafka's claim stays under 70 %."""
    def used():
        used = kubectl("exec", "kafka-0", "--", "du", "-s", "--block-size=1", "/var/lib/kafka/data", check=False)
        return int(used.split()[0]) if used else 0

    before, most = used(), 0
    with rate(0):
        began = bites = time.monotonic()
        while time.monotonic() - bites < 60:
            want(time.monotonic() - began < 400, "retention deleted no messages")
            most = max(most, used())
            ends = client("watermarks")["partitions"]
            # The control: messages of every partition were deleted.
            if any(low == 0 for low, _ in ends):
                bites = time.monotonic()
        # And the producers did not stop.
        speed = sum(high for _, high in client("watermarks")["partitions"])
        time.sleep(5)
        speed = (sum(high for _, high in client("watermarks")["partitions"]) - speed) / 5
    want(speed > 1000, f"the producers had stopped: {speed:.0f} messages a second")
    want(before < most < 0.7 * CLAIM, f"{most / CLAIM:.0%} of the claim was in use")
    from_nothing()
    return f"at most {most / CLAIM:.0%} of the claim at {speed:,.0f} messages a second"


@line(17)
def elsewhere():
    """A dump is copied out of the cluster into a new, empty one: each of its rows is stored once, beside the rows of the new topic."""
    def stored(source):
        """Number of rows and a digest of their ids, for files and for that topic. There may be
        millions of ids: a sum of hashes needs no memory, a text of all ids would."""
        digest = ", ".join(f"sum(hashtextextended(transaction_id, {seed}))" for seed in (1, 2))
        return rows(f"select ingestion_type, count(*), {digest} "
                    "from transactions join lambda.ingest_progress using (lane) "
                    f"where ingestion_type = 'BATCH' or source = '{source}' group by 1 order by 1")
    dumps = SCRATCH / "dumps"
    shutil.rmtree(dumps, ignore_errors=True)
    dumps.mkdir(parents=True)
    produce(20_000)
    batch.nightly_load()
    with no_traffic():
        sets_equal()
        [[source]] = rows(f"select distinct source from {LANES} and claim is not null")
        before = stored(source)
        backup()
        run("sh", "-c", f"cd '{dumps}' && '{ROOT}/k8s/backups' get")
        [dump] = dumps.iterdir()
        # The namespace takes all claims with it, the topic's too.
        from_nothing()
    produce(10_000)
    with no_traffic():
        sets_equal()
        run("k8s/backups", "put", str(dump))
        run("k8s/restore", dump.name)
        found = client("compare", "--wait", "180")
        want(found["produced"] > 10_000 and (found["missing"], found["twice"]) == (0, 0), f"the new topic: {found}")
        after = stored(source)
    want([row[0] for row in before] == ["BATCH", "STREAM"] and after == before, f"rows were {before}, are {after}")
    of_old = before[1][1]
    want(found["extra"] == of_old, f"{found['extra']} ids are not in the new topic, of {of_old}")
    return f"{before[0][1]} of files, {of_old:,} of the old topic, {found['produced']:,} of the new one"
