"""The chart through Helm 4 on a real API server with its controllers: every object of every values file, and the life
of a release. Pods do not really run: a stand-in kubelet says that they do, or the test says what became of them.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import helm_python
import pytest
from helm_python import HelmError

from cli.cluster import Cluster, ClusterRefused
from tests.support.chart import (
    EVERYTHING,
    FILES,
    FOREIGN,
    INGRESS,
    SERVICES,
    TRAINERS,
    Object,
    at,
    chart,
    merged,
    objects_of,
    of_kind,
    render,
    values_of,
)
from tests.support.cluster import apply, eventually, namespace, objects, play, plural

RELEASE = "churn-saver"
INSTANCE = f"app.kubernetes.io/instance={RELEASE}"
KEYS = ("pseudonym-key", "redis-url", "trusted.pem")

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]  # the first test of a machine builds the control plane


class Installed:
    """Helm and a namespace that it installs to."""

    def __init__(self, kubeconfig: Path, cluster: Cluster) -> None:
        self.cluster = cluster
        self.helm = helm_python.Config(kubeconfig_path=kubeconfig, namespace=cluster.namespace)

    def secret(self, name: str, *keys: str) -> None:
        data = {key: base64.b64encode(b"made up").decode() for key in keys}
        apply(self.cluster, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})

    def history(self) -> list[tuple[int, str]]:
        return [(each["revision"], each["status"]) for each in self.helm.history(RELEASE)]

    def images(self) -> dict[str, str]:
        """What the pods of each service run."""
        found = objects(self.cluster, "v1", "pods", labelSelector=INSTANCE)
        names = {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in found}
        return {
            name: names[name]["spec"]["containers"][0]["image"].rpartition("/")[2] for name in SERVICES if name in names
        }


@pytest.fixture(scope="module")
def kinds(kubeconfig: Path) -> None:
    """The API of operators and of GKE, in which anything goes: what Kubernetes does not know is stored all the same."""
    found = [each for name in FILES for more in (EVERYTHING, INGRESS) for each in render(values_of(name, more))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        cluster = Cluster.connect()
        for kind, api in sorted({(each["kind"], each["apiVersion"]) for each in found if each["kind"] in FOREIGN}):
            group, _, version = api.partition("/")
            names = {"kind": kind, "plural": plural(kind)}
            anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
            versions = [{"name": version, "served": True, "storage": True, "schema": anything}]
            metadata = {"name": f"{names['plural']}.{group}"}
            metadata |= {"annotations": {"api-approved.kubernetes.io": "unapproved, of a test"}}
            spec = {"group": group, "names": names, "scope": "Namespaced", "versions": versions}
            body = {"metadata": metadata, "spec": spec}
            cluster.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
            eventually(partial(_served, cluster, cluster.at(api, names["plural"])))


def _served(cluster: Cluster, path: str) -> bool:
    try:
        return "items" in cluster.call("GET", path)
    except ClusterRefused:
        return False


@contextmanager
def new(kubeconfig: Path, name: str) -> Iterator[Installed]:
    with pytest.MonkeyPatch.context() as patch:
        yield Installed(kubeconfig, namespace(kubeconfig, name, patch))


# -- every object ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty(kubeconfig: Path, kinds: None) -> Iterator[Cluster]:
    with new(kubeconfig, "objects") as found:
        yield found.cluster


@pytest.mark.parametrize("installation", FILES)
@pytest.mark.parametrize("more", [{}, EVERYTHING, INGRESS], ids=["as it is", "everything", "ingress"])
def test_every_object_is_accepted(empty: Cluster, installation: str, more: Object, record_property: Any) -> None:
    """The API server takes each object of each values file, in a dry run; those of operators are stored unread."""
    found = render(values_of(installation, more, at("kubeVersion", "v1.20.2")))
    for each in found:
        answer = apply(empty, each, dryRun="All")
        assert answer["kind"] == each["kind"]
    record_property("objects", len(found))
    kinds = {each["kind"] for each in found}
    assert {"NetworkPolicy", "PodDisruptionBudget", "Deployment", "Job"} <= kinds
    assert {each["apiVersion"] for each in of_kind(found, "PodDisruptionBudget")} == {"policy/v1beta1"}  # of 1.20


# -- the life of a release ---------------------------------------------------------------------------


class Ready:
    """How many pods of each service were ready, at the least and at every change, while it was watched."""

    def __init__(self, cluster: Cluster) -> None:
        self.least: dict[str, int] = {}
        self._cluster, self._over = cluster, threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(kind,)) for kind in ("deployments", "statefulsets")]

    def __enter__(self) -> Ready:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, kind: str) -> None:
        query: dict[str, Any] = {"watch": True, "labelSelector": INSTANCE, "timeoutSeconds": 1}
        while not self._over.is_set():
            for line in self._cluster.lines(self._cluster.at("apps/v1", kind), **query):
                found = json.loads(line)["object"]
                service, ready = found["metadata"]["name"], found["status"].get("readyReplicas", 0)
                self.least[service] = min(ready, self.least.get(service, ready))


def test_life_of_a_release(kubeconfig: Path, kinds: None, record_property: Any) -> None:
    """Install, upgrade, an upgrade that fails and goes back by itself, back to a named revision, test, uninstall."""

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        record_property(f"{step}_s", round(time.monotonic() - begun, 1))

    def values(tag: str, *more: Object) -> Object:
        return values_of("production", EVERYTHING, at("image.tag", tag), *more)

    with new(kubeconfig, "retain") as release:
        helm = release.helm
        release.secret("signing", "signing.key")
        with timed("install"):
            helm.install(chart(), RELEASE, values("one"), wait="watcher", timeout=120)
        assert release.history() == [(1, "deployed")]
        assert release.images() == {name: f"{name}:one" for name in SERVICES}
        _everything_is_there(release)
        _accounts_may_do_nothing(release)
        eventually(lambda: _replicas(release.cluster) == {"gateway": 3, "decision": 3, "generator": 2, "shield": 3}, 60)

        with Ready(release.cluster) as ready, timed("upgrade"):
            helm.upgrade(chart(), RELEASE, values("two"), wait="watcher", timeout=120)
        _never_below(ready)
        assert release.history() == [(1, "superseded"), (2, "deployed")]
        assert release.images() == {name: f"{name}:two" for name in SERVICES}

        broken = values("three", at("decision.image.repository", "broken-decision"))
        with Ready(release.cluster) as ready, timed("upgrade_that_rolls_itself_back"), pytest.raises(HelmError):
            helm.upgrade(chart(), RELEASE, broken, wait="watcher", timeout=20, rollback_on_failure=True)
        _never_below(ready)
        assert release.history() == [(1, "superseded"), (2, "superseded"), (3, "failed"), (4, "deployed")]
        assert helm.get_all(RELEASE)["info"]["description"] == "Rollback to 2"
        assert release.images() == {name: f"{name}:two" for name in SERVICES}

        with Ready(release.cluster) as ready, timed("rollback"):
            helm.rollback(RELEASE, version=1, wait="watcher", timeout=120)
        _never_below(ready)
        assert release.history()[-1] == (5, "deployed")
        assert release.images() == {name: f"{name}:one" for name in SERVICES}

        with timed("helm_test"):
            helm.test(RELEASE, timeout=60)
        record_property("revisions", [f"{version} {status}" for version, status in release.history()])
        with timed("uninstall"):
            helm.uninstall(RELEASE, wait="watcher", timeout=120)
        _nothing_is_left_but_claims(release)


def _everything_is_there(release: Installed) -> None:
    """What Helm says it installed, kinds of operators and of this old API among them."""
    manifest = objects_of({"all": release.helm.status(RELEASE)["manifest"]})
    assert {each["kind"] for each in manifest} > FOREIGN - {"BackendConfig", "ManagedCertificate"}
    for each in manifest:
        path = release.cluster.at(each["apiVersion"], plural(each["kind"]), each["metadata"]["name"])
        assert release.cluster.call("GET", path)["kind"] == each["kind"]


def _accounts_may_do_nothing(release: Installed) -> None:
    """Each process has an account, the services' with Workload Identity, and none may ask the API server anything."""
    accounts = {each["metadata"]["name"]: each for each in objects(release.cluster, "v1", "serviceaccounts")}
    names = {*SERVICES, "churn-saver-trainers", "churn-saver-vllm"}
    assert names == set(accounts) - {"default"}
    identity = "iam.gke.io/gcp-service-account"
    with_identity = {name for name in names if identity in accounts[name]["metadata"].get("annotations", {})}
    assert with_identity == set(SERVICES)
    for name in names:
        asked = {"namespace": "retain", "verb": "list", "resource": "secrets"}
        spec = {"user": f"system:serviceaccount:retain:{name}", "resourceAttributes": asked}
        review = release.cluster.call(
            "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"kind": "SubjectAccessReview", "spec": spec}
        )
        assert review["status"]["allowed"] is False, name


