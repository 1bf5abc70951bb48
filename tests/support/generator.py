"""Engine, reward and shield of a test's own: what they say is known, and whether they are there can be turned."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis

from churnsaver.domain.message import Brief
from churnsaver.domain.writing import SUBJECT
from churnsaver.settings import load_serve_settings, load_world
from churnsaver.tasks import stop_tasks
from services.generator.bank import Bank
from services.generator.engine import Candidate, Engine, EngineFailed
from services.generator.reviewing import ShieldUnavailable

# Drafts that suit every brief, best first in the eyes of ScriptedReward.
GOOD = (
    "It is a pleasure, {first_name}: {offer} until {expiry}. {opt_out}",
    "We have {offer} for you until {expiry}. {opt_out}",
    "Until {expiry}: {offer}. {opt_out}",
)


def draft_for(channel: str, text: str) -> str:
    """What ScriptedEngine makes of a text for a channel."""
    return f"{SUBJECT}For you\n\n{text}" if channel == "email" else text


@dataclass
class ScriptedEngine:
    """Writes `texts` in turn, beginning where the seed says, with a subject where the prompt asks for an e-mail."""

    texts: Sequence[str] = GOOD
    version: str = "scripted@1"
    expected_s: float = 0.0
    broken: bool = False
    reason: str = "broken"
    ended: bool = True
    seeds: list[int] = field(default_factory=list)
    closed: bool = False

    async def write(self, prompt: str, count: int, seed: int) -> list[Candidate]:
        if self.broken:
            raise EngineFailed(self.reason, "out of ink")
        self.seeds.append(seed)
        channel = "email" if "channel: email" in prompt else "sms"
        texts = [self.texts[(seed + i) % len(self.texts)] for i in range(count)]
        return [Candidate(draft_for(channel, text), self.ended) for text in texts]

    async def close(self) -> None:
        self.closed = True


class ScriptedReward:
    """Two members that prefer longer drafts, and disagree on those that are sure of it."""

    def scores(self, briefs: Sequence[Brief | None], drafts: Sequence[str]) -> NDArray[np.float64]:
        assert len(briefs) == len(drafts)
        return np.array([[len(draft) / 10.0, len(draft) / 10.0 + 8.0 * ("sure" in draft)] for draft in drafts])


@dataclass
class ScriptedReview:
    """Passes drafts without a word of `blocks`, while it is up."""

    blocks: frozenset[str] = frozenset()
    up: bool = True
    seen: list[str] = field(default_factory=list)

    async def passes(self, draft: str, channel: str, language: str, timeout_s: float) -> bool:
        if not self.up:
            raise ShieldUnavailable("UNAVAILABLE")
        self.seen.append(draft)
        return not any(word in draft for word in self.blocks)


def build_bank(
    redis: Redis,
    engine: Engine,
    review: ScriptedReview,
    *,
    former: Bank | None = None,
    clock: Callable[[], float] = time.time,
    **changes: Any,
) -> Bank:
    """A bank of the shipped settings; `changes` replace some of `generator.bank`."""
    settings = load_serve_settings().generator
    settings = settings.model_copy(update={"bank": settings.bank.model_copy(update=changes)})
    return Bank(
        settings,
        load_world(),
        engine,
        ScriptedReward(),
        review,
        redis,
        seed=42,
        version=engine.version,
        former=former,
        clock=clock,
    )


@contextlib.asynccontextmanager
async def running(*banks: Bank) -> AsyncIterator[None]:
    """Banks that are loaded and run, as in as many replicas."""
    for bank in banks:
        await bank.load()
    may_write = asyncio.Event()
    may_write.set()
    tasks = [asyncio.create_task(bank.run(may_write)) for bank in banks]
    try:
        yield
    finally:
        await stop_tasks(tasks)


async def until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Returns when something holds; TimeoutError where it never does."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - nothing tells of what a test waits for
            await asyncio.sleep(0.01)


async def filled(bank: Bank) -> Bank:
    """A bank after its first filling, stopped again; what Redis can take of it is there."""
    async with running(bank):
        await until(lambda: not bank.filling)
    return bank
