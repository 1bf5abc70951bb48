"""An engine and a shield of a test's own: what they say is known, and whether they are there can be turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis

from churnsaver.settings import load_message_books, load_serve_settings, load_world
from services.generator.bank import Bank
from services.generator.engine import Candidate, EngineFailed
from services.generator.prompt import Prompt
from services.generator.reviewing import ShieldUnavailable

# Bodies that suit every segment and purpose, so that a test need not know which cell is written.
GOOD = (
    "It is a pleasure to have you with us.",
    "We are so glad to have you here, and we value your trust.",
    "Thank you for your trust in us.",
)


@dataclass
class ScriptedEngine:
    """Writes `texts` in turn, beginning where the seed says; the first is the likeliest."""

    texts: Sequence[str] = GOOD
    version: str = "scripted@1"
    expected_s: float = 0.0
    broken: bool = False
    seeds: list[int] = field(default_factory=list)
    closed: bool = False

    async def write(self, prompts: Sequence[Prompt], seed: int) -> list[Candidate]:
        if self.broken:
            raise EngineFailed("out of ink")
        self.seeds.append(seed)
        order = [(seed + i) % len(self.texts) for i in range(len(prompts))]
        return [Candidate(self.texts[i], -0.1 * (i + 1)) for i in order]

    def close(self) -> None:
        self.closed = True


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


def build_bank(redis: Redis, engine: ScriptedEngine, review: ScriptedReview) -> Bank:
    """A bank of the shipped settings."""
    settings = load_serve_settings().generator
    return Bank(settings, load_world(), load_message_books(), engine, review, redis, seed=42)