def _replicas(cluster: Cluster) -> dict[str, int]:
    """How many pods of each service are ready."""
    found = [each for kind in ("deployments", "statefulsets") for each in objects(cluster, "apps/v1", kind)]
    ready = {each["metadata"]["name"].removeprefix("churn-saver-"): each["status"] for each in found}
    return {name: ready[name].get("readyReplicas", 0) for name in SERVICES}


def _never_below(ready: Ready) -> None:
    """Deployments lose no pod before its successor is ready; the gateway's set replaces one at a time."""
    expected = {"gateway": 2, "decision": 3, "generator": 2, "shield": 3}
    least = {name: ready.least[f"churn-saver-{name}"] for name in SERVICES}
    assert all(least[name] >= count for name, count in expected.items()), least


def _nothing_is_left_but_claims(release: Installed) -> None:
    """The journals' claims stay, as the chart says; hooks' Jobs go by themselves after a day; nothing else is there."""
    jobs = ["churn-saver-kill-switch", "churn-saver-test"]
    claims = [f"state-churn-saver-gateway-{number}" for number in range(3)]
    # What Kubernetes made for our objects follows them at its leisure.
    eventually(lambda: _left(release.cluster) == {"PersistentVolumeClaim": claims, "Job": jobs})
    eventually(lambda: _jobs_of_pods(release.cluster) == set(jobs))


