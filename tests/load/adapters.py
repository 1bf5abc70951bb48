"""Adapters swapped under load, bad ones refused, the vLLM server killed: `python -m tests.load.adapters`.

`make engine` was run, and the registry has a writer (`churn-saver model prepare --publish`). A stack with vLLM starts.
While customers come through the gateway, and briefs that the bank does not hold are asked for live, variants of the
writer are published one after the other; then an adapter for another base and one with broken weights. Then the server
is killed and started again. Writes `reports/adapters.json`; exit 1 where a request failed, the load ended before the
last swap, or a bad adapter was not refused without a trace.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import orjson
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from churnsaver.checkpoints import Checkpoint
from churnsaver.errors import ChurnSaverError
from churnsaver.models.adapters import ADAPTER, BASE, WRITER
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc
from churnsaver.rpc.stubs.models.v1 import models_service_pb2 as models_pb2
from churnsaver.rpc.stubs.models.v1 import models_service_pb2_grpc as models_grpc
from churnsaver.settings import DEFAULT_SEED, load_serve_settings
from cli.registry import champion, publish_checkpoint
from tests.load.client import Plan, StartedRun
from tests.load.customers import bodies, load_scorecard
from tests.load.mesh import briefs
from tests.load.processes import HOST, free_ports, wait_until, wide_console
from tests.load.stack import LoadStack, new_run
from tests.load.stats import count, latency_of, percentile
from tests.load.variants import write_variant

stderr = Console(stderr=True)
REPORTS = Path("reports")
SWAP_TIMEOUT_S, REFUSAL_TIMEOUT_S, RETURN_TIMEOUT_S = 180.0, 120.0, 300.0
BETWEEN_S = 1.0
CAMPAIGN_FACTOR = 20
ASKED_EVERY_S, LIVE_DEADLINE_S = 1.0, 20.0


class Writing:
    """A stack whose generator writes with a vLLM server of its own."""

    def __init__(self, stack: LoadStack, vllm_url: str, folder: Path) -> None:
        """`folder`: in which generator and server share adapters."""
        self.stack, self.vllm_url, self.folder = stack, vllm_url, folder
        self._channel = grpc.insecure_channel(f"{HOST}:{stack.port('generator')}")
        self._models = models_grpc.ModelsServiceStub(self._channel)
        self._generator = generator_grpc.GeneratorServiceStub(self._channel)
        self._metrics_url = f"http://{HOST}:{stack.environment['CHURN_SAVER_GENERATOR__METRICS_PORT']}/metrics"

    def version(self) -> str:
        """Of the writer that serves."""
        found = self._models.GetModels(models_pb2.GetModelsRequest(), timeout=5.0).models
        return next((model.version for model in found if model.kind == WRITER), "")

    def adapters(self) -> set[str]:
        """What the server has loaded beside its base, and what lies in the folder."""
        loaded = {each["id"] for each in httpx.get(f"{self.vllm_url}/v1/models", timeout=30.0).json()["data"][1:]}
        return loaded | {each.name for each in self.folder.glob("[!.]*")}

    def refused(self) -> float:
        """How many writers the generator has refused."""
        families = text_string_to_metric_families(httpx.get(self._metrics_url).text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "checkpoints_refused_total" and sample.labels["kind"] == WRITER
        )

    def wait_for(self, version: str) -> None:
        """Until the generator writes with it; BadInput where it never does."""
        wait_until(lambda: self.version() == version, f"{version} serves", SWAP_TIMEOUT_S, 0.01)

    def wait_for_refusal(self, before: float) -> None:
        """Until more writers were refused than `before`; BadInput where none is."""
        wait_until(lambda: self.refused() > before, "a bad adapter is refused", REFUSAL_TIMEOUT_S)

    def ask(self, number: int) -> str:
        """Asks for a brief that the bank does not hold; returns where its message came from."""
        wanted = briefs(load_serve_settings())
        brief = pb.Brief(**wanted[number % len(wanted)].model_dump())
        answer = self._generator.Generate(pb.GenerateRequest(brief=brief, seed=number), timeout=LIVE_DEADLINE_S)
        return pb.MessageSource.Name(answer.source).removeprefix("MESSAGE_SOURCE_").lower()

    def close(self) -> None:
        self._channel.close()


class LiveBriefs:
    """Asks for briefs that the bank does not hold, one after the other, while the context lasts.

    Attributes:
        said: when each was asked for, by the monotonic clock, and where its message came from.
    """

    def __init__(self, writing: Writing) -> None:
        self.said: list[tuple[float, str]] = []
        self._writing, self._stop = writing, threading.Event()
        self._thread = threading.Thread(target=self._keep_asking, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _keep_asking(self) -> None:
        while not self._stop.wait(ASKED_EVERY_S):
            started = time.monotonic()
            try:
                source = self._writing.ask(len(self.said))
            except grpc.RpcError as error:
                source = f"failed: {error.code().name}"
            self.said.append((started, source))

    def wait_for(self, what: str, *, model: bool, since_s: float = 0.0, timeout_s: float = RETURN_TIMEOUT_S) -> float:
        """When one was first written by the model (or not) that was asked for later than `since_s`."""

        def found() -> list[float]:
            return [at for at, source in self.said if at > since_s and (source == "model") is model]

        wait_until(lambda: bool(found()), what, timeout_s)
        return found()[0]

    @property
    def sources(self) -> dict[str, int]:
        return dict(Counter(source for _, source in self.said))

    @property
    def failed(self) -> int:
        return sum(source.startswith("failed") for _, source in self.said)


def measure_swaps(writing: Writing, arguments: argparse.Namespace) -> dict[str, Any]:
    """Publishes variants of the writer under load."""
    stack = writing.stack
    new = bodies(load_scorecard(), seed=arguments.seed, run=new_run(), csv_path=arguments.csv)
    planned_s = arguments.swaps * (BETWEEN_S + arguments.expected_s)
    plan = Plan(stack.retain_url, arguments.rate, list(islice(new, int(planned_s * arguments.rate))))
    seconds = []
    with LiveBriefs(writing) as live:
        live.wait_for("a message written live", model=True)
        run = StartedRun(plan)
        for number in range(arguments.swaps):
            folder = stack.folder / "variants" / str(number)
            version = write_variant(champion(WRITER), number, folder)
            started = time.monotonic()
            publish_checkpoint(folder)
            writing.wait_for(version)
            seconds.append(time.monotonic() - started)
            time.sleep(BETWEEN_S)
        ended_s = time.monotonic()
    samples = run.finish().samples
    latency = latency_of(samples)
    wait_until(lambda: writing.adapters() <= {writing.version()}, "old adapters unloaded", SWAP_TIMEOUT_S)
    return {
        "swaps": len(seconds),
        "publish_to_serving_s": {"median": percentile(seconds, 50.0), "worst": max(seconds), "each": seconds},
        "requests": len(samples),
        "failed_requests": sum(not sample.ok for sample in samples),
        "load_until_the_end": max(sample.done_s for sample in samples) >= ended_s,
        "answers": count(sample.reason or sample.mode for sample in samples),
        "message_sources": count(sample.source for sample in samples),
        "live_sources": live.sources,
        "live_failed": live.failed,
        "latency": asdict(latency) if latency else None,
        "left_on_the_server": sorted(writing.adapters()),
    }


def measure_refusals(writing: Writing) -> dict[str, Any]:
    """Publishes an adapter for another base and one whose weights are broken."""
    found: dict[str, Any] = {}
    good = champion(WRITER)
    for name, changed in {"wrong base": _other_base(good), "corrupted": {ADAPTER: b"\x08" + bytes(64)}}.items():
        serving, before, trace = writing.version(), writing.refused(), writing.adapters()
        folder = writing.stack.folder / "variants" / name.replace(" ", "-")
        version = write_variant(good, len(found), folder, changed)
        publish_checkpoint(folder)
        writing.wait_for_refusal(before)
        found[name] = {
            "version": version,
            "refused": writing.version() == serving,
            "left_a_trace": version in writing.adapters() - trace,
        }
    publish_checkpoint(good.path, anew=True)
    writing.wait_for(good.version)
    return found


def _other_base(good: Checkpoint) -> dict[str, bytes]:
    return {BASE: json.dumps({**good.read_json(BASE), "sha256": "0" * 64}).encode()}


def measure_kill(writing: Writing) -> dict[str, Any]:
    """Kills the server while live briefs are asked for, and starts it again."""
    with LiveBriefs(writing) as live:
        live.wait_for("a message written live", model=True)
        killed_s = time.monotonic()
        writing.stack.kill(writing.stack.pids()["vllm"])
        live.wait_for("the fall back", model=False, since_s=killed_s)
        restarted_s = time.monotonic()
        writing.stack.restart()
        listening_s = time.monotonic()
        back_s = live.wait_for("model again", model=True, since_s=restarted_s)
    return {
        "sources": live.sources,
        "failed_requests": live.failed,
        "restart_s": listening_s - restarted_s,
        "model_again_after_s": back_s - listening_s,
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures everything and writes the report."""
    (port,) = free_ports(1)
    with contextlib.ExitStack() as until_the_end:
        folder = Path(until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="churn-saver-adapters-")))
        settings = {
            "CHURN_SAVER_GENERATOR__ENGINE": "vllm",
            "CHURN_SAVER_GENERATOR__VLLM__URL": f"http://{HOST}:{port}",
            "CHURN_SAVER_GENERATOR__VLLM__ADAPTERS": str(folder),
        }
        stack = until_the_end.enter_context(LoadStack(campaign_factor=CAMPAIGN_FACTOR, settings=settings))
        os.environ.update({key: value for key, value in stack.environment.items() if key.startswith("CHURN_")})
        writing = Writing(stack, settings["CHURN_SAVER_GENERATOR__VLLM__URL"], folder)
        stderr.print(f"{arguments.swaps} swaps at {arguments.rate:.0f} requests/s")
        swaps = measure_swaps(writing, arguments)
        stderr.print("bad adapters")
        refusals = measure_refusals(writing)
        stderr.print("vLLM killed")
        kill = measure_kill(writing)
        writing.close()
    document = {
        "command": f"python -m tests.load.adapters {' '.join(sys.argv[1:])}".strip(),
        "machine": {"cores": os.cpu_count()},
        "rate_rps": arguments.rate,
        "seed": arguments.seed,
        "swaps": swaps,
        "refusals": refusals,
        "server_killed": kill,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "adapters.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    return document


def passed(document: Mapping[str, Any]) -> bool:
    """Whether no request failed, the load lasted, and every bad adapter was refused without a trace."""
    refused = all(each["refused"] and not each["left_a_trace"] for each in document["refusals"].values())
    swaps = document["swaps"]
    failed = swaps["failed_requests"] + swaps["live_failed"] + document["server_killed"]["failed_requests"]
    return refused and swaps["load_until_the_end"] and not failed


def print_table(document: Mapping[str, Any]) -> None:
    """The report for a person, on standard output."""
    swaps, kill = document["swaps"], document["server_killed"]
    table = Table(show_header=False)
    table.add_row("swaps", f"{swaps['swaps']}, {swaps['failed_requests']} of {swaps['requests']} requests failed")
    took = swaps["publish_to_serving_s"]
    table.add_row("publish to serving", f"median {took['median']:.2f} s, worst {took['worst']:.2f} s")
    if swaps["latency"]:
        table.add_row("p99 meanwhile", f"{swaps['latency']['p99_ms']:.1f} ms")
    table.add_row("sources of live briefs meanwhile", _counted(swaps["live_sources"]))
    for name, each in document["refusals"].items():
        trace = "left a trace" if each["left_a_trace"] else "no trace"
        table.add_row(name, f"{'refused' if each['refused'] else 'NOT refused'}, {trace}")
    table.add_row("sources while the server was killed", _counted(kill["sources"]))
    table.add_row("model again after its restart", f"{kill['model_again_after_s']:.1f} s")
    wide_console().print(table)


def _counted(sources: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sources.items())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.adapters", description=__doc__)
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--swaps", type=int, default=10, help="adapters to publish")
    parser.add_argument("--expected-s", type=float, default=5.0, help="of load to plan for each swap")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--csv", type=Path, help="real customers that follow the served checkpoint's schema")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args()
    try:
        document = run(arguments)
    except ChurnSaverError as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        print(orjson.dumps(document).decode())
    else:
        print_table(document)
    sys.exit(not passed(document))


if __name__ == "__main__":
    main()
