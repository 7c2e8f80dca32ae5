"""Access to the cluster for the end-to-end run, and what its lines share."""

import base64
import contextlib
import json
import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SCRATCH = ROOT / "target" / "e2e"
# The lanes of the topic, without those of files.
LANES = "lambda.ingest_progress where source like '%/transactions'"

THREADS = ThreadPoolExecutor()


class Broken(Exception):
    """A promise of a line does not hold."""


def want(condition, what):
    if not condition:
        raise Broken(what)


def run(*command, check=True, stdin=None, timeout=900, env=None):
    done = subprocess.run(
        command, cwd=ROOT, input=stdin, text=True, capture_output=True, timeout=timeout,
        env=None if env is None else os.environ | env,
    )
    if check and done.returncode != 0:
        raise Broken(f"{' '.join(command)}: {done.stderr.strip()[-600:] or done.stdout[-600:]}")
    return done


class Overlay:
    """The overlay that runs, and its namespace, which only the overlay names."""

    def __init__(self, name):
        self.choose(name)

    def choose(self, name, folder="k8s/overlays"):
        self.name = name
        self.path = f"{folder}/{name}"
        self.rendered = run("kubectl", "kustomize", self.path).stdout
        self.namespace = re.search(
            r"^kind: Namespace\nmetadata:\n(?:  .*\n)*?  name: (\S+)", self.rendered, re.M)[1]


OVERLAY = Overlay(os.environ.get("OVERLAY", "minikube"))


def kubectl(*arguments, **options):
    return run("kubectl", "--namespace", OVERLAY.namespace, *arguments, **options).stdout


def objects(*arguments):
    return json.loads(kubectl("get", *arguments, "--output", "json"))["items"]


def until(what, seconds, look):
    """Waits until `look` returns something true; returns that and the seconds it took."""
    began = time.monotonic()
    while True:
        error = None
        try:
            found = look()
        except Broken as failure:
            found, error = None, failure
        took = time.monotonic() - began
        if found:
            return found, took
        want(took < seconds, f"waited {seconds} s until {what}{f': {error}' if error else ''}")
        time.sleep(0.5)


def ready_pods(app):
    def is_ready(pod):
        conditions = pod["status"].get("conditions", [])
        ready = any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)
        return ready and "deletionTimestamp" not in pod["metadata"]
    return [pod["metadata"]["name"] for pod in objects("pods", "--selector", f"app={app}") if is_ready(pod)]


def all_ready(seconds=300):
    """Waits for every workload with `kubectl rollout status`."""
    kubectl("wait", "--for=condition=Complete", "job", "--selector", "tier=setup", f"--timeout={seconds}s")
    for workload in kubectl("get", "statefulset,deployment", "--output", "name").split():
        kubectl("rollout", "status", workload, f"--timeout={seconds}s")


def may_destroy():
    context = run("kubectl", "config", "current-context").stdout.strip()
    want(context == "minikube" or context.startswith("kind-") or os.environ.get("DESTROY") == "yes",
         f"this deletes the namespace {OVERLAY.namespace} of {context} with its data: set DESTROY=yes")


def to_nothing(*how):
    """Deletes the namespace and everything in it."""
    may_destroy()
    run("kubectl", "delete", "namespace", OVERLAY.namespace, "--ignore-not-found", *how, timeout=300)


def from_nothing(documents=None, secrets=("k8s/secrets",)):
    """Applies the overlay, or these documents instead, to an empty namespace, and waits until
    everything is ready; returns the seconds since the apply."""
    to_nothing()
    for command in secrets:
        run(command, OVERLAY.namespace)
    began = time.monotonic()
    kubectl("apply", "--filename", "-", stdin=documents or OVERLAY.rendered)
    all_ready()
    return time.monotonic() - began


