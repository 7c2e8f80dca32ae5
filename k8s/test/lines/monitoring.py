"""The platform's metrics in a Prometheus."""

import contextlib
import json
import time

from cluster import OVERLAY, ROOT, forwarded, from_nothing, judged, kubectl, line, run, until, want
from lines.batch import drop_rows, nightly

# Scrapes by the component's annotations, in the namespace that the policies admit.
SETTINGS = """
global: {scrape_interval: 2s, evaluation_interval: 5s}
rule_files: [/etc/prometheus-e2e/rules.yaml]
scrape_configs:
  - job_name: pods
    kubernetes_sd_configs: [{role: pod, namespaces: {names: [NAMESPACE]}}]
    relabel_configs:
      - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], regex: "true", action: keep}
      - {source_labels: [__meta_kubernetes_pod_container_init], regex: "true", action: drop}
      - {source_labels: [__meta_kubernetes_pod_phase], regex: Pending|Succeeded|Failed, action: drop}
      - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path], target_label: __metrics_path__}
      - source_labels: [__meta_kubernetes_pod_ip, __meta_kubernetes_pod_annotation_prometheus_io_port]
        separator: ":"
        target_label: __address__
      - {source_labels: [__meta_kubernetes_namespace], target_label: namespace}
      - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
"""

PROMETHEUS = """
apiVersion: v1
kind: Namespace
metadata: {name: monitoring, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus, namespace: monitoring}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: e2e-prometheus, namespace: NAMESPACE}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: e2e-prometheus, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: e2e-prometheus}
subjects: [{kind: ServiceAccount, name: prometheus, namespace: monitoring}]
---
apiVersion: v1
kind: Pod
metadata: {name: prometheus, namespace: monitoring}
spec:
  serviceAccountName: prometheus
  terminationGracePeriodSeconds: 5
  securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: prometheus
      image: lambda-e2e-client:dev
      imagePullPolicy: IfNotPresent
      command: [prometheus, --config.file=/etc/prometheus-e2e/prometheus.yaml, --storage.tsdb.path=/data]
      readinessProbe: {httpGet: {path: /-/ready, port: 9090}, periodSeconds: 1}
      resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 512Mi}}
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: settings, mountPath: /etc/prometheus-e2e}, {name: data, mountPath: /data}]
  volumes:
    - {name: settings, configMap: {name: prometheus}}
    - {name: data, emptyDir: {}}
"""


@contextlib.contextmanager
def prometheus():
    """Runs a Prometheus that scrapes the platform's namespace; returns its address on this machine."""
    settings = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prometheus", "namespace": "monitoring"},
        "data": {"prometheus.yaml": SETTINGS.replace("NAMESPACE", OVERLAY.namespace),
                 "rules.yaml": (ROOT / "k8s/components/monitoring/rules.yaml").read_text()},
    }
    documents = PROMETHEUS.replace("NAMESPACE", OVERLAY.namespace) + "---\n" + json.dumps(settings)
    run("kubectl", "apply", "--filename", "-", stdin=documents)
    try:
        run("kubectl", "wait", "--namespace=monitoring", "--for=condition=Ready", "pod/prometheus", "--timeout=60s")
        with forwarded("pod/prometheus", 9090, namespace="monitoring") as address:
            yield address
    finally:
        run("kubectl", "delete", "namespace", "monitoring", timeout=120)


@line(16)
def every_query_answers():
    """Every query of the dashboard and of the rules returns a number from a Prometheus that finds the pods by their annotations."""
    # Start without an earlier load.
    from_nothing()
    with prometheus() as address:
        began = time.monotonic()

        def ask():
            seconds = str(int(time.monotonic() - began))
            return run("k8s/test/monitoring", "--prometheus", address, "--range", seconds).stdout

        time.sleep(60)
        # The control: there are no metrics of jobs yet.
        _, found = judged(ask)
        want("Stored records per job" in found, f"queries about jobs return a number without any job: {found}")
        # Long enough for a scrape every 5 s and for a rule that is evaluated every 30 s.
        drop_rows(f"E2E-{int(time.time())}", 8_000_000)
        nightly("test-seen")
        kubectl("wait", "--for=condition=Complete", "job/test-seen", "--timeout=300s")
        summary, _ = until("every query returns a number", 120, ask)
        kubectl("delete", "job", "test-seen", "--wait")
    return summary.strip()
