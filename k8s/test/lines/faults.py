"""Pods, claims and servers that fail."""

import json
import time

from cluster import (
    LANES, OVERLAY, ROOT, SCRATCH, beside, client, consumers, from_nothing, kubectl, line, no_traffic, number, objects,
    owners, primary, psql, rate, ready_pods, run, rows, sets_equal, until, want,
)

FORCE = ["--force", "--grace-period=0"]
PODS = ("lambda-consumer", "lambda-producer-stream", "kafka", "lambda-postgres", "lambda-pgadmin")


@line(8)
def each_pod_dies():
    """Each kind of pod is deleted, gently and by force, under load: Ready within 60 s, and the sets are equal afterwards."""
    figures = []
    with consumers(3):
        until("3 members hold the partitions", 60, lambda: len(owners()) == 3)
        for app in PODS + (("zookeeper",) if ready_pods("zookeeper") else ()):
            figures += [f"{app} {dies(app, how):.0f} s" for how in ([], FORCE)]
    return ", ".join(figures)


def dies(app, how):
    """Deletes one of its pods; returns the seconds until all are ready."""
    there = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in objects("pods", "--selector", f"app={app}")}
    victim = primary() if app == "lambda-postgres" else ready_pods(app)[0]
    kubectl("delete", "pod", victim, "--wait=false", *how)

    def whole():
        # A StatefulSet's pod returns under the same name, as another object.
        now = {pod["metadata"]["uid"] for pod in objects("pods", "--selector", f"app={app}")}
        return there[victim] not in now and len(ready_pods(app)) >= len(there)
    _, took = until(f"all pods of {app} are ready", 120, whole)
    want(took <= 60, f"{app}: Ready after {took:.0f} s")
    with no_traffic():
        sets_equal()
    until("the producers are back", 120, lambda: len(ready_pods("lambda-producer-stream")) == 3)
    return took


def all_members():
    """Waits until three members of PostgreSQL stream, one of them synchronously."""
    def whole():
        standbys = psql("select count(*), count(*) filter (where sync_state = 'sync') from pg_stat_replication "
                        "where state = 'streaming' and application_name like 'lambda-postgres-%'")
        return standbys.strip() == "2|1" and len(ready_pods("lambda-postgres")) == 3
    until("three members of PostgreSQL stream", 180, whole)


def replace(pod, claim=False, how=()):
    """Deletes the pod, and on request its claim, which disappears when no pod uses it."""
    if claim:
        kubectl("delete", "persistentvolumeclaim", f"postgres-pvc-{pod}", "--wait=false")
    kubectl("delete", "pod", pod, "--wait=false", *how)


def freeze(pod, seconds):
    """Stops all processes of the pod for that long; then sends it writes, which it must refuse."""
    def signal(name):
        kubectl("exec", pod, "--container=postgres", "--", "sh", "-c", f"kill -{name} -1", check=False)
    signal("STOP")
    try:
        time.sleep(seconds)
    finally:
        signal("CONT")
    taken = 0
    # Through its socket, past every Service. A commit that waits for a standby is not acknowledged.
    ask = ["exec", pod, "--container=postgres", "--", "timeout", "2", "psql", "--no-psqlrc", "-Atc",
           "insert into e2e_writes (id) values (-1 - (random() * 1e15)::bigint)", "lambda"]
    for _ in range(8):
        done = run("kubectl", "--namespace", OVERLAY.namespace, *ask, check=False)
        taken += done.returncode == 0
    want(taken == 0, f"{pod} accepted {taken} writes after it was thawed")


@line(9)
def the_primary_dies():
    """The primary is deleted, force-deleted, deleted with its claim, frozen for 45 s: no writes for at most 10/10/30/30 s, no acknowledged row is lost, the thawed one accepts no write."""
    faults = (
        ("deleted", 10, replace),
        ("forced", 10, lambda pod: replace(pod, how=FORCE)),
        ("claim and pod", 30, lambda pod: replace(pod, claim=True)),
        ("frozen", 30, lambda pod: freeze(pod, 45)),
    )
    figures = []
    for name, bound, fault in faults:
        all_members()
        victim = primary()
        writes = beside(lambda: client("write", "--seconds", "80"))
        time.sleep(6)
        fault(victim)
        found = writes.result()
        # A force-deleted pod may return with its data before its lease ends.
        want(name == "forced" or primary() != victim, f"{name}: {victim} is still primary")
        want(found["lost"] == 0, f"{name}: {found}")
        want(found["acknowledged"] > 100, f"{name}: too little was written: {found}")
        want(found["gap_seconds"] <= bound, f"{name}: {found}")
        figures.append(f"{name} {found['gap_seconds']} s")
    all_members()
    with no_traffic():
        sets_equal()
    # The control: a deleted row is noticed.
    control = client("write", "--seconds", "3", "--lose")
    want(control["lost"] == 1, f"a lost row is not noticed: {control}")
    psql("drop table e2e_writes")
    return ", ".join(figures)


