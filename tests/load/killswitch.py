"""How long the kill switch takes: from the command to the first baseline answer, as a caller sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from churnsaver.errors import BadInput
from tests.load.stack import LoadStack
from tests.load.stats import percentile

POLLERS = 2
BEFORE_S = 0.05
AFTER_S = 0.3
SETTLE_TIMEOUT_S = 10.0
REASON = "kill_switch"


@dataclass(frozen=True, slots=True)
class Flip:
    """One flip, in milliseconds since the command was given.

    Attributes:
        first_baseline_ms: when the first answer came that the switch had turned to the baseline.
        last_policy_sent_ms: when the last request was sent that the policy still answered; negative where
            every request sent after the command got the baseline.
        command_ms: how long the command itself took to return.
    """

    first_baseline_ms: float
    last_policy_sent_ms: float
    command_ms: float


async def measure(
    stack: LoadStack, bodies: Iterator[Mapping[str, Any]], *, repeats: int, by_command: bool
) -> list[Flip]:
    """Flips the switch on `repeats` times while customers keep coming, and back off each time.

    Args:
        stack: a running stack with the switch off.
        bodies: new customers; two for each flip's every few milliseconds.
        by_command: through `churn-saver kill on`, whose start-up then counts, rather than the public route.
    """
    flips = []
    async with httpx.AsyncClient(base_url=stack.url, timeout=5.0) as client:
        for index in range(repeats):
            reason = f"bench, flip {index}"
            await _settle(client, bodies, "policy")
            command = _run_command(stack, reason) if by_command else _put(client, reason)
            flips.append(await _flip(client, bodies, command))
            (await client.put("/v1/kill-switch", json={"state": "off", "reason": reason})).raise_for_status()
        await _settle(client, bodies, "policy")
    return flips


def summarise_flips(flips: list[Flip]) -> dict[str, Any]:
    """Median and worst of every time, with the flips themselves."""
    summary: dict[str, Any] = {"repeats": len(flips)}
    for name in ("first_baseline_ms", "last_policy_sent_ms", "command_ms"):
        values = [getattr(flip, name) for flip in flips]
        summary[name] = {"median": percentile(values, 50.0), "worst": max(values)}
    return summary | {"flips": [asdict(flip) for flip in flips]}


async def _flip(
    client: httpx.AsyncClient, bodies: Iterator[Mapping[str, Any]], command: Callable[[], Awaitable[None]]
) -> Flip:
    """Gives the command while pollers ask as fast as they are answered."""
    answers: list[tuple[float, float, bool]] = []  # sent, received, whether the switch answered
    done = asyncio.Event()

    async def poll() -> None:
        while not done.is_set():
            sent_s = time.monotonic()
            answer = await _retain(client, next(bodies))
            answers.append((sent_s, time.monotonic(), answer["baseline_reason"] == REASON))

    pollers = [asyncio.create_task(poll()) for _ in range(POLLERS)]
    try:
        await asyncio.sleep(BEFORE_S)
        given_s = time.monotonic()
        await command()
        command_ms = (time.monotonic() - given_s) * 1000.0
        await asyncio.sleep(AFTER_S)
    finally:
        done.set()
        await asyncio.gather(*pollers)
    turned = [received_s for _, received_s, switched in answers if switched]
    if not turned:
        raise BadInput("the kill switch was turned on and no answer came from the baseline")
    last_policy_s = max(sent_s for sent_s, _, switched in answers if not switched)
    return Flip((min(turned) - given_s) * 1000.0, (last_policy_s - given_s) * 1000.0, command_ms)


def _put(client: httpx.AsyncClient, reason: str) -> Callable[[], Awaitable[None]]:
    async def put() -> None:
        (await client.put("/v1/kill-switch", json={"state": "on", "reason": reason})).raise_for_status()

    return put


def _run_command(stack: LoadStack, reason: str) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        process = stack.kill_command("on", reason)
        _, errors = await asyncio.to_thread(process.communicate)
        if process.returncode != 0:
            raise BadInput(f"churn-saver kill on: {errors.decode(errors='replace').strip()}")

    return run


async def _settle(client: httpx.AsyncClient, bodies: Iterator[Mapping[str, Any]], mode: str) -> None:
    """Waits until answers come in `mode`."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while (answer := await _retain(client, next(bodies)))["mode"] != mode:
        if time.monotonic() > deadline:
            raise BadInput(f"the stack still answers in mode {answer['mode']} ({answer['baseline_reason']})")
        await asyncio.sleep(0.02)


async def _retain(client: httpx.AsyncClient, body: Mapping[str, Any]) -> dict[str, Any]:
    response = await client.post("/v1/retain", json=body)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer
