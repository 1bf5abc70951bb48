"""Adapters swapped under load, bad ones refused, the vLLM server killed: `python -m tests.load.adapters`.

`make engine` was run, and the registry has a writer (`churn-saver model prepare --publish`). A stack with vLLM starts,
and fills its bank. While customers come through the gateway, and briefs that the bank does not hold are asked for live,
variants of the writer are published one after the other; then, without load, an adapter for another base and one with
broken weights. Under the same load the server is killed and started again, until it writes again. Writes
`reports/adapters.json`; exit 1 where a request failed, the load ended too early, or a bad adapter was not refused
without a trace.
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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from tests.load.client import MAX_SECONDS, Plan, StartedRun
from tests.load.customers import bodies, load_scorecard
from tests.load.generator import unheld_briefs, wait_until_filled
from tests.load.processes import HOST, free_ports, wait_until, wide_console
from tests.load.stack import LoadStack, new_run
from tests.load.stats import Sample, count, latency_of, percentile
from tests.load.variants import write_variant

stderr = Console(stderr=True)
REPORTS = Path("reports")
SWAP_TIMEOUT_S, REFUSAL_TIMEOUT_S, RETURN_TIMEOUT_S = 180.0, 120.0, 600.0
BETWEEN_S = 1.0
AROUND_S = 30.0  # of load before the server is killed, and after it writes again
CAMPAIGN_FACTOR = 20
ASKED_EVERY_S, LIVE_DEADLINE_S = 1.0, 20.0
PHASES = ("before", "away", "after")


class Writing:
    """A stack whose generator writes with a vLLM server of its own."""

    def __init__(self, stack: LoadStack, vllm_url: str, folder: Path) -> None:
        """`folder`: in which generator and server share adapters."""
        self.stack, self.vllm_url, self.folder = stack, vllm_url, folder
        self.address = f"{HOST}:{stack.port('generator')}"
        self._channel = grpc.insecure_channel(self.address)
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
        wanted = unheld_briefs(load_serve_settings())
        brief = pb.Brief(**wanted[number % len(wanted)].model_dump())
        answer = self._generator.Generate(pb.GenerateRequest(brief=brief, seed=number), timeout=LIVE_DEADLINE_S)
        return pb.MessageSource.Name(answer.source).removeprefix("MESSAGE_SOURCE_").lower()

    def close(self) -> None:
        self._channel.close()


@dataclass(frozen=True, slots=True)
class Asked:
    """A brief that was asked for live; times by the monotonic clock.

    Attributes:
        source: where its message came from, or how it failed.
    """

    asked_s: float
    answered_s: float
    source: str

    @property
    def failed(self) -> bool:
        return self.source.startswith("failed")


class LiveBriefs:
    """Asks for briefs that the bank does not hold, one after the other, while the context lasts."""

    def __init__(self, writing: Writing) -> None:
        self.asked: list[Asked] = []
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
            asked_s = time.monotonic()
            try:
                source = self._writing.ask(len(self.asked))
            except grpc.RpcError as error:
                source = f"failed: {error.code().name}"
            self.asked.append(Asked(asked_s, time.monotonic(), source))

    def wait_for(self, what: str, *, model: bool, since_s: float = 0.0) -> float:
        """When the first answer came that the model wrote (or did not) to what was asked for later than `since_s`."""

        def found() -> list[Asked]:
            return [each for each in self.asked if each.asked_s > since_s and (each.source == "model") is model]

        wait_until(lambda: bool(found()), what, RETURN_TIMEOUT_S)
        return found()[0].answered_s


def start_load(writing: Writing, arguments: argparse.Namespace) -> StartedRun:
    """Customers at the gateway for as long as a plan may last; who has seen enough stops it."""
    new = bodies(load_scorecard(), seed=arguments.seed, run=new_run(), csv_path=arguments.csv)
    planned = list(islice(new, int(MAX_SECONDS * arguments.rate)))
    return StartedRun(Plan(writing.stack.retain_url, arguments.rate, planned))


def seen_by_customers(samples: Sequence[Sample]) -> dict[str, Any]:
    """What came of requests to the gateway."""
    latency = latency_of(samples)
    return {
        "requests": len(samples),
        "failed_requests": sum(not sample.ok for sample in samples),
        "answers": count(sample.reason or sample.mode for sample in samples),
        "message_sources": count(sample.source for sample in samples),
        "latency": asdict(latency) if latency else None,
    }


def seen_live(asked: Iterable[Asked]) -> dict[str, Any]:
    """What came of briefs that were asked for live."""
    asked = list(asked)
    return {
        "live_sources": count(each.source for each in asked),
        "live_failed": sum(each.failed for each in asked),
    }


def measure_swaps(writing: Writing, arguments: argparse.Namespace) -> dict[str, Any]:
    """Publishes variants of the writer under load.

    The bank is filled before: no variant's is, as the next one comes too soon, so the first one serves throughout.
    """
    bank = wait_until_filled(writing.address)
    seconds = []
    with LiveBriefs(writing) as live:
        live.wait_for("a message written live", model=True)
        with start_load(writing, arguments) as load:
            for number in range(arguments.swaps):
                folder = writing.stack.folder / "variants" / str(number)
                version = write_variant(champion(WRITER), number, folder)
                started = time.monotonic()
                publish_checkpoint(folder)
                writing.wait_for(version)
                seconds.append(time.monotonic() - started)
                time.sleep(BETWEEN_S)
            loaded = load.stop()
    wait_until(lambda: writing.adapters() <= {writing.version()}, "old adapters unloaded", SWAP_TIMEOUT_S)
    return {
        "swaps": len(seconds),
        "bank_before": {"briefs_filled": bank.briefs_filled, "briefs_wanted": bank.briefs_wanted},
        "publish_to_serving_s": {"median": percentile(seconds, 50.0), "worst": max(seconds), "each": seconds},
        "load_until_the_end": loaded.stopped,
        **seen_by_customers(loaded.samples),
        **seen_live(live.asked),
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


def measure_kill(writing: Writing, arguments: argparse.Namespace) -> dict[str, Any]:
    """Kills the server under load and starts it again, until a while after it has written again.

    The bank is filled before, so that nothing but the load and the live briefs is asked of the server that comes back.
    """
    wait_until_filled(writing.address)
    victim = writing.stack.pids()["vllm"]
    with LiveBriefs(writing) as live:
        live.wait_for("a message written live", model=True)
        with start_load(writing, arguments) as load:
            began_s = time.monotonic()
            time.sleep(AROUND_S)
            killed_s = time.monotonic()
            writing.stack.kill(victim)
            fell_back_s = live.wait_for("the fall back", model=False, since_s=killed_s)
            restarted_s = time.monotonic()
            writing.stack.restart()
            listening_s = time.monotonic()
            back_s = live.wait_for("model again", model=True, since_s=restarted_s)
            time.sleep(AROUND_S)
            loaded = load.stop()

    def phase(answered_s: float) -> str:
        return PHASES[(answered_s >= killed_s) + (answered_s >= back_s)]

    under_load = [each for each in live.asked if each.asked_s >= began_s]
    return {
        "fell_back_after_s": fell_back_s - killed_s,
        "restart_s": listening_s - restarted_s,
        "model_again_after_s": back_s - listening_s,
        "without_model_s": back_s - killed_s,
        "load_until_the_end": loaded.stopped,
        **seen_by_customers(loaded.samples),
        **seen_live(under_load),
        "phases": {
            name: {
                **seen_by_customers([sample for sample in loaded.samples if phase(sample.done_s) == name]),
                **seen_live(each for each in under_load if phase(each.answered_s) == name),
            }
            for name in PHASES
        },
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
        kill = measure_kill(writing, arguments)
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
    loaded = (document["swaps"], document["server_killed"])
    refused = all(each["refused"] and not each["left_a_trace"] for each in document["refusals"].values())
    failed = any(each["failed_requests"] or each["live_failed"] for each in loaded)
    return refused and not failed and all(each["load_until_the_end"] for each in loaded)


def print_table(document: Mapping[str, Any]) -> None:
    """The report for a person, on standard output."""
    swaps, kill = document["swaps"], document["server_killed"]
    table = Table(show_header=False)
    bank, took = swaps["bank_before"], swaps["publish_to_serving_s"]
    table.add_row("bank before", f"{bank['briefs_filled']} of {bank['briefs_wanted']} briefs")
    table.add_row(f"{swaps['swaps']} swaps", f"median {took['median']:.2f} s, worst {took['worst']:.2f} s to serving")
    _add_seen(table, "meanwhile", swaps)
    table.add_section()
    for name, each in document["refusals"].items():
        trace = "left a trace" if each["left_a_trace"] else "no trace"
        table.add_row(name, f"{'refused' if each['refused'] else 'NOT refused'}, {trace}")
    table.add_section()
    table.add_row("server killed", f"first answer without it after {kill['fell_back_after_s']:.1f} s")
    again = f"{kill['model_again_after_s']:.1f} s after its restart, which took {kill['restart_s']:.1f} s"
    table.add_row("model again", f"{kill['without_model_s']:.1f} s after the kill, {again}")
    for name, each in kill["phases"].items():
        _add_seen(table, name, each)
    for name, each in {"swaps": swaps, "kill": kill}.items():
        if not each["load_until_the_end"]:
            table.add_row(name, "the load ended TOO EARLY")
    wide_console().print(table)


def _add_seen(table: Table, when: str, seen: Mapping[str, Any]) -> None:
    p99 = f", p99 {seen['latency']['p99_ms']:.1f} ms" if seen["latency"] else ""
    table.add_row(when, f"{seen['failed_requests']} of {seen['requests']} requests failed{p99}")
    table.add_row("  customers' messages", _counted(seen["message_sources"]))
    table.add_row("  live briefs", _counted(seen["live_sources"]))


def _counted(sources: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sources.items())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.adapters", description=__doc__)
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--swaps", type=int, default=10, help="adapters to publish")
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