# The client, with rights that it needs and that the platform must not have.
CLIENT = """
apiVersion: v1
kind: Pod
metadata: {name: e2e-client, labels: {app: e2e-client}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: client
      image: lambda-e2e-client:dev
      imagePullPolicy: IfNotPresent
      command: [sleep, infinity]
      envFrom: [{configMapRef: {name: CONFIG}}, {secretRef: {name: database-admin}}]
      env:
        - {name: PGSSLMODE, valueFrom: {configMapKeyRef: {name: CONFIG, key: DB_SSLMODE, optional: true}}}
        - {name: PGSSLROOTCERT, valueFrom: {configMapKeyRef: {name: CONFIG, key: DB_SSLROOTCERT, optional: true}}}
      volumeMounts: [{name: tls, mountPath: /etc/lambda/tls, readOnly: true}]
      resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 2Gi}}
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
  volumes: [{name: tls, secret: {secretName: postgres-tls, items: [{key: ca.crt, path: ca.crt}], optional: true}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: e2e-client}
spec: {podSelector: {matchLabels: {app: e2e-client}}, policyTypes: [Egress], egress: [{}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: e2e-client-to-servers}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [lambda-postgres, kafka]}]}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: e2e-client}}}], ports: [{port: 5432}, {port: 9092}]}]
"""
CLIENT_POLICIES = CLIENT.split("---", 1)[1]


def client(*arguments, timeout=600):
    """Runs a command of the independent client."""
    if "e2e-client" not in kubectl("get", "pods", "--output", "name"):
        maps = [it["metadata"]["name"] for it in objects("configmaps")]
        config = next(name for name in maps if name.startswith("lambda-config-"))
        kubectl("apply", "--filename", "-", stdin=CLIENT.replace("CONFIG", config))
        kubectl("wait", "--for=condition=Ready", "pod/e2e-client", "--timeout=60s")
    script = ["exec", "e2e-client", "--", "/venv/bin/python", "/client/client.py"]
    return json.loads(kubectl(*script, *arguments, timeout=timeout))


def rows(sql):
    return client("query", sql)["rows"]


def number(sql):
    return int(rows(sql)[0][0])


def primary():
    """The pod to which the Service sends writers; the label is not enough, since a frozen pod keeps it."""
    slices = objects("endpointslices", "--selector", "kubernetes.io/service-name=lambda-postgres")
    ready = [end["targetRef"]["name"] for part in slices for end in part.get("endpoints") or []
             if end["conditions"].get("ready")]
    want(len(ready) == 1, f"the Service lambda-postgres has the endpoints {ready}")
    return ready[0]


def psql(sql, database="lambda"):
    return kubectl("exec", primary(), "--container=postgres", "--", "psql", "--no-psqlrc",
                   "-v", "ON_ERROR_STOP=1", "-Atc", sql, database)


def decoded(secret):
    """The values of a Secret, by key."""
    return {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}


def values(name):
    """The values of the Secret of that name, by key."""
    return decoded(json.loads(kubectl("get", "secret", name, "--output", "json")))


def passwords():
    """All passwords in the namespace."""
    found = {value for secret in objects("secrets") for key, value in decoded(secret).items() if "PASSWORD" in key}
    want(len(found) >= 5, f"only {len(found)} passwords were found")
    return found


def where(secrets, texts):
    """The named texts that contain one of these, plain or in base64."""
    forms = {form for it in secrets for form in (it, base64.b64encode(it.encode()).decode())}
    return {place for place, text in texts.items() if any(form in text for form in forms)}


def logs_in(role, password, sslmode="prefer"):
    """Whether PostgreSQL accepts that role and password over the network, as from the programs."""
    script = "PGPASSWORD=$(cat) exec psql --no-psqlrc -Atc 'select 1' " \
             f"'host=lambda-postgres dbname=lambda user={role} connect_timeout=5 sslmode={sslmode}'"
    done = run("kubectl", "--namespace", OVERLAY.namespace, "exec", "--stdin", "lambda-postgres-0", "--container=postgres",
               "--", "sh", "-c", script, stdin=password, check=False)
    refused = "authentication failed" in done.stderr or "no encryption" in done.stderr
    want(done.returncode == 0 or refused, f"psql: {done.stderr}")
    return done.returncode == 0