def _jobs_of_pods(cluster: Cluster) -> set[str | None]:
    return {each["metadata"]["labels"].get("job-name") for each in objects(cluster, "v1", "pods")}


def _left(cluster: Cluster) -> dict[str, list[str]]:
    """Every object that carries the release's label, but for pods."""
    left: dict[str, list[str]] = {}
    groups = cluster.call("GET", "/apis")["groups"]
    for api in ["v1", *(group["preferredVersion"]["groupVersion"] for group in groups)]:
        path = "/api/v1" if api == "v1" else f"/apis/{api}"
        for resource in cluster.call("GET", path)["resources"]:
            if resource["namespaced"] and "list" in resource["verbs"] and resource["name"] not in {"pods", "events"}:
                found = objects(cluster, api, resource["name"], labelSelector=INSTANCE)
                left.setdefault(resource["kind"], []).extend(each["metadata"]["name"] for each in found)
    return {kind: sorted(names) for kind, names in left.items() if names}


def test_canary_beside_production(kubeconfig: Path, kinds: None) -> None:
    """A second release takes production's accounts, trains nothing, and leaves all of production when it goes."""
    production = values_of("production", TRAINERS, at("image.tag", "one"))
    canary = merged(production, values_of("canary"), at("image.tag", "two"))
    with new(kubeconfig, "canary") as release:
        release.secret("signing", "signing.key")
        release.secret("churn-saver-secrets", *KEYS, "ca.pem")  # as the operator makes it
        release.helm.install(chart(), RELEASE, production, wait="watcher", timeout=120)
        release.helm.install(chart(), f"{RELEASE}-canary", canary, wait="watcher", timeout=120)
        pods = objects(release.cluster, "v1", "pods", labelSelector=f"app.kubernetes.io/instance={RELEASE}-canary")
        assert {each["spec"]["serviceAccountName"] for each in pods} == set(SERVICES)
        jobs = {each["metadata"]["name"] for each in objects(release.cluster, "batch/v1beta1", "cronjobs")}
        assert jobs == {"churn-saver-risk", "churn-saver-policy"}
        release.helm.uninstall(f"{RELEASE}-canary", wait="watcher", timeout=120)
        accounts = {each["metadata"]["name"] for each in objects(release.cluster, "v1", "serviceaccounts")}
        assert accounts == {*SERVICES, "churn-saver-trainers", "default"}
        assert release.images() == {name: f"{name}:one" for name in SERVICES}


