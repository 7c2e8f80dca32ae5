"""The other overlay, and what is left when all is taken away."""

from cluster import OVERLAY, from_nothing, kubectl, line, run, to_nothing, until, want
from lines import batch, faults, stream


def cluster_scoped():
    """All objects that are in no namespace, but for what comes and goes by itself."""
    kinds = run("kubectl", "api-resources", "--namespaced=false", "--verbs=list", "--output=name").stdout.split()
    kinds = [kind for kind in kinds if not kind.startswith(("nodes.metrics", "componentstatuses"))]
    return set(run("kubectl", "get", ",".join(kinds), "--output=name").stdout.split())


def nothing_is_left(before):
    until("nothing is left", 120, lambda: not cluster_scoped() - before)


@line(15)
def other_overlay_and_removal():
    """The zookeeper overlay passes 3, 4, 8, 10; `delete -k` and `kubectl delete namespace dev --force --grace-period=0` leave no volume and no cluster-scoped object."""
    first, told = OVERLAY.name, []
    to_nothing()
    nothing = cluster_scoped()
    try:
        OVERLAY.choose("zookeeper")
        told.append(f"Ready after {from_nothing():.0f} s")
        # The same checks; what they tell goes with this line.
        for check in (stream.exactly_once, batch.nightly_load, faults.each_pod_dies, faults.all_servers_die):
            told.append(str(check()))
        # The control: while it runs there is a namespace, and volumes.
        kinds = {name.split("/")[0] for name in cluster_scoped() - nothing}
        want({"namespace", "persistentvolume"} <= kinds, f"cluster-scoped objects of the platform: {kinds}")
        kubectl("delete", "--kustomize", OVERLAY.path, "--wait", timeout=300)
        nothing_is_left(nothing)
    finally:
        OVERLAY.choose(first)
    from_nothing()
    to_nothing("--force", "--grace-period=0")
    nothing_is_left(nothing)
    return "; ".join(told)
