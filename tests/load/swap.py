"""Hot swaps under load: how long from publishing to serving on every replica, and what callers notice of it.

Two replicas of the decision service and one of each other service follow a registry of their own. While requests
keep coming, variants of every kind are published one after the other; then Pub/Sub is away during a publication.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import grpc
import httpx
import orjson
import psutil
from rich.console import Console
from rich.table import Table

from churnsaver.errors import BadInput, ChurnSaverError
from churnsaver.rpc.stubs.models.v1 import models_service_pb2 as models_pb2
from churnsaver.rpc.stubs.models.v1 import models_service_pb2_grpc as models_grpc
from churnsaver.settings import DEFAULT_SEED
from cli.registry import champion, publish_checkpoint
from tests.load.client import MAX_SECONDS, Plan, StartedRun
from tests.load.customers import bodies, load_scorecard
from tests.load.processes import HOST, end, free_ports, wait_listening, wide_console
from tests.load.stack import LoadStack, new_run
from tests.load.stats import count, latency_of, percentile
from tests.load.variants import write_variant

stderr = Console(stderr=True)
REPORTS = Path("reports")

KINDS = ("risk", "acceptance", "policy", "shield", "generator", "reward")
FOLLOWERS = {
    "risk": ("decision", "decision 2", "gateway"),
    "acceptance": ("decision", "decision 2"),
    "policy": ("decision", "decision 2"),
    "shield": ("shield",),
    "generator": ("generator",),
    "reward": ("generator",),
}
POLL_S = 0.005
SERVING_TIMEOUT_S = 30.0
BETWEEN_S = 1.0
CAMPAIGN_FACTOR = 20


class Mesh:
    """The stack and a second decision service, with what each serves."""

    def __init__(self, stack: LoadStack, replica: psutil.Popen, replica_port: int) -> None:
        self.stack, self.replica = stack, replica
        ports = {name: stack.port(name) for name in ("decision", "generator", "shield")} | {"decision 2": replica_port}
        self._channels = {name: grpc.insecure_channel(f"{HOST}:{port}") for name, port in ports.items()}

    def version(self, replica: str, kind: str) -> str | None:
        """What a replica serves of a kind; None while it does not say."""
        if replica == "gateway":
            return str(httpx.get(f"{self.stack.url}/v1/models").json()["gateway"][kind]["version"])
        stub = models_grpc.ModelsServiceStub(self._channels[replica])
        found = stub.GetModels(models_pb2.GetModelsRequest(), timeout=5.0).models
        return next((model.version for model in found if model.kind == kind), None)

    def memory_mb(self) -> dict[str, float]:
        """Resident memory of each process."""
        pids = {**self.stack.pids(), "decision 2": self.replica.pid}
        return {name: round(psutil.Process(pid).memory_info().rss / 2**20, 1) for name, pid in pids.items()}

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()


def publish_and_wait(mesh: Mesh, kind: str, number: int) -> float:
    """Publishes a variant; returns the seconds until every replica that follows the kind serves it."""
    folder = mesh.stack.folder / "variants" / f"{kind}-{number}"
    version = write_variant(champion(kind), number, folder)
    started = time.monotonic()
    publish_checkpoint(folder)
    waiting = set(FOLLOWERS[kind])
    while waiting:
        waiting = {name for name in waiting if mesh.version(name, kind) != version}
        if time.monotonic() - started > SERVING_TIMEOUT_S:
            raise BadInput(f"{version}: not served after {SERVING_TIMEOUT_S:.0f} s by {', '.join(sorted(waiting))}")
        time.sleep(POLL_S)
    return time.monotonic() - started


def measure_swaps(mesh: Mesh, arguments: argparse.Namespace) -> dict[str, Any]:
    """Publishes variants of every kind in turn under load."""
    new = bodies(load_scorecard(), seed=arguments.seed, run=new_run(), csv_path=arguments.csv)
    plan = Plan(mesh.stack.retain_url, arguments.rate, list(islice(new, int(MAX_SECONDS * arguments.rate))))
    before = mesh.memory_mb()
    seconds: list[dict[str, Any]] = []
    with StartedRun(plan) as load:
        for number, kind in enumerate(islice(cycle(KINDS), arguments.swaps)):
            seconds.append({"kind": kind, "seconds": publish_and_wait(mesh, kind, number)})
            time.sleep(BETWEEN_S)
        samples = load.stop().samples
    # The generator's new model writes its bank meanwhile, and holds what it works with.
    time.sleep(arguments.settle_s)
    after = mesh.memory_mb()
    latency = latency_of(samples)
    return {
        "swaps": len(seconds),
        "publish_to_serving_s": _summary([each["seconds"] for each in seconds]),
        "by_kind_s": {kind: _summary([e["seconds"] for e in seconds if e["kind"] == kind]) for kind in KINDS},
        "requests": len(samples),
        "failed_requests": sum(not sample.ok for sample in samples),
        "answers": count(sample.reason or sample.mode for sample in samples),
        "latency": asdict(latency) if latency else None,
        "memory_mb": {"before": before, "after": after},
        "each": seconds,
    }


def measure_outage(mesh: Mesh, outage_s: float) -> dict[str, float]:
    """Publishes while Pub/Sub is killed, and once more when it is back."""
    mesh.stack.kill(mesh.stack.pids()["pubsub"])
    time.sleep(outage_s / 2)
    during_s = publish_and_wait(mesh, "policy", 1_000)
    time.sleep(outage_s / 2)
    mesh.stack.restart()
    return {"outage_s": outage_s, "during_s": during_s, "after_its_return_s": publish_and_wait(mesh, "policy", 1_001)}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures everything and writes the report."""
    port, metrics_port = free_ports(2)
    with ExitStack() as stack, LoadStack(campaign_factor=CAMPAIGN_FACTOR) as mesh_stack:
        settings = {
            "CHURN_SAVER_DECISION__PORT": str(port),
            "CHURN_SAVER_DECISION__METRICS_PORT": str(metrics_port),
            "CHURN_SAVER_STATE_DIR": str(mesh_stack.folder / "state-2"),
        }
        os.environ.update({key: value for key, value in mesh_stack.environment.items() if key.startswith("CHURN_")})
        replica = psutil.Popen(
            [sys.executable, "-m", "services.decision"],
            env={**mesh_stack.environment, **settings},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(end, [replica])
        wait_listening([replica], [port])
        mesh = Mesh(mesh_stack, replica, port)
        stack.callback(mesh.close)
        stderr.print(f"{arguments.swaps} swaps at {arguments.rate:.0f} requests/s")
        swaps = measure_swaps(mesh, arguments)
        stderr.print(f"Pub/Sub down for {arguments.outage_s:.0f} s")
        outage = measure_outage(mesh, arguments.outage_s)
    document = {
        "command": f"python -m tests.load.swap {' '.join(sys.argv[1:])}".strip(),
        "rate_rps": arguments.rate,
        "seed": arguments.seed,
        **swaps,
        "pubsub_down": outage,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "swap.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    return document


def print_tables(document: Mapping[str, Any]) -> None:
    """The report for a person, on standard output."""
    console = wide_console()
    title = f"{document['swaps']} swaps: {document['failed_requests']} of {document['requests']} requests failed"
    seen = Table(title=title, title_justify="left")
    for column in ("published", "swaps", "median s", "worst s"):
        seen.add_column(column)
    for kind, each in {"all": document["publish_to_serving_s"], **document["by_kind_s"]}.items():
        if each["count"]:
            seen.add_row(kind, str(each["count"]), f"{each['median']:.2f}", f"{each['worst']:.2f}")
    outage = document["pubsub_down"]
    seen.add_row("Pub/Sub down", "1", f"{outage['during_s']:.2f}", "")
    seen.add_row("after its return", "1", f"{outage['after_its_return_s']:.2f}", "")
    console.print(seen)
    memory = Table(title="resident memory, MiB", title_justify="left")
    for column in ("process", "before", "after"):
        memory.add_column(column)
    for name, before in document["memory_mb"]["before"].items():
        memory.add_row(name, f"{before:.0f}", f"{document['memory_mb']['after'][name]:.0f}")
    console.print(memory)


def _summary(values: list[float]) -> dict[str, Any]:
    if not values:
        return {"count": 0, "median": None, "worst": None}
    return {"count": len(values), "median": percentile(values, 50.0), "worst": max(values)}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.swap", description=__doc__)
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--swaps", type=int, default=50, help="publications, the kinds in turn")
    parser.add_argument("--settle-s", type=float, default=60.0, help="until memory is read again")
    parser.add_argument("--outage-s", type=float, default=60.0, help="how long Pub/Sub is down")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--csv", type=Path, help="real customers that follow the served checkpoint's schema")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the reports")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args()
    try:
        document = run(arguments)
    except ChurnSaverError as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        print(orjson.dumps(document).decode())
    else:
        print_tables(document)
    sys.exit(1 if document["failed_requests"] else 0)


if __name__ == "__main__":
    main()
