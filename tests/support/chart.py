"""The Helm chart as tests see it: rendered by Helm 4 as a library, as objects."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "churn-saver"
SERVICES = ("gateway", "decision", "generator", "shield")
# What `helm install -f … -f …` is given for each kind of installation.
FILES = {
    "dev": ("values-dev.yaml", "ci/facts-values.yaml"),
    "staging": ("values-staging.yaml", "ci/facts-values.yaml"),
    "production": ("values-production.yaml", "ci/facts-values.yaml"),
    "canary": ("values-production.yaml", "ci/facts-values.yaml", "values-canary.yaml"),
}
TRAINERS = {
    "trainers": {
        "enabled": True,
        "signingKey": {"secretName": "signing"},
        "data": {"bucket": "example-data"},
        "jobs": {
            "risk": {"schedule": "0 3 * * 1", "args": ["train", "risk", "--data", "/data/customers.csv", "--publish"]},
            "policy": {"args": ["train", "ppo", "--data", "/data/customers.csv", "--publish"]},
        },
    }
}
VLLM = {
    "vllm": {
        "enabled": True,
        "model": "example/model",
        "servedModelName": "model@0123456789ab",
        "adapters": {"claim": "adapters"},
        "image": {"tag": "v0.1.0"},
        "spot": True,
    }
}
# Kinds of operators and of GKE, which Kubernetes itself does not know.
FOREIGN = {
    "BackendConfig",
    "ExternalSecret",
    "GCPBackendPolicy",
    "Gateway",
    "HTTPRoute",
    "HealthCheckPolicy",
    "ManagedCertificate",
    "PodMonitoring",
    "PrometheusRule",
    "ServiceMonitor",
}

Object = dict[str, Any]


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def merged(*parts: Object) -> Object:
    """Values over values, as Helm lays files over each other."""
    result: Object = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def values_of(installation: str, *more: Object) -> Object:
    """The values of an installation, and more over them."""
    return merged(*(yaml.load((CHART / name).read_text(), yaml.CSafeLoader) for name in FILES[installation]), *more)


def at(path: str, value: Any) -> Object:
    """`a.b.c` as nested values."""
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def render(values: Object, **options: Any) -> list[Object]:
    """The objects of a release, after the schema and the chart's own checks; HelmError where one refuses."""
    chart().validate_schema(values)
    return objects_of(chart().render(values, name="churn-saver", namespace="retain", **options))


def objects_of(rendered: dict[str, str]) -> list[Object]:
    """The objects in what Helm rendered, file by file."""
    texts = (text for name, text in rendered.items() if not name.endswith(".txt"))
    return [found for text in texts for found in yaml.load_all(text, yaml.CSafeLoader) if found]


PROMETHEUS: Object = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
# Everything that is off in every values file, on.
EVERYTHING: Object = merged(
    TRAINERS,
    VLLM,
    at("networkPolicy.monitoring", [PROMETHEUS]),
    *(at(f"monitoring.{part}.enabled", True) for part in ("serviceMonitor", "prometheusRule", "dashboards")),
)
INGRESS: Object = {"exposure": {"kind": "ingress"}, "networkPolicy": {"loadBalancerCidrs": ["35.191.0.0/16"]}}


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def the(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of a kind and name."""
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


def workload(objects: list[Object], service: str) -> Object:
    """The Deployment or StatefulSet of a service."""
    (found,) = (
        each
        for each in of_kind(objects, "Deployment", "StatefulSet")
        if each["metadata"]["name"] == f"churn-saver-{service}"
    )
    return found


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every pod template, under the name of what makes it."""
    for each in of_kind(objects, "Deployment", "StatefulSet", "Job", "CronJob"):
        spec = each["spec"]["jobTemplate"]["spec"] if each["kind"] == "CronJob" else each["spec"]
        yield f"{each['kind']}/{each['metadata']['name']}", spec["template"]


def container(objects: list[Object], service: str) -> Object:
    (found,) = workload(objects, service)["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def environment(of: Object) -> dict[str, str]:
    """What a container's environment says, with `secret:<key>` for what a Secret holds."""
    return {
        each["name"]: each["value"] if "value" in each else f"secret:{each['valueFrom']['secretKeyRef']['key']}"
        for each in of["env"]
    }