# -- refused before anything changes -----------------------------------------------------------------


def _versions(release: Installed) -> dict[str, str]:
    """What an upgrade could have changed, with the version of each."""
    kinds = (
        ("v1", "configmaps"),
        ("v1", "services"),
        ("apps/v1", "deployments"),
        ("policy/v1beta1", "poddisruptionbudgets"),
    )
    found = [each for api, kind in kinds for each in objects(release.cluster, api, kind, labelSelector=INSTANCE)]
    return {
        each["metadata"]["name"]: str(each["metadata"].get("generation", each["metadata"]["resourceVersion"]))
        for each in found
        if "helm.sh/hook" not in each["metadata"].get("annotations", {})
    }


def test_preflight_stops_an_upgrade(kubeconfig: Path, kinds: None, record_property: Any) -> None:
    """The new image cannot use the new settings: the hook's Job fails, and not one object has changed."""
    with new(kubeconfig, "preflight") as release:
        release.secret("churn-saver", *KEYS)
        release.helm.install(chart(), RELEASE, values_of("dev"), wait="watcher", timeout=120)
        before, images = _versions(release), release.images()
        over = threading.Event()

        def refuse() -> None:
            while not over.wait(0.1):
                for pod in objects(release.cluster, "v1", "pods", labelSelector="job-name=churn-saver-preflight"):
                    if pod["status"].get("phase") in {None, "Pending"}:
                        play(release.cluster, pod, "Failed", 2)

        kubelet = threading.Thread(target=refuse)
        kubelet.start()
        begun = time.monotonic()
        try:
            broken = values_of("dev", at("gateway.image.repository", "broken-gateway"), at("image.tag", "two"))
            with pytest.raises(HelmError, match=r"pre-upgrade hooks failed.*churn-saver-preflight"):
                release.helm.upgrade(chart(), RELEASE, broken, wait="watcher", timeout=120)
        finally:
            over.set()
            kubelet.join()
        record_property("refused_s", round(time.monotonic() - begun, 1))
        assert _versions(release) == before
        assert release.images() == images
        assert release.history() == [(1, "deployed"), (2, "failed")]


def test_secrets_that_lack_something_are_named(kubeconfig: Path, kinds: None) -> None:
    """A Secret that is not there, or lacks a key, is refused with the field and the mend, at install and at upgrade."""
    trainers = {"trainers": EVERYTHING["trainers"]}
    with new(kubeconfig, "secrets") as release:
        nowhere = {"namespace": "nowhere", "create_namespace": True}
        with pytest.raises(HelmError, match="there is no Secret churn-saver in the namespace nowhere; make it"):
            release.helm.install(chart(), RELEASE, values_of("dev"), **nowhere)

        def refused(values: Object, upgrade: bool = False) -> str:
            act = release.helm.upgrade if upgrade else release.helm.install
            with pytest.raises(HelmError) as error:
                act(chart(), RELEASE, values)
            return str(error.value)

        said = refused(values_of("dev", trainers))
        assert (
            "- secrets.existingSecret: there is no Secret churn-saver in the namespace secrets; make it: kubectl"
            in said
        )
        assert all(f"--from-file={key}=" in said for key in KEYS)
        assert "- trainers.signingKey.secretName: there is no Secret signing in the namespace secrets" in said
        release.secret("churn-saver", "pseudonym-key", "trusted.pem", "url")
        said = refused(values_of("dev"))
        assert "- secrets.keys.redisUrl: the Secret churn-saver in the namespace secrets has no key redis-url" in said
        assert "(it has: pseudonym-key, trusted.pem, url); add it, or name the key" in said
        assert not objects(release.cluster, "v1", "serviceaccounts", labelSelector=INSTANCE)
        release.helm.install(chart(), RELEASE, values_of("dev", at("secrets.keys.redisUrl", "url")))
        before = _versions(release)
        assert "secrets.keys.redisUrl" in refused(values_of("dev"), upgrade=True)
        assert _versions(release) == before
