"""Backup and restore; a disk that must not fill."""

import time

from cluster import client, from_nothing, kubectl, line, no_traffic, produce, psql, rate, run, sets_equal, want


@line(11)
def backup_and_restore():
    """Backup, more traffic, database dropped, restored: stored set = produced set."""
    kubectl("delete", "job", "e2e-backup", "--ignore-not-found", "--wait")
    kubectl("create", "job", "e2e-backup", "--from=cronjob/postgres-backup")
    kubectl("wait", "--for=condition=Complete", "job/e2e-backup", "--timeout=180s")
    kubectl("delete", "job", "e2e-backup", "--wait")
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
