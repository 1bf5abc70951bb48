"""The bank of messages, measured: its hits through gRPC and for customers, its cold start, its memory.

A stack of its own starts with an empty bank and its real model. Until 90 % of the briefs that the gateway can ask for
are hits counts from the first answer of the generator; calls and customers come once the bank is filled. Memory is that
of made-up messages of a real length, in the process and in a Redis of its own. Writes `reports/bank.json`; with `--csv`
`reports/bank_<name of the file>.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import grpc
import orjson
import psutil
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from churnsaver.domain.message import SEGMENTS
from churnsaver.domain.world import World
from churnsaver.errors import BadInput, ChurnSaverError
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc
from churnsaver.settings import DEFAULT_SEED, load_serve_settings
from services.generator.message import BankMessage, Judgements
from services.generator.shelf import Shelf
from services.generator.store import Store
from tests.load.client import Plan, run_apart
from tests.load.customers import bodies, load_scorecard
from tests.load.generator import wait_until_filled
from tests.load.processes import HOST, end, free_ports, start_redis, wait_listening, wide_console
from tests.load.stack import LoadStack, new_run
from tests.load.stats import NO_MESSAGE, percentile, summarise

stderr = Console(stderr=True)
REPORTS = Path("reports")
CAMPAIGN_FACTOR = 1_000
ENOUGH_HITS = 0.9
COLD_TIMEOUT_S = 600.0
ASK_TIMEOUT_S = 0.15  # the gateway's slice of the deadline
CONNECT_OFTEN = [("grpc.min_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 50)]
DRAFT = "Hi {first_name}, thank you for being with us. Yours until {expiry}: {offer}. {opt_out}. Words of message %d."


def ask(stub: generator_grpc.GeneratorServiceStub, brief: pb.Brief, seed: int) -> tuple[bool | None, float]:
    """Whether the bank had a message for a brief (None: no answer), and how long that took, in ms."""
    started = time.perf_counter()
    try:
        answer = stub.Generate(pb.GenerateRequest(brief=brief, seed=seed), timeout=ASK_TIMEOUT_S)
    except grpc.RpcError:
        return None, (time.perf_counter() - started) * 1000.0
    return answer.source == pb.MESSAGE_SOURCE_BANK, (time.perf_counter() - started) * 1000.0


def wanted_briefs(world: World) -> list[pb.Brief]:
    """Every brief that the gateway can ask for."""
    generator = load_serve_settings().generator
    return [
        pb.Brief(segment=segment, offer=offer.id, tone=generator.tone, channel=channel, language=language)
        for language in generator.languages
        for segment in SEGMENTS
        for offer in world.offers
        for channel in world.channels
    ]


def measure_cold_start(stub: generator_grpc.GeneratorServiceStub, briefs: list[pb.Brief]) -> dict[str, Any]:
    """Seconds from the generator's first answer until ENOUGH_HITS of the briefs are hits; it may not have started."""
    asked = time.monotonic()
    while ask(stub, briefs[0], 0)[0] is None and time.monotonic() - asked < COLD_TIMEOUT_S:
        time.sleep(0.02)
    started = time.monotonic()
    while True:
        hits = sum(bool(ask(stub, brief, seed)[0]) for seed, brief in enumerate(briefs)) / len(briefs)
        waited_s = time.monotonic() - started
        if hits >= ENOUGH_HITS:
            return {"to_90_percent_s": round(waited_s, 2), "hits": hits}
        if waited_s > COLD_TIMEOUT_S:
            raise BadInput(f"{hits:.0%} of the briefs are hits after {waited_s:.0f} s; see the log of the generator")
        time.sleep(0.5)


def measure_hits(stub: generator_grpc.GeneratorServiceStub, briefs: list[pb.Brief], count: int) -> dict[str, Any]:
    """Latency of hits, one call after the other on one connection."""
    asked = [ask(stub, brief, seed) for seed, brief in enumerate(islice(cycle(briefs), count))]
    times_ms = [took_ms for hit, took_ms in asked if hit]
    return {
        "asked": count,
        "hits": len(times_ms),
        "p50_ms": percentile(times_ms, 50.0),
        "p99_ms": percentile(times_ms, 99.0),
    }


