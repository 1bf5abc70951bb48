"""A trainer as a Kubernetes Job: made from a CronJob of the installed chart, followed to its end, or taken away.

The chart alone says what a trainer's pod is: its settings, keys, data, account and guards. A Job made here is one run
of it, with other arguments, GPUs or patience where somebody asks for them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from churnsaver.errors import BadInput
from cli.cluster import Cluster, ClusterAway, ClusterRefused, Object

JOB_LABEL = "churn-saver/trainer-job"
CONTAINER = "trainer"  # in the chart; clusters put others beside it, such as Cloud Storage FUSE's
POLL_S = 0.5
AWAY_S = 300.0  # how long the cluster may be out of reach while a job is followed
GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
SPOT_TOLERATION = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}


@dataclass(frozen=True, slots=True)
class Changes:
    """What one run has otherwise than the chart says; None and empty leave it."""

    args: tuple[str, ...] = ()
    image: str | None = None
    gpu: str | None = None
    gpus: int = 1
    spot: bool = False
    retries: int | None = None
    timeout_hours: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a Job ended: `reason` is Kubernetes', `exit_codes` those of its pods in their order, None where unknown."""

    succeeded: bool
    reason: str
    exit_codes: list[int | None] = field(default_factory=list)


def find_trainer(cluster: Cluster, job: str, release: str | None = None) -> Object:
    """The CronJob of a trainer job of the release that is installed in the namespace.

    Raises:
        BadInput: there is none, or one in each of several releases.
    """
    api, selector = _cron_api(cluster), JOB_LABEL + (f",app.kubernetes.io/instance={release}" if release else "")
    known = cluster.call("GET", cluster.at(api, "cronjobs"), labelSelector=selector)["items"]
    found = [each for each in known if each["metadata"]["labels"][JOB_LABEL] == job]
    if len(found) == 1:
        return {**found[0], "apiVersion": api, "kind": "CronJob"}  # a list leaves them out
    place = f"namespace {cluster.namespace}" + (f", release {release}" if release else "")
    if found:
        releases = ", ".join(each["metadata"]["labels"]["app.kubernetes.io/instance"] for each in found)
        raise BadInput(f"{place}: there is a job {job!r} in each of {releases}; choose with --release")
    if known:
        names = ", ".join(sorted({each["metadata"]["labels"][JOB_LABEL] for each in known}))
        raise BadInput(
            f"{place}: has no trainer job {job!r}, only {names}; add it to trainers.jobs of the chart's values"
        )
    _require_namespace(cluster)
    raise BadInput(
        f"{place}: no release has trainer jobs; install the chart with trainers.enabled and trainers.jobs, "
        "or name another --namespace"
    )


def _cron_api(cluster: Cluster) -> str:
    """CronJobs left beta with Kubernetes 1.21."""
    served = cluster.call("GET", "/apis/batch/v1")["resources"]
    return "batch/v1" if any(each["name"] == "cronjobs" for each in served) else "batch/v1beta1"


def _require_namespace(cluster: Cluster) -> None:
    try:
        cluster.call("GET", f"/api/v1/namespaces/{cluster.namespace}")
    except ClusterRefused as refusal:
        if refusal.status == 404:
            raise BadInput(
                f"--namespace: the cluster has no {cluster.namespace!r}; `kubectl get namespaces` shows them"
            ) from None


def job_of(trainer: Object, changes: Changes) -> Object:
    """One run of a trainer's CronJob, as `kubectl create job --from` makes it, with `changes`."""
    template: Object = copy.deepcopy(trainer["spec"]["jobTemplate"])
    owner = {name: trainer["metadata"][name] for name in ("name", "uid")}
    spec = template["spec"]
    _change(spec, spec["template"]["spec"], changes)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "generateName": f"{trainer['metadata']['name']}-",
            "labels": template.get("metadata", {}).get("labels", {}),
            "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
            # It goes with its release.
            "ownerReferences": [{"apiVersion": trainer["apiVersion"], "kind": "CronJob", "controller": True, **owner}],
        },
        "spec": spec,
    }


def container_of(job: Object) -> Object:
    """The trainer's own container of a Job."""
    return _trainers(job["spec"]["template"]["spec"]["containers"])[0]


def _trainers(named: list[Object]) -> list[Object]:
    return [each for each in named if each["name"] == CONTAINER]


def _change(spec: Object, pod: Object, changes: Changes) -> None:
    (container,) = _trainers(pod["containers"])
    container |= {"args": list(changes.args)} if changes.args else {}
    container |= {"image": changes.image} if changes.image else {}
    if changes.retries is not None:
        spec["backoffLimit"] = changes.retries
    if changes.timeout_hours is not None:
        spec["activeDeadlineSeconds"] = round(changes.timeout_hours * 3600)
    if changes.gpu:
        _place(pod, {"cloud.google.com/gke-accelerator": changes.gpu}, GPU_TOLERATION)
        for part in ("requests", "limits"):
            container["resources"].setdefault(part, {})["nvidia.com/gpu"] = str(changes.gpus)
    if changes.spot:
        _place(pod, {"cloud.google.com/gke-spot": "true"}, SPOT_TOLERATION)


