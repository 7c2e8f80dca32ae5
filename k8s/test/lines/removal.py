"""Other overlays, and what remains after removal."""

from cluster import OVERLAY, from_nothing, kubectl, line, logs_in, psql, run, to_nothing, until, values, want
from lines import batch, faults, operations, stream


def cluster_scoped():
    """All objects outside namespaces, except those that come and go by themselves."""
    kinds = run("kubectl", "api-resources", "--namespaced=false", "--verbs=list", "--output=name").stdout.split()
    kinds = [kind for kind in kinds if not kind.startswith(("nodes.metrics", "componentstatuses"))]
    return set(run("kubectl", "get", ",".join(kinds), "--output=name").stdout.split())


def nothing_is_left(before):
    until("nothing is left", 120, lambda: not cluster_scoped() - before)


@line(15)
def other_overlay_and_removal():
    """The overlay zookeeper passes lines 3, 4, 8 and 10; `delete -k` and `kubectl delete namespace dev --force --grace-period=0` leave no volume and no cluster-scoped object."""
    first, figures = OVERLAY.name, []
    to_nothing()
    nothing = cluster_scoped()
    try:
        OVERLAY.choose("zookeeper")
        figures.append(f"Ready after {from_nothing():.0f} s")
        # The same checks; their figures are reported with this line.
        for check in (stream.exactly_once, batch.nightly_load, faults.each_pod_dies, faults.all_servers_die):
            figures.append(str(check()))
        # The control: while the platform runs there are a namespace and volumes.
        kinds = {name.split("/")[0] for name in cluster_scoped() - nothing}
        want({"namespace", "persistentvolume"} <= kinds, f"cluster-scoped objects of the platform: {kinds}")
        kubectl("delete", "--kustomize", OVERLAY.path, "--wait", timeout=300)
        nothing_is_left(nothing)
    finally:
        OVERLAY.choose(first)
    from_nothing()
    to_nothing("--force", "--grace-period=0")
    nothing_is_left(nothing)
    return "; ".join(figures)


def brokers(*settings):
    """Whether Kafka answers its own command-line client with these settings."""
    script = 'printf "%s\\n" "$@" >/tmp/client.properties; exec timeout 30 /opt/kafka/bin/kafka-broker-api-versions.sh ' \
             "--bootstrap-server kafka-service:9092 --command-config /tmp/client.properties"
    command = ("exec", "kafka-0", "--container=kafka", "--", "sh", "-c", script, "sh", *settings)
    return run("kubectl", "--namespace", OVERLAY.namespace, *command, check=False).returncode == 0


@line(18)
def encrypted():
    """examples/tls passes lines 3, 4 and 11; every connection to PostgreSQL uses TLS; without TLS both servers refuse connections."""
    first, figures = OVERLAY.name, []
    try:
        OVERLAY.choose("tls", "k8s/examples")
        figures.append(f"Ready after {from_nothing(secrets=('k8s/secrets', 'k8s/certificates')):.0f} s")
        for check in (stream.exactly_once, batch.nightly_load, operations.backup_and_restore):
            figures.append(str(check()))
        plain = psql("select count(*) filter (where ssl), count(*) filter (where not ssl) "
                     "from pg_stat_ssl join pg_stat_activity using (pid) where client_addr is not null")
        encrypted, open_ = map(int, plain.split("|"))
        want(encrypted > 5 and open_ == 0, f"connections with TLS: {encrypted}, without: {open_}")
        admin = values("database-admin")["DB_PASSWORD"]
        want(logs_in("postgres", admin, "require") and not logs_in("postgres", admin, "disable"), "PostgreSQL accepts a login without TLS, or refuses one with it")
        trust = ("security.protocol=SSL", "ssl.truststore.type=PEM", "ssl.truststore.location=/etc/kafka/secrets/ca.crt")
        want(brokers(*trust) and not brokers("security.protocol=PLAINTEXT"), "Kafka accepts a client without TLS, or refuses one with it")
    finally:
        OVERLAY.choose(first)
    to_nothing()
    return "; ".join(figures) + f"; {encrypted} connections by TLS"