def identities():
    return client("cluster")["id"], rows("select system_identifier::text from pg_control_system()")[0][0]


@line(10)
def servers_die():
    """All PostgreSQL and Kafka pods are force-deleted at once: the cluster ids stay, rows arrive again and the sets are equal within 180 s; with 3 brokers, one of them killed, producers never stop."""
    figures = all_servers_die()
    several = one_of_three_brokers_dies()
    from_nothing()
    return f"{figures}; {several}"


def all_servers_die():
    before, positions = identities(), number(f"select sum(position) from {LANES}")
    began = time.monotonic()
    selector = "app in (lambda-postgres, kafka, zookeeper)"
    kubectl("delete", "pods", "--selector", selector, "--wait=false", *FORCE)

    def flows():
        return number(f"select sum(position) from {LANES}") > positions + 200
    _, flowing = until("rows arrive again", 180, flows)
    want(identities() == before, f"cluster ids were {before}, are {identities()}")
    with no_traffic():
        sets_equal()
        took = time.monotonic() - began
    want(took <= 180, f"it took {took:.0f} s")
    return f"flowing after {flowing:.0f} s, equal after {took:.0f} s"


def three_brokers():
    """The overlay production, reduced to one small node."""
    folder = SCRATCH / "three-brokers"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "size.yaml").write_text((ROOT / "k8s/base/core/patroni/size.yaml").read_text())

    def smaller(kind, name, cpu, memory, limit):
        resources = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}}
        path = "/spec/template/spec/containers/0/resources"
        return {"target": {"kind": kind, "name": name},
                "patch": json.dumps([{"op": "replace", "path": path, "value": resources}])}
    (folder / "kustomization.yaml").write_text(json.dumps({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": OVERLAY.namespace,
        "resources": ["../../../k8s/overlays/production"],
        "images": [{"name": f"registry.example.com/{name}", "newName": name, "newTag": "dev"}
                   for name in ("lambda-platform", "lambda-postgres")]
                  + [{"name": "dpage/pgadmin4", "newTag": "9"}],
        "configMapGenerator": [{"name": "lambda-patroni", "behavior": "merge", "files": ["size.yaml"]}],
        "patches": [
            smaller("StatefulSet", "kafka", "100m", "640Mi", "1Gi"),
            smaller("StatefulSet", "lambda-postgres", "50m", "192Mi", "512Mi"),
            smaller("Deployment", "lambda-consumer", "50m", "96Mi", "256Mi"),
        ],
    }))
    return run("kubectl", "kustomize", str(folder)).stdout


def one_of_three_brokers_dies():
    from_nothing(three_brokers())
    figures = []
    with rate(200):
        producers = ready_pods("lambda-producer-stream")
        for name, how in (("deleted", []), ("forced", FORCE)):
            flow = beside(lambda: client("flow", "--seconds", "50"))
            time.sleep(8)
            kubectl("delete", "pod", "kafka-1", "--wait=false", *how)
            gap = flow.result()["gap_seconds"]
            want(gap <= 20, f"a broker {name}: nothing was written for {gap} s")
            until("three brokers", 120, lambda: len(ready_pods("kafka")) == 3)
            figures.append(f"{name} {gap} s")
        want(ready_pods("lambda-producer-stream") == producers, "producers were replaced")
        pods = [json.loads(kubectl("get", "pod", name, "--output", "json")) for name in producers]
        want(all(it["restartCount"] == 0 for pod in pods for it in pod["status"]["containerStatuses"]),
             "producers ended")
    with no_traffic():
        sets_equal()
        # The control: without producers nothing grows.
        want(client("flow", "--seconds", "6")["gap_seconds"] > 4, "a topic without producers grows")
    return f"one of three brokers: longest gap of the topic {', '.join(figures)}"