def _place(pod: Object, labels: dict[str, str], toleration: dict[str, str]) -> None:
    pod["nodeSelector"] = pod.get("nodeSelector", {}) | labels
    pod["tolerations"] = [*pod.get("tolerations", []), toleration]


def create(cluster: Cluster, job: Object) -> str:
    """Makes the Job; returns its name."""
    made = cluster.call("POST", cluster.at("batch/v1", "jobs"), job)
    return str(made["metadata"]["name"])


def cancel(cluster: Cluster, name: str, patience_s: float = 90.0) -> bool:
    """Takes the Job away, its pods first; whether it was gone within `patience_s`."""
    path, deadline = cluster.at("batch/v1", "jobs", name), time.monotonic() + patience_s
    try:
        cluster.call("DELETE", path, {"propagationPolicy": "Foreground"})
        while time.monotonic() < deadline:
            cluster.call("GET", path)
            time.sleep(POLL_S)
    except ClusterRefused as refusal:
        if refusal.status != 404:
            raise
        return True
    return False


# -- following ---------------------------------------------------------------------------------------


def follow(cluster: Cluster, name: str, *, say: Callable[[str], None], log: Callable[[str], None]) -> Outcome:
    """Stays with a Job until it ends: tells its state to `say`, and every line of every attempt's log to `log`.

    Raises:
        ClusterRefused: the Job may not be read.
        ClusterAway: the cluster was out of reach for `AWAY_S`.
    """
    logs: dict[str, PodLog] = {}
    seen = time.monotonic()
    while True:
        try:
            try:
                job = cluster.call("GET", cluster.at("batch/v1", "jobs", name))
            except ClusterRefused as refusal:
                if refusal.status == 404:
                    return Outcome(False, "Deleted: somebody else took the job away")
                raise
            pods = _pods(cluster, name)
            say(_state(job, pods))
            for pod in pods:
                logs.setdefault(pod["metadata"]["name"], PodLog(cluster, pod)).read(pod, log)
            seen = time.monotonic()
        except ClusterAway as away:
            if time.monotonic() - seen > AWAY_S:
                raise
            say(str(away))
        else:
            if (ended := _outcome(job, pods)) is not None:
                return ended
        time.sleep(POLL_S)


def _pods(cluster: Cluster, name: str) -> list[Object]:
    pods = cluster.call("GET", cluster.at("v1", "pods"), labelSelector=f"job-name={name}")["items"]
    return sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


def _outcome(job: Object, pods: list[Object]) -> Outcome | None:
    for condition in job["status"].get("conditions", []):
        if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
            said = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
            codes = [_exit_code(pod) for pod in pods]
            return Outcome(condition["type"] == "Complete", said, codes)
    return None


def _exit_code(pod: Object) -> int | None:
    for status in _trainers(pod["status"].get("containerStatuses", [])):
        if "terminated" in status["state"]:
            return int(status["state"]["terminated"]["exitCode"])
    return None


def _state(job: Object, pods: list[Object]) -> str:
    """One line about a Job: what it does, or what it waits for."""
    failed = job["status"].get("failed", 0)
    attempt = f"attempt {failed + 1} of {job['spec']['backoffLimit'] + 1}"
    if "deletionTimestamp" in job["metadata"]:
        return "being deleted"
    active = [pod for pod in pods if pod["status"].get("phase") in {"Pending", "Running", None}]
    if not active:
        return f"waiting for a pod, {attempt}"
    waits = "; ".join(dict.fromkeys(_waits_for(active[-1])))
    phase = "running" if active[-1]["status"].get("phase") == "Running" else "starting"
    return f"{phase}, {attempt}" + (f" ({waits})" if waits else "")


def _waits_for(pod: Object) -> Iterator[str]:
    """Why a pod does not run yet: no node, no image, no Secret."""
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            yield f"no node yet: {condition.get('message', condition.get('reason', ''))}"
    for status in pod["status"].get("containerStatuses", []):
        if "waiting" in status["state"]:
            waiting = status["state"]["waiting"]
            yield ": ".join(filter(None, (waiting.get("reason"), waiting.get("message"))))


class PodLog:
    """The log of one attempt, each line once, however often the connection breaks."""

    def __init__(self, cluster: Cluster, pod: Object) -> None:
        self._cluster = cluster
        self._path = cluster.at("v1", "pods", pod["metadata"]["name"], "log")
        self._last = ""  # time stamp of the last line
        self._read_at = time.monotonic()
        self._ended = False

    def read(self, pod: Object, log: Callable[[str], None]) -> None:
        """Passes on what is new, and follows while the pod runs."""
        phase = pod["status"].get("phase")
        if self._ended or phase not in {"Running", "Succeeded", "Failed"}:
            return
        query: dict[str, Any] = {"container": CONTAINER, "follow": True, "timestamps": True}
        if self._last:
            query["sinceSeconds"] = int(time.monotonic() - self._read_at) + 60
        self._read_at, known = time.monotonic(), self._last
        try:
            for line in self._cluster.lines(self._path, **query):
                stamp, _, text = line.partition(" ")
                if stamp > known:  # all are of one node, in one zone and form
                    self._last = stamp
                    log(text)
        except ClusterRefused as refusal:
            if refusal.status not in {400, 404}:  # not started yet; gone with its node
                raise
        self._ended = phase != "Running"
