"""Files: the nightly load, and a load whose pods are deleted."""

import csv
import json
import time

from cluster import ROOT, SCRATCH, kubectl, line, number, objects, rows, run, until, want

SAMPLE = ROOT / "k8s/base/batch/sample/financial_transactions.csv"
HEADER = SAMPLE.read_text().splitlines()[0]


def nightly(name):
    """Runs the nightly load now, as a Job of that name."""
    kubectl("delete", "job", name, "--ignore-not-found", "--wait")
    kubectl("create", "job", name, "--from=cronjob/csv-batch-cron")


def drop(path):
    """Puts a file into the inbox with k8s/drop."""
    run("k8s/drop", str(path))


@line(4)
def nightly_load():
    """A Job of csv-batch-cron loads 30 rows, and none the second time; with a bad file it fails after one pod."""
    with SAMPLE.open() as sample:
        ids = ",".join(f"'{row['transaction_id']}'" for row in csv.DictReader(sample))
    count = f"select count(*) from transactions where ingestion_type = 'BATCH' and transaction_id in ({ids})"
    inserted = []
    for name in ("test-batch", "test-batch-again"):
        before = number(count)
        nightly(name)
        kubectl("wait", "--for=condition=Complete", f"job/{name}", "--timeout=120s")
        inserted.append(number(count) - before)
    kubectl("delete", "job", "test-batch", "test-batch-again", "--wait")
    # A second run on the same platform finds them stored.
    want(inserted in ([30, 0], [0, 0]), f"inserted {inserted}")
    want(number(count) == 30, "the rows of the sample are missing")
    SCRATCH.mkdir(parents=True, exist_ok=True)
    bad = SCRATCH / "e2e-bad.csv"
    bad.write_text("transaction_id,amount\nT-1,1.00\n")
    drop(bad)
    nightly("test-bad")
    try:
        kubectl("wait", "--for=condition=Failed", "job/test-bad", "--timeout=120s")
        pods = objects("pods", "--selector", "job-name=test-bad")
        codes = [it["state"]["terminated"]["exitCode"] for pod in pods for it in pod["status"]["containerStatuses"]]
        want(codes == [65], f"exit codes of its pods: {codes}")
    finally:
        kubectl("delete", "job", "test-bad", "--wait")
        inbox("rm", "-f", f"/inbox/{bad.name}")
    return f"inserted {inserted}; a bad file: one pod, 65"


def inbox(*command):
    """Runs a command in a pod that mounts the inbox."""
    overrides = {"spec": {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532,
                            "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "inbox", "image": "postgres:17", "imagePullPolicy": "IfNotPresent", "command": list(command),
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "inbox", "mountPath": "/inbox"}]}],
        "volumes": [{"name": "inbox", "persistentVolumeClaim": {"claimName": "batch-inbox"}}]}}
    name = f"e2e-inbox-{int(time.time())}"
    kubectl("run", name, "--image=postgres:17", "--restart=Never", f"--overrides={json.dumps(overrides)}")
    kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=60s")
    kubectl("delete", "pod", name, "--wait")


def drop_rows(prefix, size):
    """Puts a file of that many new rows into the inbox; returns its name."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    file = SCRATCH / f"{prefix}.csv"
    with file.open("w") as out:
        out.write(HEADER + "\n")
        for row in range(size):
            out.write(f"{prefix}-{row:07},ACC-{row % 1000:04},purchase,{row % 9999}.{row % 100:02},"
                      f"2025-06-{row % 28 + 1:02} 14:23:45,grocery,Nashville TN,true,0.1\n")
    drop(file)
    file.unlink()
    return file.name


@line(5)
def a_load_whose_pods_die():
    """The pod of a load of 1,000,000 rows is deleted twice: the Job is never Complete early, 1,000,000 rows are stored, by one completed job."""
    prefix, name, size = f"E2E-{int(time.time())}", "test-million", 1_000_000
    file = drop_rows(prefix, size)
    count = f"select count(*) from transactions where transaction_id like '{prefix}-%'"
    nightly(name)

    def complete():
        job = json.loads(kubectl("get", "job", name, "--output", "json"))
        kinds = [it["type"] for it in job["status"].get("conditions", []) if it["status"] == "True"]
        want("Failed" not in kinds, f"the Job failed: {job['status']}")
        return "Complete" in kinds

    def running():
        pods = objects("pods", "--selector", f"job-name={name}", "--field-selector=status.phase=Running")
        return next((pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]), None)

    killed = []
    try:
        for least, how in ((1, ["--grace-period=60"]), (size // 3, ["--force", "--grace-period=0"])):
            stored, _ = until(f"{least} rows are stored", 180, lambda: (found := number(count)) >= least and found)
            pod, _ = until("a pod runs", 120, running)
            # The control: the load was in the middle of the file, and the Job was not complete.
            want(stored < size and not complete(), f"the load was done before the pod was killed: {stored} rows")
            kubectl("delete", "pod", pod, "--wait=false", *how)
            killed.append(stored)
        while not (done := complete()):
            time.sleep(0.2)
        # Counted after the Job was complete: nothing may be missing by then.
        want(done and number(count) == size, f"Complete with {number(count)} rows")
        jobs = rows("select status, count(*), max(attempt) from lambda.batch_jobs where file_name like "
                    f"'%{file}' group by 1")
        want([it[:2] for it in jobs] == [["completed", 1]], f"jobs of the file: {jobs}")
    finally:
        kubectl("delete", "job", name, "--wait")
    return f"killed at {' and '.join(f'{it:,}' for it in killed)} rows; attempt {jobs[0][2]}"
