"""From an empty cluster to a working platform."""

import json
import os

from cluster import OVERLAY, ROOT, SCRATCH, from_nothing, kubectl, line, run, until, want


def difference(documents=None):
    """The output of `kubectl diff` for the overlay. It exits 0 without and 1 with a difference."""
    done = run("kubectl", "diff", "--filename", "-", check=False, stdin=documents or OVERLAY.rendered)
    want(done.returncode in (0, 1), f"kubectl diff: {done.stderr[-400:]}")
    return done.stdout


@line(1)
def all_of_it():
    """Starting from an empty cluster, all pods are Ready and the setup Jobs complete within 300 s; then the diff is empty, also with the autoscaler at its maximum."""
    took = from_nothing()
    want(took <= 300, f"it took {took:.0f} s")
    found = difference()
    want(not found, f"kubectl diff: {found[:800]}")
    # The autoscaler changes the number of replicas, which no manifest may set.
    kubectl("scale", "deployment", "lambda-consumer", "--replicas=6")
    until("six replicas are wanted", 20, lambda: "6" in kubectl(
        "get", "deployment", "lambda-consumer", "--output=jsonpath={.spec.replicas}"))
    found = difference()
    want(not found, f"kubectl diff with six consumers: {found[:800]}")
    # The control: a changed manifest has a difference.
    want(difference(OVERLAY.rendered.replace("minReplicas: 3", "minReplicas: 4")),
         "a changed manifest shows no difference")
    return f"{took:.0f} s"


@line(2)
def restricted():
    """Every overlay passes a server dry-run under enforce=restricted without a warning."""
    scratch = "e2e-dry-run"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": scratch, "labels": {
        "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}}}
    run("kubectl", "apply", "--filename", "-", stdin=json.dumps(namespace))
    dry_run = ["kubectl", "apply", "--dry-run=server", "--filename", "-"]
    figures = []
    try:
        for overlay in sorted(path.name for path in (ROOT / "k8s/overlays").iterdir()):
            documents = elsewhere(overlay, scratch)
            done = run(*dry_run, stdin=documents)
            want(not done.stderr.strip(), f"{overlay}: {done.stderr.strip()[:500]}")
            figures.append(f"{overlay} {len(done.stdout.splitlines())}")
        rooted = documents.replace("runAsNonRoot: true", "runAsNonRoot: false")
        control = run(*dry_run, check=False, stdin=rooted)
        want("would violate PodSecurity" in control.stderr, "pods that may run as root cause no warning")
    finally:
        run("kubectl", "delete", "namespace", scratch, "--wait=false")
    return ", ".join(figures) + " documents"


def elsewhere(overlay, namespace):
    """An overlay rendered for another namespace beside the running one."""
    folder = SCRATCH / namespace
    folder.mkdir(parents=True, exist_ok=True)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": namespace,
        "resources": [os.path.relpath(ROOT / "k8s/overlays" / overlay, folder)],
    }
    # A node port exists once per cluster; production has none.
    service = ROOT / "terraform/manifests" / overlay / "admin/Service-lambda-pgadmin.yaml"
    if "nodePort" in service.read_text():
        kustomization["patches"] = [{
            "target": {"kind": "Service", "name": "lambda-pgadmin"},
            "patch": json.dumps([{"op": "replace", "path": "/spec/ports/0/nodePort", "value": 30051}])}]
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    return run("kubectl", "kustomize", str(folder)).stdout
