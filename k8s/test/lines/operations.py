"""Backup and restore; a disk that must not fill."""

import shutil
import time

from cluster import (
    LANES, ROOT, SCRATCH, client, from_nothing, kubectl, line, no_traffic, produce, psql, rate, rows, run, sets_equal,
    want,
)
from lines import batch


def backup():
    """The nightly backup, now."""
    kubectl("delete", "job", "e2e-backup", "--ignore-not-found", "--wait")
    kubectl("create", "job", "e2e-backup", "--from=cronjob/postgres-backup")
    kubectl("wait", "--for=condition=Complete", "job/e2e-backup", "--timeout=180s")
    kubectl("delete", "job", "e2e-backup", "--wait")


@line(11)
def backup_and_restore():
    """Backup, more traffic, database dropped, restored: stored set = produced set."""
    backup()
    produce(20_000)
    psql("drop database lambda with (force)", database="postgres")
    # The control: it is gone.
    gone = psql("select count(*) from pg_database where datname = 'lambda'", database="postgres")
    want(gone.strip() == "0", "the database is still there")
    began = time.monotonic()
    run("k8s/restore")
    took = time.monotonic() - began
    with no_traffic():
        found = sets_equal(180)
    return f"restored in {took:.0f} s, {found['produced']:,} ids"


CLAIM = 2 * 1024 ** 3


@line(12)
def retention_bites():
    """Producers at full speed until retention bites: Kafka's claim under 70 %."""
    def used():
        told = kubectl("exec", "kafka-0", "--", "du", "-s", "--block-size=1", "/var/lib/kafka/data", check=False)
        return int(told.split()[0]) if told else 0

    before, most = used(), 0
    with rate(0):
        began = bites = time.monotonic()
        while time.monotonic() - bites < 60:
            want(time.monotonic() - began < 400, "retention did not bite")
            most = max(most, used())
            ends = client("watermarks")["partitions"]
            # The control: messages of every partition were deleted.
            if any(low == 0 for low, _ in ends):
                bites = time.monotonic()
        # And the producers were not stopped by anything.
        speed = sum(high for _, high in client("watermarks")["partitions"])
        time.sleep(5)
        speed = (sum(high for _, high in client("watermarks")["partitions"]) - speed) / 5
    want(speed > 1000, f"the producers had stopped: {speed:.0f} messages a second")
    want(before < most < 0.7 * CLAIM, f"{most / CLAIM:.0%} of the claim was in use")
    from_nothing()
    return f"at most {most / CLAIM:.0%} of the claim at {speed:,.0f} messages a second"


@line(17)
def elsewhere():
    """A dump taken out of the cluster and put into a new, empty one: every row of it is there, once, and what the new topic has besides."""
    def stored(source):
        """Rows by layer with a digest of their ids: of files, and of that topic. There may be
        millions: a sum of hashes takes no memory, as a text of all ids does."""
        digest = ", ".join(f"sum(hashtextextended(transaction_id, {seed}))" for seed in (1, 2))
        return rows(f"select ingestion_type, count(*), {digest} "
                    "from transactions join ingest_progress using (lane) "
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
        # The cluster's claims go with the namespace, the topic's too.
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
    want(found["extra"] == of_old, f"{found['extra']} ids that are not the new topic's, of {of_old}")
    return f"{before[0][1]} of files, {of_old:,} of the old topic, {found['produced']:,} of the new one"
