"""`make bench`: the running stack beside the bare floor, in one run, on one machine.

Floor, policy and baseline take turns in short blocks, so that whatever else the machine does meets all three.
Then the highest rate that floor and policy sustain, and how long the kill switch takes. Writes
`reports/bench.json` and `reports/bench.png`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import psutil
from rich.console import Console
from rich.table import Table

from churnsaver.errors import ChurnSaverError
from churnsaver.settings import DEFAULT_SEED
from tests.load import killswitch
from tests.load.client import Plan, run_apart
from tests.load.customers import bodies, load_scorecard
from tests.load.floor import Floor
from tests.load.plot import draw
from tests.load.processes import wide_console
from tests.load.stack import LoadStack, new_run
from tests.load.stats import FAILED, NO_MESSAGE, Sample, Summary, summarise
from tests.load.targets import checks

BLOCKS = 4
WARM_UP_S = 2.0
# A minute at the highest rate books more than the default campaign's budget; ten thousand times it does not.
CAMPAIGN_FACTOR = 10_000
SATURATION_STEP_S = 4.0
SATURATION_FIRST_RPS = 50.0
SATURATION_GROWTH = 1.25
SATURATION_LAST_RPS = 1_000.0
SATURATION_HALVINGS = 2
FLIPS_BY_ROUTE = 20
FLIPS_BY_COMMAND = 5
REPORTS = Path("reports")

Bodies = Iterator[Mapping[str, Any]]
stderr = Console(stderr=True)


@dataclass(slots=True)
class Measured:
    """What one target did in all its blocks.

    Attributes:
        cpu_s: CPU seconds that each of its processes used meanwhile, by name.
    """

    blocks: list[list[Sample]] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)
    generator_cpu_s: float = 0.0

    @property
    def requests(self) -> int:
        return sum(len(block) for block in self.blocks)

    @property
    def latencies_ms(self) -> list[float]:
        return [sample.latency_ms for block in self.blocks for sample in block if sample.ok]


def measure_block(
    into: Measured, url: str, pids: Mapping[str, int], rate_rps: float, seconds: float, new: Bodies
) -> None:
    """Runs one block against `url` and adds it to `into`."""
    before = cpu_seconds(pids)
    run = run_apart(Plan(url, rate_rps, take(new, rate_rps, seconds)))
    for name, used_s in cpu_seconds(pids).items():
        into.cpu_s[name] = into.cpu_s.get(name, 0.0) + used_s - before[name]
    into.blocks.append(run.samples)
    into.generator_cpu_s += run.cpu_s


def measure_side_by_side(
    floor: Floor, stack: LoadStack, new: Bodies, rate_rps: float, seconds: float
) -> dict[str, Measured]:
    """Floor, policy and baseline in turn, `seconds` each in all."""
    measured = {name: Measured() for name in ("floor", "policy", "baseline")}
    pids = {"floor": floor.pids, "policy": stack.pids(), "baseline": stack.pids()}
    urls = {"floor": floor.url, "policy": stack.retain_url, "baseline": stack.retain_url}
    for url in (floor.url, stack.retain_url):
        run_apart(Plan(url, rate_rps, take(new, rate_rps, WARM_UP_S)))
    for block in range(BLOCKS):
        for name, into in measured.items():
            stderr.print(f"block {block + 1} of {BLOCKS}: {name}, {rate_rps:.0f} requests/s")
            if name == "baseline":
                stack.kill_switch("on", "bench")
            measure_block(into, urls[name], pids[name], rate_rps, seconds / BLOCKS, new)
            if name == "baseline":
                stack.kill_switch("off", "bench")
    return measured


def find_saturation(name: str, url: str, new: Bodies) -> dict[str, Any]:
    """The highest rate that is sustained: p99 ≤ 1 s, ≥ 95 % answered in time, ≤ 1 % failed or degraded.

    An answer is degraded when it comes from the baseline though the switch is off: the gateway gives up
    work before it gives up answers, and a rate that is only met that way is not sustained.
    """
    steps: list[dict[str, Any]] = []

    def sustains(rate_rps: float) -> bool:
        stderr.print(f"saturation: {name}, {rate_rps:.0f} requests/s")
        samples = run_apart(Plan(url, rate_rps, take(new, rate_rps, SATURATION_STEP_S))).samples
        steps.append(_saturation_step(summarise([samples], rate_rps)))
        return bool(steps[-1]["sustained"])

    sustained_rps, failed_rps = 0.0, SATURATION_FIRST_RPS
    while failed_rps <= SATURATION_LAST_RPS and sustains(failed_rps):
        sustained_rps, failed_rps = failed_rps, failed_rps * SATURATION_GROWTH
    for _ in range(SATURATION_HALVINGS if sustained_rps else 0):
        middle_rps = (sustained_rps + failed_rps) / 2.0
        if sustains(middle_rps):
            sustained_rps = middle_rps
        else:
            failed_rps = middle_rps
    return {"sustained_rps": sustained_rps, "steps": sorted(steps, key=lambda step: float(step["offered_rps"]))}


def _saturation_step(summary: Summary) -> dict[str, Any]:
    degraded = sum(summary.reasons.values()) / summary.requests
    p99_ms = summary.latency.p99_ms if summary.latency else None
    sustained = (
        p99_ms is not None
        and p99_ms <= 1_000.0
        and summary.achieved_rps >= 0.95 * summary.offered_rps
        and summary.error_fraction <= 0.01
        and degraded <= 0.01
    )
    return {
        "offered_rps": summary.offered_rps,
        "achieved_rps": summary.achieved_rps,
        "p50_ms": summary.latency.p50_ms if summary.latency else None,
        "p99_ms": p99_ms,
        "error_fraction": summary.error_fraction,
        "degraded_fraction": degraded,
        "sustained": sustained,
    }


def report(
    measured: Mapping[str, Measured],
    saturation: Mapping[str, Any],
    flips: Mapping[str, Any],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Everything measured as one JSON object."""
    summaries = {name: summarise(each.blocks, arguments.rate) for name, each in measured.items()}
    targets = {}
    for name, summary in summaries.items():
        each = measured[name]
        targets[name] = summary.as_dict() | {
            "cpu_ms_per_request": {process: 1000.0 * s / each.requests for process, s in each.cpu_s.items()},
            "load_generator_cpu_ms_per_request": 1000.0 * each.generator_cpu_s / each.requests,
        }
    document = {
        "command": f"python -m tests.load.bench {' '.join(sys.argv[1:])}".strip(),
        "machine": {"cores": os.cpu_count(), "load_average_1_min": os.getloadavg()[0]},
        "rate_rps": arguments.rate,
        "seconds": arguments.seconds,
        "seed": arguments.seed,
        "targets": targets,
        "ratio_to_floor": _ratios(summaries),
        "written_fraction": _written_fraction(summaries["policy"]),
        "saturation": saturation,
        "kill_switch": flips,
    }
    return document | {"checks": [asdict(check) for check in checks(document)]}


