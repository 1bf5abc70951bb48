"""Tokens a second through the generator beside those of its vLLM server alone: the same prompts, several at once.

`churn-saver up --engine vllm` runs already, and is waited for until its bank is filled, which takes the same server.
Briefs have a tone that the bank does not hold, so that each is written live. The two ways take turns, each first in
every other pair, with the same briefs and seeds: what drifts on the machine meets both alike. Every prompt was read
once before, so both find it in the prefix cache and get nearly the same texts. What was written is the server's own
count, so texts that nobody got are in it, too. Writes `reports/mesh.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import orjson
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from churnsaver.domain.message import Brief
from churnsaver.errors import BadInput, ChurnSaverError
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc
from churnsaver.settings import DEFAULT_SEED, ServeSettings, load_serve_settings, load_world
from services.generator.engine import END_OF_TURN, SMALL_WRITE
from services.generator.prompt import prompt
from tests.load.generator import unheld_briefs, wait_until_filled
from tests.load.processes import wide_console
from tests.load.stats import percentile

stderr = Console(stderr=True)
REPORTS = Path("reports")
CONCURRENCIES = (1, 8, 32)
WAYS = ("vllm", "generator")
# What a ratio of two speeds is made of.
RATIO = (("generator", "tokens"), ("generator", "wall_s"), ("vllm", "tokens"), ("vllm", "wall_s"))
PAIRS_FOR_AN_INTERVAL = 8  # what is drawn from fewer is drawn from nearly nothing
DEADLINE_S = 600.0  # 128 texts at once take minutes on a core

Ask = Callable[[Brief, int], Awaitable[bool]]


async def written_tokens(client: httpx.AsyncClient) -> float:
    """How many tokens the server has written since it started."""
    families = text_string_to_metric_families((await client.get("/metrics")).raise_for_status().text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "vllm:generation_tokens_total"
    )


async def adapter(client: httpx.AsyncClient) -> str:
    """The one that the generator writes with; BadInput where the server has none."""
    found = (await client.get("/v1/models")).raise_for_status().json()["data"][1:]
    if not found:
        raise BadInput(f"{client.base_url}: has no adapter; run `churn-saver up --engine vllm`")
    return str(found[-1]["id"])


def alone(client: httpx.AsyncClient, settings: ServeSettings, model: str, max_tokens: int | None = None) -> Ask:
    """Asks the server itself, for what the generator asks it for; `max_tokens`: of each text, if fewer."""
    world, generator = load_world(), settings.generator

    async def ask(brief: Brief, seed: int) -> bool:
        body = {
            "model": model,
            "prompt": prompt(brief, world),
            "n": SMALL_WRITE,
            "seed": seed,
            "max_tokens": max_tokens or generator.max_new_tokens,
            "temperature": generator.temperature,
            "top_k": generator.top_k,
            "stop": [END_OF_TURN],
            "add_special_tokens": False,
            "skip_special_tokens": False,
        }
        try:
            return (await client.post("/v1/completions", json=body)).is_success
        except httpx.TimeoutException:  # counted as unanswered; what was measured before is kept
            return False

    return ask


def through(channel: grpc.aio.Channel) -> Ask:
    """Asks the generator."""
    stub = generator_grpc.GeneratorServiceStub(channel)

    async def ask(brief: Brief, seed: int) -> bool:
        request = pb.GenerateRequest(brief=pb.Brief(**brief.model_dump()), seed=seed)
        try:
            answer = await stub.Generate(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return False
        return bool(answer.source == pb.MESSAGE_SOURCE_MODEL)

    return ask


async def measure_block(client: httpx.AsyncClient, ask: Ask, wanted: list[Brief], seeds: range) -> dict[str, Any]:
    """A request for each seed, all at once."""

    async def timed(seed: int) -> tuple[bool, float]:
        started = time.monotonic()
        return await ask(wanted[seed % len(wanted)], seed), time.monotonic() - started

    before, started = await written_tokens(client), time.monotonic()
    answers = await asyncio.gather(*(timed(seed) for seed in seeds))
    wall_s = time.monotonic() - started
    return {
        "tokens": await written_tokens(client) - before,
        "wall_s": wall_s,
        "requests": len(answers),
        "answered_by_model": sum(written for written, _ in answers),
        "took_s": [took_s for _, took_s in answers],
    }


def ratio_interval(blocks: Mapping[str, list[dict[str, Any]]], seed: int) -> list[float] | None:
    """Of the ratio of the two speeds, 95 %, pairs drawn with replacement (BCa); None where they are too few."""
    if len(blocks["vllm"]) < PAIRS_FOR_AN_INTERVAL:
        return None

    def ratio(tokens: Any, wall_s: Any, tokens_alone: Any, wall_s_alone: Any, axis: int = -1) -> Any:
        return (tokens.sum(axis) / wall_s.sum(axis)) / (tokens_alone.sum(axis) / wall_s_alone.sum(axis))

    columns = [np.array([block[key] for block in blocks[way]]) for way, key in RATIO]
    found = bootstrap(columns, ratio, paired=True, vectorized=True, rng=np.random.default_rng(seed)).confidence_interval
    return [float(found.low), float(found.high)]


def summary(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """The blocks of one way and concurrency as one."""
    took_s = [each for block in blocks for each in block["took_s"]]
    totals = {key: sum(block[key] for block in blocks) for key in ("tokens", "wall_s", "requests", "answered_by_model")}
    return {
        **totals,
        "tokens_per_s": totals["tokens"] / totals["wall_s"],
        "p50_s": percentile(took_s, 50.0),
        "p95_s": percentile(took_s, 95.0),
    }


async def measure(arguments: argparse.Namespace, settings: ServeSettings) -> dict[str, Any]:
    """Both ways in turn, at each concurrency."""
    found: dict[str, Any] = {}
    wanted = unheld_briefs(settings)
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=str(settings.generator.vllm.url), timeout=DEADLINE_S, limits=limits) as client,
        grpc.aio.insecure_channel(settings.addresses.generator) as channel,
    ):
        model = await adapter(client)
        ways = {"vllm": alone(client, settings, model), "generator": through(channel)}
        stderr.print(f"reading {len(wanted)} prompts")
        read = alone(client, settings, model, max_tokens=1)
        for brief in wanted:
            await read(brief, arguments.seed)
        for concurrency in arguments.concurrency:
            blocks: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            pairs = 2 * math.ceil(arguments.requests / concurrency / 2)  # even, so that each way is first as often
            for pair in range(pairs):
                stderr.print(f"{concurrency} at once, pair {pair + 1} of {pairs}")
                first = arguments.seed + pair * concurrency
                for way in reversed(WAYS) if pair % 2 else WAYS:
                    seeds = range(first, first + concurrency)
                    blocks[way].append(await measure_block(client, ways[way], wanted, seeds))
            each: dict[str, Any] = {way: summary(blocks[way]) for way in WAYS}
            each["ratio"] = each["generator"]["tokens_per_s"] / max(each["vllm"]["tokens_per_s"], 1e-9)
            each["ratio_95"] = ratio_interval(blocks, arguments.seed)
            each["blocks"] = blocks
            each["added_p50_s"] = each["generator"]["p50_s"] - each["vllm"]["p50_s"]
            found[str(concurrency)] = each
    return found


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures and writes the report."""
    settings = load_serve_settings()
    try:
        stderr.print("waiting until the bank is filled")
        wait_until_filled(settings.addresses.generator)
        measured = asyncio.run(measure(arguments, settings))
    except (httpx.HTTPError, grpc.RpcError) as error:
        said = error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else repr(error)
        raise BadInput(f"generator or vLLM server does not answer ({said}); run `up --engine vllm`") from None
    document = {
        "command": f"python -m tests.load.mesh {' '.join(sys.argv[1:])}".strip(),
        "machine": {"cores": os.cpu_count(), "load_average_1_min": os.getloadavg()[0]},
        "least_requests_each_way": arguments.requests,
        "seed": arguments.seed,
        "concurrency": measured,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "mesh.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    return document


def print_table(document: Mapping[str, Any]) -> None:
    """The report for a person, on standard output."""
    table = Table(title="tokens/s, all texts of a request together", title_justify="left")
    for column in ("at once", "vLLM alone", "through gRPC", "ratio", "p50 s", "added", "p95 s", "written live"):
        table.add_column(column)
    for concurrency, each in document["concurrency"].items():
        ours = each["generator"]
        live = f"{ours['answered_by_model']} of {ours['requests']}"
        speeds = [f"{each[way]['tokens_per_s']:.1f}" for way in WAYS]
        ratio = f"{each['ratio']:.2f}"
        if each["ratio_95"]:
            ratio += " ({:.2f} to {:.2f})".format(*each["ratio_95"])
        seconds = [f"{value:.2f}" for value in (ours["p50_s"], each["added_p50_s"], ours["p95_s"])]
        table.add_row(concurrency, *speeds, ratio, *seconds, live)
    wide_console().print(table)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.mesh", description=__doc__)
    parser.add_argument("--concurrency", type=int, nargs="+", default=CONCURRENCIES, help="requests at once")
    parser.add_argument("--requests", type=int, default=32, help="each way, at least, in an even number of pairs")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
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


if __name__ == "__main__":
    main()
