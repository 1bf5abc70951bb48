"""`churn-saver launch` on a real API server with its Job controller; what a kubelet reports is played here."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from churnsaver.errors import BadInput
from cli.cluster import Cluster, ClusterAway
from cli.trainer_jobs import Changes, create, find_trainer, follow, job_of
from tests.conftest import free_port
from tests.support.chart import TRAINERS, Object, at, of_kind, render, values_of
from tests.support.cluster import END, Kubelet, apply, bind, eventually, kubelet, namespace, objects, play

ROOT = Path(__file__).resolve().parents[2]
JOBS = "batch/v1", "jobs"
# The stand-in kubelet leaves pods of this image to the test.
BROKEN = at("trainers.image.repository", "broken-trainers")

pytestmark = pytest.mark.timeout(1500)  # the first test of a machine builds the control plane


def trainers(*more: Object, version: str = "1.20.2") -> list[Object]:
    """The chart's CronJobs."""
    return of_kind(render(values_of("production", TRAINERS, *more, at("kubeVersion", version))), "CronJob")


class Launched:
    """`churn-saver launch …` as a process, with what it has said so far."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-u", "-m", "cli.main", "launch", "--json", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(line.rstrip("\n") for line in self.process.stderr)

    def until(self, words: str) -> None:
        eventually(lambda: any(words in line for line in self.said))

    def end(self) -> tuple[int, Object]:
        """Exit code and the JSON on standard output."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        code = self.process.wait(60)
        self._reader.join(10)
        return code, json.loads(out) if out else {}

    def close(self) -> None:
        """Nothing outlives its test."""
        self.process.kill()
        self.process.wait()
        self._reader.join(10)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


Launch = Callable[..., Launched]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts `churn-saver launch`."""
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> Launched:
            launched = Launched(*words)
            stack.callback(launched.close)
            return launched

        yield start


# -- without a cluster -------------------------------------------------------------------------------


def test_job_is_the_charts_but_for_what_was_asked() -> None:
    """GPU, spot, arguments, patience and image change; settings, keys, account and guards do not."""
    (_, risk) = trainers(version="1.30.0")
    plain = job_of(risk | {"metadata": risk["metadata"] | {"uid": "u"}}, Changes())
    assert plain["spec"] == risk["spec"]["jobTemplate"]["spec"]
    assert plain["metadata"]["ownerReferences"][0]["name"] == "churn-saver-risk"
    changes = Changes(("train", "ppo", "--publish"), "other:2", "nvidia-l4", 2, True, 5, 1.5)
    changed = job_of(risk | {"metadata": risk["metadata"] | {"uid": "u"}}, changes)["spec"]
    assert (changed["backoffLimit"], changed["activeDeadlineSeconds"]) == (5, 5400)
    pod, before = changed["template"]["spec"], plain["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-l4",
        "cloud.google.com/gke-spot": "true",
    }
    assert [each["key"] for each in pod["tolerations"]] == ["nvidia.com/gpu", "cloud.google.com/gke-spot"]
    (container,), (template,) = pod["containers"], before["containers"]
    assert (container["args"], container["image"]) == (["train", "ppo", "--publish"], "other:2")
    assert [container["resources"][part]["nvidia.com/gpu"] for part in ("limits", "requests")] == ["2", "2"]
    assert changed["podFailurePolicy"] == plain["spec"]["podFailurePolicy"]
    same = ("env", "securityContext", "volumeMounts", "command", "workingDir")
    assert {name: container[name] for name in same} == {name: template[name] for name in same}
    assert pod["volumes"] == before["volumes"]
    assert pod["serviceAccountName"] == before["serviceAccountName"] == "churn-saver-trainers"


def test_without_a_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: Launch) -> None:
    """Where no cluster is named, it says how to name one."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    launched = launch("risk")
    assert launched.end()[0] == 2
    (said,) = launched.said
    assert "gcloud container clusters get-credentials" in said
    assert "KUBECONFIG" in said