def measure_customers(stack: LoadStack, arguments: argparse.Namespace) -> dict[str, Any]:
    """Where the messages of contacted customers came from."""
    new = bodies(load_scorecard(), seed=arguments.seed, run=new_run(), csv_path=arguments.csv)
    plan = Plan(stack.retain_url, arguments.rate, list(islice(new, int(arguments.rate * arguments.seconds))))
    summary = summarise([run_apart(plan).samples], arguments.rate)
    sources = {name: found.count for name, found in summary.by_source.items() if name != NO_MESSAGE}
    contacted = sum(sources.values())
    hit_rate = sources.get("bank", 0) / contacted if contacted else None
    return {"requests": summary.requests, "errors": summary.errors, "sources": sources, "hit_rate": hit_rate}


def made_up(briefs: int, each: int) -> Iterator[tuple[str, list[BankMessage]]]:
    """Messages for so many briefs."""
    for i in range(briefs):
        numbers = range(i * each, (i + 1) * each)
        yield f"brief|{i}", [BankMessage(f"{n:012x}", DRAFT % n, n % 7, "generator@1", 0.0) for n in numbers]


async def measure_memory(briefs: int) -> dict[str, Any]:
    """What so many briefs cost in the process and in Redis."""
    bank = load_serve_settings().generator.bank
    process, shelf = psutil.Process(), Shelf(Judgements("none"), bank.exploration)
    before = process.memory_info().rss
    for brief, messages in made_up(briefs, bank.messages_per_brief):
        shelf.put(brief, messages)
    resident = process.memory_info().rss - before
    [port] = free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="churn-saver-bank-"))
    server = start_redis(port, folder)
    try:
        wait_listening([server], [port])
        async with Redis(host=HOST, port=port) as redis:
            empty = (await redis.info("memory"))["used_memory"]
            await Store(redis, "measured").keep(dict(shelf))
            stored = (await redis.info("memory"))["used_memory"] - empty
    finally:
        end([server])
        shutil.rmtree(folder)
    return {
        "briefs": briefs,
        "messages": shelf.messages,
        "process_mb": round(resident / 2**20, 1),
        "redis_mb": round(stored / 2**20, 1),
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures everything and writes the report."""
    stderr.print(f"memory of {arguments.briefs} briefs")
    document: dict[str, Any] = {
        "command": f"python -m tests.load.bank {' '.join(sys.argv[1:])}".strip(),
        "seed": arguments.seed,
        "load_average": os.getloadavg()[0],
        "memory": asyncio.run(measure_memory(arguments.briefs)),
    }
    stack = LoadStack(campaign_factor=CAMPAIGN_FACTOR)
    with contextlib.closing(stack):
        stderr.print("cold start")
        with (
            grpc.insecure_channel(f"{HOST}:{stack.port('generator')}", CONNECT_OFTEN) as channel,
            ThreadPoolExecutor(1) as beside,
        ):
            stub = generator_grpc.GeneratorServiceStub(channel)
            briefs = wanted_briefs(stack.world)
            cold_start = beside.submit(measure_cold_start, stub, briefs)
            stack.restart()
            document["cold_start"] = cold_start.result()
            stderr.print("waiting until the bank is filled")
            wait_until_filled(f"{HOST}:{stack.port('generator')}")
            stderr.print(f"{arguments.calls} calls")
            document["hits"] = measure_hits(stub, briefs, arguments.calls)
        stack.kill_switch("off", "bank")
        stderr.print(f"customers, {arguments.rate:.0f} requests/s for {arguments.seconds:.0f} s")
        document["customers"] = measure_customers(stack, arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = f"bank_{arguments.csv.stem}" if arguments.csv else "bank"
    (arguments.out / f"{name}.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    return document


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.bank", description=__doc__)
    parser.add_argument("--calls", type=int, default=2_000, help="of the generator, for the latency of hits")
    parser.add_argument("--rate", type=float, default=20.0, help="customers per second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of customers")
    parser.add_argument("--briefs", type=int, default=10_000, help="whose memory is measured")
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
        return
    table = Table("part", "figure", "measured")
    for part in ("hits", "customers", "cold_start", "memory"):
        for name, value in document[part].items():
            table.add_row(part, name, str(value))
    wide_console().print(table)


if __name__ == "__main__":
    main()