def _ratios(summaries: Mapping[str, Summary]) -> dict[str, dict[str, float]]:
    floor = summaries["floor"].latency
    return {
        name: {
            percent: getattr(summary.latency, percent) / getattr(floor, percent)
            for percent in ("p50_ms", "p95_ms", "p99_ms")
        }
        for name, summary in summaries.items()
        if name != "floor" and floor and summary.latency
    }


def _written_fraction(policy: Summary) -> float | None:
    """The share of messages that come from the bank or the model rather than from the template."""
    counts = {source: each.count for source, each in policy.by_source.items() if source not in {NO_MESSAGE, FAILED}}
    total = sum(counts.values())
    return 1.0 - counts.get("template", 0) / total if total else None


def take(new: Bodies, rate_rps: float, seconds: float) -> list[Mapping[str, Any]]:
    """As many new customers as `seconds` at `rate_rps` need."""
    return list(islice(new, max(1, round(rate_rps * seconds))))


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU time that each process has used since it started."""
    times = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
    return {name: each.user + each.system for name, each in times.items()}


def print_tables(document: Mapping[str, Any]) -> None:
    """The report for a person, on standard output."""
    console = wide_console()
    table = Table(title=f"/v1/retain at {document['rate_rps']:.0f} requests/s, ms", title_justify="left")
    for column in ("target", "source", "answers", "p50", "p95", "p99", "worst", "errors"):
        table.add_column(column)
    for name, target in document["targets"].items():
        for source, latency in {"all": target["latency"], **target["by_source"]}.items():
            if latency:
                times = [f"{latency[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")]
                errors = str(target["errors"]) if source == "all" else ""
                table.add_row(name, source, str(latency["count"]), *times, errors)
    console.print(table)
    judged = Table(title="targets", title_justify="left")
    for column in ("what", "measured", "target", ""):
        judged.add_column(column)
    for check in document["checks"]:
        value = "–" if check["measured"] is None else f"{check['measured']:.3g}"
        judged.add_row(check["what"], value, check["target"], "met" if check["met"] else "MISSED")
    console.print(judged)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures everything and writes the reports."""
    with Floor() as floor, LoadStack(campaign_factor=CAMPAIGN_FACTOR) as stack:
        new = bodies(load_scorecard(), seed=arguments.seed, run=new_run(), csv_path=arguments.csv)
        measured = measure_side_by_side(floor, stack, new, arguments.rate, arguments.seconds)
        stderr.print("kill switch")
        flips = {
            by: killswitch.summarise_flips(
                asyncio.run(killswitch.measure(stack, new, repeats=repeats, by_command=by == "command"))
            )
            for by, repeats in (("route", FLIPS_BY_ROUTE), ("command", FLIPS_BY_COMMAND))
        }
        saturation = {
            name: find_saturation(name, url, new) for name, url in (("floor", floor.url), ("policy", stack.retain_url))
        }
    document = report(measured, saturation, flips, arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "bench.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    draw(arguments.out / "bench.png", {name: each.latencies_ms for name, each in measured.items()}, saturation)
    return document


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.bench", description=__doc__)
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each of floor, policy and baseline")
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


if __name__ == "__main__":
    main()