@pytest.mark.parametrize("text", ["a: b: c", "just words", "[1, 2]", "apiVersion: v1\ncontexts: 7\n"])
def test_kubeconfig_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A file that says something else, or is no YAML, is refused in one line with the mend."""
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(BadInput, match=r"^no cluster to launch on \(.+\); run `gcloud .*set KUBECONFIG$"):
        Cluster.connect()


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (("--gpus", "2"), "Name it with --gpu"),
        (("--timeout-hours", "inf"), "--timeout-hours: inf is no time; give hours"),
        (("--image", ""), "--image: is empty; name an image"),
    ],
)
def test_options_that_say_nothing(words: tuple[str, ...], mend: str, launch: Launch) -> None:
    """Exit 2 with the option and the mend, before a cluster is asked."""
    launched = launch("risk", *words)
    assert launched.end()[0] == 2
    assert mend in launched.said[0]


def test_cluster_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig of a cluster that does not answer; a context that it does not have."""
    path = tmp_path / "kubeconfig"
    port = free_port()
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: gone\n"
        f"clusters: [{{name: gone, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n"
        "users: [{name: nobody, user: {}}]\n"
        "contexts: [{name: gone, context: {cluster: gone, user: nobody, namespace: theirs}}]\n"
    )
    monkeypatch.setenv("KUBECONFIG", str(path))
    cluster = Cluster.connect()
    assert cluster.namespace == "theirs"
    with pytest.raises(ClusterAway, match="does not answer"):
        find_trainer(cluster, "risk")
    with pytest.raises(BadInput, match="--context: the kubeconfig has no 'other'; it has gone"):
        Cluster.connect("other")


# -- on a real API server ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(kubeconfig: Path) -> Iterator[Cluster]:
    """A namespace with the chart's CronJobs, of which nothing runs by itself."""
    with pytest.MonkeyPatch.context() as patch:
        found = namespace(kubeconfig, "launch", patch)
        for each in trainers(BROKEN):
            apply(found, each)
        yield found


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path) -> Iterator[Kubelet]:
    with kubelet(cluster, tmp_path) as found:
        yield found


def pods(cluster: Cluster, job: str) -> list[Object]:
    return objects(cluster, "v1", "pods", labelSelector=f"job-name={job}")


def next_job(cluster: Cluster, before: list[Object]) -> str:
    """The name of the Job that is there now and was not before."""
    known = {each["metadata"]["name"] for each in before}
    (name,) = eventually(lambda: {each["metadata"]["name"] for each in objects(cluster, *JOBS)} - known)
    return str(name)


def attempt(cluster: Cluster, job: str) -> Object:
    """The pod of a Job that waits for its node, once there is one."""

    def waiting() -> list[Object]:
        return [pod for pod in pods(cluster, job) if pod["status"].get("phase") == "Pending"]

    (found,) = eventually(waiting)
    return dict(found)


