"""`make bench`, second half: each service killed in turn under load, and what callers saw of it.

Decision, generator, shield and Redis each get `kill -9` while requests keep coming, stay down for a while and
are started again by `churn-saver up`. Half of the requests are customers who were asked about before, as exact
retries and under new request ids. Afterwards every answer is audited against its record. Writes
`reports/chaos.json`; exit 1 where a hard property is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import orjson
from rich.console import Console
from rich.table import Table

from churnsaver.errors import ChurnSaverError
from churnsaver.settings import DEFAULT_SEED
from tests.load.audit import Exchange, audit, changed_replays, spent_cents
from tests.load.client import Plan, StartedRun
from tests.load.customers import bodies, load_scorecard, returning
from tests.load.outage import Phase, describe
from tests.load.processes import listens, wide_console
from tests.load.stack import VICTIMS, LoadStack, new_run

BEFORE_S = 3.0
DOWN_S = 5.0
PHASE_S = 30.0
# Customers come back after this long: some of those before the kill while the service is down, the others and
# those of the outage itself when it is up again.
RETURN_AFTER_S = 6.0
RECORDS_TIMEOUT_S = 15.0
RECORD_READERS = 8
REPORTS = Path("reports")

stderr = Console(stderr=True)


class Watch:
    """Notes when a port is listened on again, from a thread, so that it does not wait for `up`."""

    def __init__(self, port: int) -> None:
        self.ready_s: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(port,), daemon=True)
        self._thread.start()

    def _look(self, port: int) -> None:
        while not self._stop.wait(0.02):
            if listens(port):
                self.ready_s = time.monotonic()
                return

    def stop(self) -> float | None:
        """When the port was listened on, or None."""
        self._stop.set()
        self._thread.join()
        return self.ready_s


def run_phase(stack: LoadStack, victim: str, new: Iterator[dict[str, Any]], rate_rps: float, seed: int) -> Phase:
    """Kills `victim` under load, waits, starts it again and waits until the load has ended."""
    mixed = returning(new, after=round(rate_rps * RETURN_AFTER_S), seed=seed)
    plan = Plan(stack.retain_url, rate_rps, list(islice(mixed, round(rate_rps * PHASE_S))))
    pid = stack.pids()[victim]
    load = StartedRun(plan)
    time.sleep(BEFORE_S)
    killed_s = time.monotonic()
    stack.kill(pid)
    time.sleep(DOWN_S)
    restarted_s = time.monotonic()
    watch = Watch(stack.port(victim))
    stack.restart()
    run = load.finish()
    exchanges = [Exchange(plan.bodies[sample.index], sample) for sample in run.samples]
    return Phase(victim, killed_s, restarted_s, watch.stop(), exchanges)


async def read_records(url: str, decision_ids: Sequence[str]) -> dict[str, Mapping[str, Any] | None]:
    """The record of each decision; what was journaled gets some time to be sent on.

    A decision that has no record when that time is over is None.
    """
    records: dict[str, Mapping[str, Any] | None] = dict.fromkeys(decision_ids)
    deadline = time.monotonic() + RECORDS_TIMEOUT_S
    async with httpx.AsyncClient(base_url=url, timeout=5.0) as client:
        missing = list(decision_ids)
        while missing:
            turns = asyncio.Semaphore(RECORD_READERS)

            async def read(decision_id: str, turns: asyncio.Semaphore = turns) -> None:
                async with turns:
                    response = await client.get(f"/v1/decisions/{decision_id}")
                    records[decision_id] = response.json() if response.is_success else None

            await asyncio.gather(*map(read, missing))
            missing = [decision_id for decision_id in missing if records[decision_id] is None]
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5 if missing else 0.0)
    return records


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Kills every service in turn, audits, and writes the report."""
    with LoadStack() as stack:
        scorecard = load_scorecard()
        new = bodies(scorecard, seed=arguments.seed, run=new_run(), csv_path=arguments.csv)
        phases = []
        for victim in VICTIMS:
            stderr.print(f"killing {victim} at {arguments.rate:.0f} requests/s")
            phases.append(run_phase(stack, victim, new, arguments.rate, arguments.seed))
        exchanges = [exchange for phase in phases for exchange in phase.exchanges]
        decision_ids = sorted({each.decision_id for each in exchanges if each.decision_id is not None})
        stderr.print(f"auditing {len(exchanges)} answers and {len(decision_ids)} records")
        records = asyncio.run(read_records(stack.url, decision_ids))
        properties = audit(exchanges, records, stack.world, scorecard.dataset)
        spent = spent_cents(exchanges, stack.world, scorecard.dataset)
        document = {
            "command": f"python -m tests.load.chaos {' '.join(sys.argv[1:])}".strip(),
            "rate_rps": arguments.rate,
            "seed": arguments.seed,
            "phases": [describe(phase) for phase in phases],
            "properties": [asdict(each) | {"holds": each.holds} for each in properties],
            "budget_spent_fraction": spent / stack.world.campaigns["default"].budget_cents,
            "exact_retries_with_another_decision": changed_replays(exchanges),
        }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "chaos.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    return document


def print_tables(document: Mapping[str, Any]) -> None:
    """The report for a person, on standard output."""
    console = wide_console()
    seen = Table(title="killed under load (answers about new customers while it was down)", title_justify="left")
    for column in ("killed", "status", "as promised", "reasons", "sources", "ready s", "normal s", "longest gap s"):
        seen.add_column(column)
    for phase in document["phases"]:
        down, seconds = phase["while_down"], phase["seconds"]
        seen.add_row(
            phase["victim"],
            _words(phase["statuses"]),
            _number(down["as_the_failure_table_says"]),
            _words(down["reasons"]) or "–",
            _words(down["sources"]),
            _number(seconds["restart_to_listening"]),
            _number(seconds["listening_to_first_normal_answer"]),
            _number(seconds["longest_without_an_answer"]),
        )
    console.print(seen)
    hard = Table(title="hard properties", title_justify="left")
    for column in ("property", "checked", "broken", ""):
        hard.add_column(column)
    for each in document["properties"]:
        hard.add_row(
            each["name"], str(each["checked"]), str(each["broken"]), "holds" if each["holds"] else each["examples"][0]
        )
    console.print(hard)


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.chaos", description=__doc__)
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
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
    sys.exit(0 if all(each["holds"] for each in document["properties"]) else 1)


if __name__ == "__main__":
    main()
