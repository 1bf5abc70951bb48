"""Figures of the images and of docker-compose.yaml: sizes, builds from nothing, starts, and upgrades under load.

Every image is built without a cache, the whole system is started twice, once with nothing and once with what it
knew, and each service is replaced by another build of it while requests keep coming. Writes `reports/images.json`;
exit 1 where a request failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from churnsaver.errors import BadInput, ChurnSaverError
from churnsaver.settings import DEFAULT_SEED, load_schema
from tests.load.audit import Exchange
from tests.load.client import Plan, StartedRun
from tests.load.customers import body, read_rows, returning
from tests.load.processes import free_ports, wide_console
from tests.load.stats import count as counted
from tests.support.containers import IMAGES, SERVICES, Project, dockerfile, engine, fetch_wheels, run

MB = 1_000_000
BEFORE_S = 2.0
# Until the new containers are healthy; the gateway's replicas go one after the other.
UPGRADE_S = {"gateway": 90.0, "decision": 45.0, "generator": 45.0, "shield": 45.0}
AFTER_S = 5.0
RETURN_AFTER_S = 3.0
HISTORY = ("docker", "history", "--human=false", "--format", "{{.Size}}")
REPORTS = Path("reports")

stderr = Console(stderr=True)


class Load:
    """Requests to a project at a constant rate, from a process of their own that has started."""

    def __init__(self, project: Project, bodies: Iterator[dict[str, Any]], rate_rps: float, seconds: float) -> None:
        self._plan = Plan(f"{project.url}/v1/retain", rate_rps, list(islice(bodies, round(rate_rps * seconds))))
        self._run = StartedRun(self._plan)

    def finish(self) -> list[Exchange]:
        """Every request and what came of it, once all are answered."""
        return [Exchange(self._plan.bodies[sample.index], sample) for sample in self._run.finish().samples]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A service replaced by another build, and every request meanwhile."""

    seconds: float
    exchanges: list[Exchange]


def new_customers(csv: Path, schema: Path, run: str, seed: int) -> Iterator[dict[str, Any]]:
    """Bodies without end: the rows of a CSV again and again, each time under an id that is new."""
    rows, random = read_rows(csv, load_schema(schema)), Random(seed)
    return (body(f"{run}-{number:06d}", rows[number % len(rows)], random) for number in count())


def upgrade_under_load(project: Project, service: str, bodies: Iterator[dict[str, Any]], rate_rps: float) -> Upgrade:
    """`make compose-upgrade` with another revision, under load.

    Raises:
        BadInput: the load did not go on for a while afterwards.
    """
    load = Load(project, bodies, rate_rps, UPGRADE_S[service])
    time.sleep(BEFORE_S)
    started = time.monotonic()
    project.upgrade(service, REVISION=f"next-{service}")
    seconds = time.monotonic() - started
    if BEFORE_S + seconds + AFTER_S > UPGRADE_S[service]:
        raise BadInput(f"{service}: its upgrade took {seconds:.0f} s; the load ended before that")
    return Upgrade(seconds, load.finish())


def measure_image(docker: dict[str, str], name: str) -> dict[str, float]:
    """Builds an image without a cache; its size, and what it adds to the base."""
    tag, started = f"churn-saver-{name}:figures", time.monotonic()
    run("docker", "build", "--no-cache", "--file", dockerfile(name), "--tag", tag, ".", environment=docker)
    seconds = time.monotonic() - started
    *ours, base = layer_bytes(docker, tag)
    return {"build_s": seconds, "size_mb": (sum(ours) + base) / MB, "added_mb": sum(ours) / MB}


def layer_bytes(docker: dict[str, str], tag: str) -> list[int]:
    """The sizes of an image's layers; the last is the base, copied as one."""
    return [int(size) for size in run(*HISTORY, tag, environment=docker).split()]


def describe(upgrade: Upgrade) -> dict[str, Any]:
    """What callers saw of an upgrade."""
    samples = [each.sample for each in upgrade.exchanges]
    return {
        "seconds": upgrade.seconds,
        "requests": len(samples),
        "failed_requests": sum(not sample.ok for sample in samples),
        "answers": counted(sample.reason or sample.mode for sample in samples),
    }


def start(project: Project) -> float:
    """Seconds until everything is healthy."""
    started = time.monotonic()
    project.compose("up", "--wait")
    return time.monotonic() - started


def measure(docker: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything in turn."""
    fetch_wheels()
    images = {}
    for name in IMAGES:
        stderr.print(f"building {name}")
        images[name] = measure_image(docker, name)
    run("docker", "compose", "build", environment=docker)
    settings = {"DATA": str(arguments.csv.absolute()), "SCHEMA": str(arguments.schema.absolute())}
    project = Project(docker, "churn-saver-figures", free_ports(1)[0], **settings)
    try:
        stderr.print("starting with nothing")
        cold_s = start(project)
        project.compose("down")
        stderr.print("starting again")
        warm_s = start(project)
        new = new_customers(arguments.csv, arguments.schema, "figures", arguments.seed)
        bodies = returning(new, after=round(arguments.rate * RETURN_AFTER_S), seed=arguments.seed)
        upgrades = {}
        for service in SERVICES:
            stderr.print(f"upgrading {service} at {arguments.rate:.0f} requests/s")
            upgrades[service] = describe(upgrade_under_load(project, service, bodies, arguments.rate))
    finally:
        project.close()
    base = json.loads(run("docker", "image", "inspect", "python:3.11-slim", environment=docker))[0]["Size"]
    return {
        "command": f"python -m tests.load.containers {' '.join(sys.argv[1:])}",
        "base_mb": base / MB,
        "images": images,
        "up_to_healthy_s": {"cold": cold_s, "warm": warm_s},
        "rate_rps": arguments.rate,
        "upgrades": upgrades,
    }


def print_tables(document: dict[str, Any]) -> None:
    """The report for a person, on standard output."""
    console = wide_console()
    built = Table(title=f"images (base {document['base_mb']:.0f} MB)", title_justify="left")
    for column in ("image", "MB", "of which ours", "build s"):
        built.add_column(column)
    for name, image in document["images"].items():
        built.add_row(name, f"{image['size_mb']:.0f}", f"{image['added_mb']:.0f}", f"{image['build_s']:.0f}")
    console.print(built)
    start_s = document["up_to_healthy_s"]
    console.print(f"up to healthy: {start_s['cold']:.0f} s with training, {start_s['warm']:.0f} s again")
    upgraded = Table(title=f"upgrades at {document['rate_rps']:.0f} requests/s", title_justify="left")
    for column in ("service", "s", "requests", "failed", "answers"):
        upgraded.add_column(column)
    for name, each in document["upgrades"].items():
        answers = ", ".join(f"{reason} {number}" for reason, number in each["answers"].items())
        upgraded.add_row(name, f"{each['seconds']:.0f}", str(each["requests"]), str(each["failed_requests"]), answers)
    console.print(upgraded)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.containers", description=__doc__)
    parser.add_argument("--csv", type=Path, required=True, help="customers to train on and to send")
    parser.add_argument("--schema", type=Path, required=True, help="their schema")
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    arguments = parser.parse_args()
    try:
        with engine() as docker:
            document = measure({**docker, "TAG": "figures"}, arguments)
    except ChurnSaverError as error:
        sys.exit(f"error: {error}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "images.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    print_tables(document)
    sys.exit(1 if any(each["failed_requests"] for each in document["upgrades"].values()) else 0)


if __name__ == "__main__":
    main()