@pytest.mark.stack
def test_succeeds(cluster: Cluster, record_property: Any, launch: Launch) -> None:
    """A Job of the chart's CronJob with GPUs on spot nodes, followed to its end: exit 0 and what became of it."""
    words = ("--image", "example/trainers:1", "--gpu", "nvidia-l4", "--gpus", "2", "--spot", "--retries", "4")
    begun = time.monotonic()
    launched = launch("risk", *words, "--", "train", "risk", "--data", "/data/c.csv", "--out", "/scratch/r")
    code, result = launched.end()
    record_property("start_to_end_s", round(time.monotonic() - begun, 2))
    assert code == 0, launched.said
    assert (result["state"], result["attempts"], result["exit_codes"]) == ("succeeded", 1, [0])
    assert result["command"] == "churn-saver train risk --data /data/c.csv --out /scratch/r"
    assert any("--publish" in line for line in launched.said)  # it warns
    made = cluster.call("GET", cluster.at(*JOBS, result["job"]))
    assert made["metadata"]["labels"]["churn-saver/trainer-job"] == "risk"
    assert made["metadata"]["ownerReferences"][0]["kind"] == "CronJob"
    (pod,) = pods(cluster, result["job"])
    assert pod["spec"]["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-l4"
    assert pod["spec"]["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    keys = {each["key"] for each in pod["spec"]["tolerations"]}
    assert keys >= {"nvidia.com/gpu", "cloud.google.com/gke-spot"}
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert made["spec"]["backoffLimit"] == 4


@pytest.mark.stack
def test_log_comes_while_it_is_written_and_once(cluster: Cluster, node: Kubelet, launch: Launch) -> None:
    """Through the API server from a kubelet: line by line, and no line twice where the connection breaks."""
    before = objects(cluster, *JOBS)
    launched = launch("policy")
    job = next_job(cluster, before)
    launched.until("starting, attempt 1 of 3")
    pod = attempt(cluster, job)
    name = pod["metadata"]["name"]
    bind(cluster, pod)
    node.lines[name] = ["2026-01-01T00:00:01.000000000Z epoch 1"]
    play(cluster, pod, "Running")
    launched.until("epoch 1")
    node.lines[name] += ["2026-01-01T00:00:02.000000000Z epoch [2]", END]
    launched.until("epoch [2]")
    eventually(lambda: len(node.asked) > 1)  # it asks again
    node.lines[name] = [*node.lines[name][:-1], "2026-01-01T00:00:03.000000000Z epoch 3", END]
    launched.until("epoch 3")
    assert launched.process.poll() is None
    play(cluster, pod, "Succeeded", 0)
    code, result = launched.end()
    assert (code, result["state"]) == (0, "succeeded")
    assert [line for line in launched.said if line.startswith("epoch")] == ["epoch 1", "epoch [2]", "epoch 3"]
    assert "sinceSeconds" in node.asked[-1]


@pytest.mark.stack
def test_fails_after_its_retries(cluster: Cluster, node: Kubelet, launch: Launch) -> None:
    """Each attempt's log is shown; exit 1 with Kubernetes' reason and the exit codes."""
    before = objects(cluster, *JOBS)
    launched = launch("policy", "--retries", "1")
    job = next_job(cluster, before)
    for number in (1, 2):
        pod = attempt(cluster, job)
        bind(cluster, pod)
        node.lines[pod["metadata"]["name"]] = [f"2026-01-01T00:00:0{number}.0Z attempt {number} says no", END]
        play(cluster, pod, "Running")
        launched.until(f"attempt {number} says no")
        play(cluster, pod, "Failed", 3)
    code, result = launched.end()
    assert (code, result["state"], result["exit_codes"]) == (1, "failed", [3, 3])
    assert "BackoffLimitExceeded" in result["reason"]
    assert any("attempt 2 of 2" in line for line in launched.said)


@pytest.mark.stack
def test_sidecar_is_not_the_trainer(cluster: Cluster, node: Kubelet, launch: Launch) -> None:
    """Clusters put containers of their own first into a pod: log, arguments and exit code are the trainer's."""
    trainer = find_trainer(cluster, "policy")
    sidecar = {"name": "gke-gcsfuse-sidecar", "image": "example/sidecar:1"}
    labels = trainer["metadata"]["labels"] | {"app.kubernetes.io/instance": "sidecar"}
    spec = copy.deepcopy(trainer["spec"])
    spec["jobTemplate"]["spec"]["template"]["spec"]["containers"].insert(0, sidecar)
    apply(cluster, {**trainer, "metadata": {"name": "with-sidecar", "labels": labels}, "spec": spec})
    before = objects(cluster, *JOBS)
    launched = launch("policy", "--release", "sidecar", "--retries", "0", "--", "train", "ppo", "--publish")
    job = next_job(cluster, before)
    pod = attempt(cluster, job)
    assert [each.get("args") for each in pod["spec"]["containers"]] == [None, ["train", "ppo", "--publish"]]
    bind(cluster, pod)
    node.lines[pod["metadata"]["name"]] = ["2026-01-01T00:00:01.0Z no convergence", END]
    play(cluster, pod, "Running")
    launched.until("no convergence")
    play(cluster, pod, "Failed", 3)
    code, result = launched.end()
    assert (code, result["exit_codes"]) == (1, [3])
    assert {path.split("?")[0].split("/")[4] for path in node.asked} == {"trainer"}
    cluster.call("DELETE", cluster.at(trainer["apiVersion"], "cronjobs", "with-sidecar"))


@pytest.mark.stack
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_cancelled(cluster: Cluster, sign: signal.Signals, record_property: Any, launch: Launch) -> None:
    """Ctrl-C, or a pipeline that stops it: the Job is gone with its pod, and it says so."""
    before = objects(cluster, *JOBS)
    launched = launch("policy")
    job = next_job(cluster, before)
    launched.until("starting")
    attempt(cluster, job)
    begun = time.monotonic()
    launched.process.send_signal(sign)
    code, _ = launched.end()
    record_property("cancelled_s", round(time.monotonic() - begun, 2))
    assert code == 130
    assert launched.said[-2:] == [f"cancelling: job {job} and its pod are being deleted", "cancelled"]
    assert job not in {each["metadata"]["name"] for each in objects(cluster, *JOBS)}
    assert not pods(cluster, job)


@pytest.mark.stack
def test_detached(cluster: Cluster, launch: Launch) -> None:
    """It only starts the Job, and says how to follow it."""
    launched = launch("risk", "--image", "example/trainers:1", "--detach")
    code, result = launched.end()
    assert code == 0
    assert result["follow"] == f"kubectl --namespace launch logs --follow job/{result['job']}"
    job = cluster.at(*JOBS, result["job"])
    eventually(lambda: cluster.call("GET", job)["status"].get("succeeded") == 1)


@pytest.mark.stack
def test_time_runs_out(cluster: Cluster) -> None:
    """The deadline is of all attempts; then the Job has failed, whatever its pod does."""
    job = job_of(find_trainer(cluster, "policy"), Changes(timeout_hours=2 / 3600))
    states: list[str] = []
    ended = follow(cluster, create(cluster, job), say=states.append, log=states.append)
    assert not ended.succeeded
    assert ended.reason.startswith("DeadlineExceeded")


@pytest.mark.stack
def test_what_it_waits_for_is_said(cluster: Cluster) -> None:
    """No node, no image: the reasons that Kubernetes gives; and a Job that somebody else takes away has failed."""
    name = create(cluster, job_of(find_trainer(cluster, "policy"), Changes()))
    pod = attempt(cluster, name)
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 have a GPU"}
    content = "application/merge-patch+json"
    path = cluster.at("v1", "pods", pod["metadata"]["name"], "status")
    cluster.call("PATCH", path, {"status": {"conditions": [unscheduled]}}, content=content)
    states: list[str] = []

    def say(state: str) -> None:
        states.append(state)
        if "GPU" in state:
            cluster.call("DELETE", cluster.at(*JOBS, name), {"propagationPolicy": "Background"})

    ended = follow(cluster, name, say=say, log=states.append)
    assert "starting, attempt 1 of 3 (no node yet: 0/3 have a GPU)" in states
    assert (ended.succeeded, ended.reason[:7]) == (False, "Deleted")


@pytest.mark.stack
def test_two_releases_in_a_namespace(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a job of that name: which one is a person's to say."""
    both = namespace(kubeconfig, "both", monkeypatch)
    for each in trainers():
        apply(both, each)
        labels = each["metadata"]["labels"] | {"app.kubernetes.io/instance": "canary"}
        apply(both, each | {"metadata": {"name": f"canary-{each['metadata']['name']}", "labels": labels}})
    with pytest.raises(BadInput, match="'risk' in each of canary, churn-saver; choose with --release"):
        find_trainer(both, "risk")
    assert find_trainer(both, "risk", "canary")["metadata"]["name"] == "canary-churn-saver-risk"


@pytest.mark.stack
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("weather",), "has no trainer job 'weather', only policy, risk; add it to trainers.jobs"),
        (("risk", "--namespace", "nowhere"), "--namespace: the cluster has no 'nowhere'"),
        (("risk", "--namespace", "default"), "no release has trainer jobs; install the chart with trainers.enabled"),
        (("risk", "--release", "other"), "no release has trainer jobs"),
        (("risk", "--gpu", "no such kind!"), "Invalid value"),
    ],
    ids=["job", "namespace", "nothing installed", "release", "gpu"],
)
def test_bad_input(cluster: Cluster, words: tuple[str, ...], said: str, launch: Launch) -> None:
    """Exit 2, one line, and nothing was made."""
    before = objects(cluster, *JOBS)
    launched = launch(*words)
    code, _ = launched.end()
    assert code == 2
    assert said in launched.said[-1]
    assert len(objects(cluster, *JOBS)) == len(before)
