"""Connections that are refused, passwords that are not shown, and pgAdmin."""

import contextlib
import http.cookiejar
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request

from cluster import (
    CLIENT_POLICIES, OVERLAY, ROOT, Broken, forwarded, kubectl, line, objects, passwords, until, values, want, where,
)

STRANGER = """
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: stranger}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: stranger
      image: lambda-platform:dev
      imagePullPolicy: IfNotPresent
      command: COMMAND
      env: ENV
      resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 64Mi}}
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
"""


@contextlib.contextmanager
def stranger(*command, env=()):
    """Runs a command in a pod that no policy admits; returns the pod's name and exit code."""
    name = f"stranger-{time.time_ns()}"
    document = STRANGER.replace("NAME", name).replace("COMMAND", json.dumps(command))
    kubectl("create", "--filename", "-", stdin=document.replace("ENV", json.dumps(env)))

    def ended():
        pod = json.loads(kubectl("get", "pod", name, "--output", "json"))
        states = [it["state"].get("terminated") for it in pod["status"].get("containerStatuses", [])]
        return states[0] if states and states[0] else None
    try:
        yield name, until(f"{name} has ended", 60, ended)[0]["exitCode"]
    finally:
        kubectl("delete", "pod", name, "--wait=false")


def knock(address):
    with stranger("lambda", "wait-for", "tcp", address, "--timeout", "8") as (_, code):
        return code


@line(13)
def strangers():
    """An unrelated pod is refused on 5432, 9092, 5050 and 8008; without the policies it connects."""
    patroni = objects("pods", "--selector", "app=lambda-postgres")[0]["status"]["podIP"]
    addresses = ["lambda-postgres:5432", "kafka-service:9092", "lambda-pgadmin:5050", f"{patroni}:8008"]
    refused = [knock(address) for address in addresses]
    policies = {it["metadata"]["name"] for it in objects("networkpolicies")}
    kubectl("delete", "networkpolicies", "--all")
    try:
        time.sleep(3)
        connected = [knock(address) for address in addresses]
    finally:
        kubectl("apply", "--kustomize", OVERLAY.path, "--selector", "tier=foundation")
        kubectl("apply", "--filename", "-", stdin=CLIENT_POLICIES)
    want(refused == [69] * 4, f"with policies: {dict(zip(addresses, refused))}")
    want(connected == [0] * 4, f"without policies: {dict(zip(addresses, connected))}")
    # This line may have created the client's own policies.
    missing = policies - {it["metadata"]["name"] for it in objects("networkpolicies")}
    want(not missing, f"policies that were not restored: {missing}")
    return "4 ports"


def all_texts():
    """All texts of logs, descriptions and objects, without the values of Secrets."""
    kinds = "pods,services,statefulsets,deployments,jobs,cronjobs,configmaps,hpa,events"
    texts = {
        "describe": kubectl("describe", kinds), "get": kubectl("get", kinds, "--output", "yaml"),
        "describe secrets": kubectl("describe", "secrets"), "manifests": OVERLAY.rendered,
        "committed": "\n".join(path.read_text() for path in (ROOT / "terraform/manifests").rglob("*.yaml")),
    }
    for pod in objects("pods"):
        name = pod["metadata"]["name"]
        texts[f"log of {name}"] = kubectl("logs", name, "--all-containers", "--tail=-1", check=False)
        if any(it["restartCount"] for it in pod["status"].get("containerStatuses", [])):
            texts[f"earlier log of {name}"] = kubectl("logs", name, "--all-containers", "--previous", check=False)
    return texts


