"""Messages: exactly once, while scaled by hand and by the autoscaler, and during an upgrade."""

import json
import time

from cluster import (
    LANES, OVERLAY, all_ready, beside, client, consumers, from_nothing, kubectl, line, no_traffic, number, objects,
    owners, produce, psql, rate, ready_pods, rows, sets_equal, until, want,
)

STANDSTILL = f"select coalesce(max(extract(epoch from clock_timestamp() - updated_at)), 0) from {LANES}"


@line(3)
def exactly_once():
    """The set of 20,000 produced ids equals the set of stored ids; 3 consumers own 2 partitions each."""
    with consumers(3):
        until("3 members hold the partitions", 60, lambda: len(owners()) == 3)
        with no_traffic():
            produce(20_000)
            found = sets_equal()
        held = owners()
    want(found["produced"] >= 20_000, f"{found}")
    want(held == [2, 2, 2], f"partitions by owner: {held}")
    # The control: a deleted row is noticed; it is put back.
    row = "(select min(transaction_id) from transactions where ingestion_type = 'STREAM')"
    psql(f"create table e2e_kept as select * from transactions where transaction_id = {row}; "
         f"delete from transactions where transaction_id in (select transaction_id from e2e_kept)")
    try:
        control = client("compare", "--wait", "0")
    finally:
        psql("insert into transactions select * from e2e_kept; drop table e2e_kept")
    want(control["missing"] == 1, f"a lost row is not noticed: {control}")
    return f"{found['produced']:,} ids"


@line(6)
def scaled_by_hand():
    """After scaling to 5, the group has 5 members within 30 s, and no partition is unread for more than 10 s."""
    with consumers(3):
        # The control: there were fewer members before.
        until("3 members hold the partitions", 60, lambda: len(owners()) == 3)
    began, took, longest = time.monotonic(), None, 0.0
    with consumers(5):
        while time.monotonic() - began < 60:
            longest = max(longest, float(rows(STANDSTILL)[0][0]))
            if took is None and len(owners()) == 5:
                took = time.monotonic() - began
    want(took is not None and took <= 30, f"5 members held partitions after {took} s")
    # With traffic on every partition, each lane is written several times a second.
    want(longest <= 10, f"a partition was not read for {longest:.1f} s")
    return f"5 members after {took:.0f} s; longest standstill {longest:.1f} s"


# Messages a second of each of three producers. Three consumers then lag by 10,000 to 30,000
# messages and use about 100m each.
BUSY = 12_000


@line(7)
def autoscaled_and_upgraded():
    """Real lag drives the autoscaler to its maximum within 120 s, and back within 10 min; after an upgrade to another image tag, with a migration, under traffic, the sets are equal."""
    def wanted():
        return json.loads(kubectl("get", "hpa", "lambda-consumer", "--output", "json"))["status"]["desiredReplicas"]

    highest = json.loads(kubectl("get", "hpa", "lambda-consumer", "--output", "json"))["spec"]["maxReplicas"]
    # The control: without that traffic the autoscaler is at its minimum.
    until("the autoscaler is at its minimum", 660, lambda: wanted() == 3 and len(ready_pods("lambda-consumer")) == 3)
    with rate(BUSY):
        _, up = until("it is at its maximum", 120, lambda: len(ready_pods("lambda-consumer")) == highest)
        lag = client("lag")["records"]
    want(lag > 0, "there was no lag")
    _, down = until("it is back at its minimum", 600, lambda: len(ready_pods("lambda-consumer")) == 3)
    figures = upgraded()
    from_nothing()
    return f"{highest} consumers after {up:.0f} s (lag {lag:,}), 3 again after {down:.0f} s; {figures}"


def upgraded():
    """Upgrades as README.md says: another tag, and new setup Jobs."""
    # Retention cut the topic above, but sets are compared from its beginning.
    from_nothing()
    schema = "select max(version) from lambda.platform_migrations"
    before = number(schema)
    traffic = beside(lambda: produce(20_000, rate=400))
    time.sleep(5)
    began = time.monotonic()
    kubectl("delete", "job", "--selector", "tier=setup", "--wait")
    kubectl("apply", "--filename", "-", stdin=OVERLAY.rendered.replace("lambda-platform:dev", "lambda-platform:next"))
    longest = 0.0
    while not traffic.done():
        longest = max(longest, float(rows(STANDSTILL)[0][0]))
    traffic.result()
    all_ready()
    took = time.monotonic() - began
    # Old pods may still be ending.
    ready = ready_pods("lambda-consumer")
    images = {it["spec"]["containers"][0]["image"] for it in objects("pods") if it["metadata"]["name"] in ready}
    want(images == {"lambda-platform:next"}, f"consumers of {images}")
    want(number(schema) == before + 1, f"the schema is at {number(schema)} and was at {before}")
    with no_traffic():
        found = sets_equal()
    return f"schema {before} to {before + 1} in {took:.0f} s, longest standstill {longest:.1f} s, {found['produced']:,} ids equal"