def sets_equal(wait=90):
    """Checks that the table has every id of the topic once, and no other. Stop the producers first."""
    found = client("compare", "--wait", str(wait))
    want(found["produced"] > 0, f"the topic is empty: {found}")
    want(not found["cut"], f"the topic does not reach back to its beginning: {found}")
    broken = found["missing"], found["extra"], found["twice"]
    want(broken == (0, 0, 0), f"topic and table differ: {found}")
    return found


def produce(count, name="e2e-producer", rate=0):
    """Sends that many messages with a Job beside the deployment, and waits for it."""
    template = objects("deployments", "--selector", "app=lambda-producer-stream")[0]["spec"]["template"]
    pod = template["spec"]
    container = pod["containers"][0]
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        container.pop(probe, None)
    container["command"] = ["lambda-producer-stream", f"--count={count}", f"--rate={rate}", "--output=json"]
    pod["restartPolicy"] = "Never"
    pod.pop("topologySpreadConstraints", None)
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {
            "metadata": {"labels": {"app": "lambda-producer-stream", "job": name}}, "spec": pod}},
    }
    kubectl("delete", "job", name, "--ignore-not-found", "--wait")
    kubectl("create", "--filename", "-", stdin=json.dumps(job))
    kubectl("wait", "--for=condition=Complete", f"job/{name}", "--timeout=300s")
    kubectl("delete", "job", name, "--wait")


@contextlib.contextmanager
def no_traffic():
    """Stops the platform's own producers while sets are compared."""
    kubectl("scale", "deployment", "lambda-producer-stream", "--replicas=0")
    try:
        until("the producers have stopped", 90, lambda: not objects("pods", "--selector", "app=lambda-producer-stream"))
        yield
    finally:
        kubectl("scale", "deployment", "lambda-producer-stream", "--replicas=3")


@contextlib.contextmanager
def consumers(count):
    """Runs that many consumers and keeps the autoscaler from changing it."""
    def say(least, most):
        kubectl("patch", "hpa", "lambda-consumer", "--patch", json.dumps({"spec": {"minReplicas": least, "maxReplicas": most}}))
    spec = json.loads(kubectl("get", "hpa", "lambda-consumer", "--output", "json"))["spec"]
    say(count, count)
    # Do not wait for its next check.
    kubectl("scale", "deployment", "lambda-consumer", f"--replicas={count}")
    try:
        yield
    finally:
        say(spec["minReplicas"], spec["maxReplicas"])


def owners():
    """The number of partitions of each consumer."""
    return sorted(int(held) for _, held in rows(f"select owner, count(*) from {LANES} group by 1"))


@contextlib.contextmanager
def rate(messages):
    """Runs each of the platform's own producers at that many messages a second; 0 is unlimited."""
    def say(value):
        patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/command",
                  "value": ["lambda-producer-stream", f"--rate={value}"]}]
        kubectl("patch", "deployment", "lambda-producer-stream", "--type=json", f"--patch={json.dumps(patch)}")
        kubectl("rollout", "status", "deployment/lambda-producer-stream", "--timeout=180s")
    say(messages)
    try:
        yield
    finally:
        say(10)


@contextlib.contextmanager
def forwarded(what, port, namespace=None):
    """Forwards a port of the cluster to this machine."""
    process = subprocess.Popen(
        ["kubectl", "--namespace", namespace or OVERLAY.namespace, "port-forward", what, f":{port}"],
        stdout=subprocess.PIPE, text=True,
    )
    try:
        local = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        want(local, "kubectl port-forward does not print its port")
        yield f"http://127.0.0.1:{local[1]}"
    finally:
        process.terminate()
        process.wait()


def beside(work):
    """Runs something beside a line; the line calls its `result()` later."""
    return THREADS.submit(work)


def judged(check):
    """The verdict of a check and its figures. An error of one check does not stop the others."""
    try:
        return "passed", check()
    except Exception as error:
        return "FAILED", f"{type(error).__name__}: {error}".replace("\n", " ")


LINES = {}


def line(number_):
    """Makes a function one of the run's lines; it returns the figures to report."""
    def note(function):
        LINES[number_] = function
        return function
    return note