@line(14)
def secrets_and_eyes():
    """A planted password is in no log, description or manifest; pgAdmin accepts a login and runs a query through its read-only entry, by NodePort and by port-forward; `kubectl top pods` answers."""
    planted = "pl4nted-Password-in-vain"
    secrets = passwords() | {planted}
    kubectl("delete", "secret", "e2e-planted", "--ignore-not-found")
    kubectl("create", "secret", "generic", "e2e-planted", f"--from-literal=password={planted}")
    wrong = [{"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "e2e-planted", "key": "password"}}},
             {"name": "DB_HOST", "value": "lambda-postgres"}, {"name": "DB_USER", "value": "postgres"},
             {"name": "DB_NAME", "value": "lambda"}]
    with allowed_in(), stranger("lambda", "doctor", env=wrong) as (name, code):
        log = kubectl("logs", name)
        # The password was used and refused.
        want(code == 78 and "password" in log, f"doctor with a wrong password: {code}, {log[-300:]}")
        texts = all_texts()
        found = where(secrets, texts)
        want(not found, f"a password is in {', '.join(sorted(found))}")
    # The control: a password that a pod does print is found.
    with stranger("lambda", planted) as (name, _):
        found = where({planted}, all_texts())
        want({"describe", "get", f"log of {name}"} <= found, f"a password that was printed is only in {found}")
    kubectl("delete", "secret", "e2e-planted")
    ways = [pgadmin(address) for address in node_ports()]
    with forwarded("service/lambda-pgadmin", 5050) as address:
        ways.append(pgadmin(address))
    top = kubectl("top", "pods")
    for app in ("lambda-consumer", "lambda-postgres", "kafka", "lambda-producer-stream", "lambda-pgadmin"):
        want(app in top, f"kubectl top does not list {app}: {top}")
    return f"{len(secrets)} passwords, {len(texts)} texts; pgAdmin by {len(ways)} ways"


class PgAdmin:
    """A client of pgAdmin that makes the requests of its own pages."""

    def __init__(self, base):
        self.base, self.token = base, ""
        self.opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def ask(self, path, form=None, document=None):
        headers, data = {"X-pgA-CSRFToken": self.token}, None
        if form is not None:
            data = urllib.parse.urlencode(form).encode()
        if document is not None:
            data, headers["Content-Type"] = json.dumps(document).encode(), "application/json"
        request = urllib.request.Request(self.base + path, data=data, headers=headers)
        try:
            with self.opener.open(request, timeout=60) as answer:
                return answer.url, answer.read().decode()
        except urllib.error.HTTPError as error:
            raise Broken(f"pgAdmin: {path}: {error.code} {error.read().decode()[:300]}") from error

    def login(self, email, password):
        """Whether this account is accepted."""
        _, page = self.ask("/login")
        self.token = re.search(r'"csrfToken": "([^"]+)"|csrf_token\'\] = \'([^\']+)', page)[1]
        form = {"email": email, "password": password, "csrf_token": self.token, "internal_button": "Login"}
        landed, _ = self.ask("/authenticate/login", form=form)
        if not landed.endswith("/browser/"):
            return False
        _, script = self.ask("/browser/js/utils.js")
        self.token = re.search(r"csrf_token'\] = '([^']+)'", script)[1]
        return True

    def query(self, server, sql):
        """The answer of the server with that number: its first row, or its error."""
        self.ask(f"/browser/server/connect/1/{server}", document={})
        databases = json.loads(self.ask(f"/browser/database/nodes/1/{server}/")[1])["data"]
        database = next(it["_id"] for it in databases if it["label"] == "lambda")
        window = time.time_ns() % 10_000_000
        self.ask(f"/sqleditor/initialize/sqleditor/{window}/1/{server}/{database}",
                 document={"dbname": "lambda", "user": "lambda_reader"})
        self.ask(f"/sqleditor/query_tool/start/{window}", document={"sql": sql, "explain_plan": None})

        def answered():
            try:
                data = json.loads(self.ask(f"/sqleditor/poll/{window}")[1])["data"]
            # A refusal is reported by the HTTP status.
            except Broken as error:
                return {"result": str(error)}
            return None if data["status"] == "Busy" else data
        data, _ = until("pgAdmin answers", 30, answered)
        return data["result"]


def pgadmin(address):
    """Logs in, reads through the read-only entries, and checks that they refuse a write."""
    account = values("pgadmin-config")
    email, password = (account[f"PGADMIN_DEFAULT_{it}"] for it in ("EMAIL", "PASSWORD"))
    # The control: a wrong password is refused.
    want(not PgAdmin(address).login(email, "not-the-password"), "pgAdmin accepts a wrong password")
    page = PgAdmin(address)
    want(page.login(email, password), "pgAdmin refuses its own account")
    for server in (1, 2):
        found = page.query(server, "select count(*) > 0 from transactions")
        want(found == [[True]], f"pgAdmin's entry {server} answers {found}")
    refused = page.query(1, "delete from transactions")
    want("denied" in str(refused) or "read-only" in str(refused), f"pgAdmin's read-only entry: {refused}")
    return address


@contextlib.contextmanager
def allowed_in():
    """Admits unrelated pods to PostgreSQL."""
    document = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "e2e-allowed-in"},
                "spec": {"podSelector": {"matchExpressions": [
                    {"key": "app", "operator": "In", "values": ["stranger", "lambda-postgres"]}]},
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "stranger"}}}]}],
                    "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "lambda-postgres"}}}]}]}}
    kubectl("apply", "--filename", "-", stdin=json.dumps(document))
    try:
        yield
    finally:
        kubectl("delete", "networkpolicy", "e2e-allowed-in")


def node_ports():
    """The address of the node port: the node, or this machine if the node is a container."""
    port = objects("service", "--field-selector", "metadata.name=lambda-pgadmin")[0]["spec"]["ports"][0]["nodePort"]
    nodes = json.loads(kubectl("get", "nodes", "--output", "json"))["items"]
    addresses = [it["address"] for node in nodes for it in node["status"]["addresses"] if it["type"] == "InternalIP"]
    for address in [*addresses, "127.0.0.1"]:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://{address}:{port}/misc/ping", timeout=5)
            return [f"http://{address}:{port}"]
    want(False, f"the node port {port} does not answer")
