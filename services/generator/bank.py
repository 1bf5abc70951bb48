"""The bank: messages written ahead for each brief, reviewed by the shield, ranked, kept in Redis.

Briefs that the model is told alike (their offers have one purpose) share a prompt, and with it what is written.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from churnsaver.domain.message import SEGMENTS, Brief
from churnsaver.domain.world import World
from churnsaver.settings import GeneratorSettings
from services.generator import metrics, ranking
from services.generator.engine import Engine, EngineFailed
from services.generator.prompt import prompt
from services.generator.ranking import Reward, ranked_drafts
from services.generator.reviewing import DraftReview, ShieldUnavailable

log = structlog.get_logger()

REVIEW_TIMEOUT_S = 2.0
RETRY_S = 1.0
# A prompt that yields too little is tried again with other seeds, and then left to the approved text.
MAX_ROUNDS = 4
TOP_UP_ROUNDS = 2
# A version that no generator has written to for so long is not coming back.
KEPT_S = 30 * 24 * 3600
OUTAGES = (RedisError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class BankMessage:
    """One message that may be chosen.

    Attributes:
        score: the reward that ranks it (see `ranking`), higher is better.
        model: version of the model that wrote it.
    """

    message_id: str
    draft: str
    score: float
    model: str


class Bank:
    """Messages by brief. Choosing is a look-up; filling runs beside it.

    Attributes:
        prompts: the briefs that messages are wanted for, by what the model is told of them.
        wanted: the same briefs by key.
        languages: that the model writes in.
        filling: whether a brief may still get its first message.
        version: of everything that decides what is written; Redis keeps each version apart.
    """

    def __init__(
        self,
        settings: GeneratorSettings,
        world: World,
        engine: Engine,
        reward: Reward,
        review: DraftReview,
        redis: Redis,
        *,
        seed: int,
        version: str,
    ) -> None:
        """`version`: of engine and reward model."""
        self._settings, self._seed = settings, seed
        self._engine, self._reward, self._review, self._redis = engine, reward, review, redis
        self.languages = settings.languages
        self.prompts = _prompts(settings, world)
        self.wanted: dict[str, Brief] = {brief.key: brief for briefs in self.prompts.values() for brief in briefs}
        self._messages: dict[str, tuple[BankMessage, ...]] = {}
        self._unkept: set[str] = set()
        self.uses: Counter[str] = Counter()
        self.filling = True
        self.version = _version(version, settings, self.prompts)

    def choose(self, brief: Brief, seed: int) -> tuple[BankMessage, float] | None:
        """A message for `brief`, uniformly among those kept, and its propensity; None where there is none."""
        kept = self._messages.get(brief.key)
        if not kept:
            return None
        chosen = kept[int(np.random.Generator(np.random.PCG64(seed)).integers(len(kept)))]
        self.uses[chosen.message_id] += 1
        return chosen, 1.0 / len(kept)

    def entries(self) -> Iterable[tuple[Brief, BankMessage]]:
        """Everything that may be chosen."""
        return ((brief, message) for key, brief in self.wanted.items() for message in self._messages.get(key, ()))

    @property
    def briefs_filled(self) -> int:
        return len(self._messages)

    def take_over(self, former: Bank) -> None:
        """Gives out another model's messages, all of them reviewed, for each brief until it has its own."""
        self._messages = dict(former._messages)
        self.uses = former.uses

    async def fill(self) -> None:
        """Writes until each brief has a message, then until each has as many as are wanted, and stores them.

        It never gives up on an outage of the shield or of Redis.
        """
        started = time.monotonic()
        for round_number in range(MAX_ROUNDS):
            await self._fill_round(round_number, enough=1)
        self.filling = False
        metrics.FILL_SECONDS.set(time.monotonic() - started)
        log.info("bank.filled", briefs=self.briefs_filled, wanted=len(self.wanted), version=self.version)
        for round_number in range(MAX_ROUNDS, MAX_ROUNDS + TOP_UP_ROUNDS):
            await self._fill_round(round_number, enough=self._settings.messages_per_brief)
        while self._unkept:
            await asyncio.sleep(RETRY_S)
            await self._keep()

    async def _fill_round(self, round_number: int, *, enough: int) -> None:
        for told, briefs in self.prompts.items():
            short = [brief for brief in briefs if len(self._own(brief)) < enough]
            if not short:
                continue
            try:
                await self._fill_briefs(told, short, round_number)
            except EngineFailed as error:
                log.warning("bank.not_written", brief=short[0].key, reason=str(error))
                await asyncio.sleep(RETRY_S)

    async def _fill_briefs(self, told: str, briefs: list[Brief], round_number: int) -> None:
        count = self._settings.messages_per_brief * self._settings.candidates_per_message
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}|{told}|{round_number}".encode()).digest()[:4])
        candidates = await self._engine.write(told, count, seed)
        admitted = await self._admitted(briefs[0], await ranked_drafts(candidates, briefs[0], self._reward))
        if not admitted:
            return
        for brief in briefs:
            new = {
                BankMessage(_message_id(brief, draft), draft, score, self._engine.version)
                for draft, score in admitted.items()
            }
            self._messages[brief.key] = self._best({*self._own(brief), *new})
            self._unkept.add(brief.key)
        metrics.BRIEFS.set(self.briefs_filled)
        await self._keep()

    def _own(self, brief: Brief) -> tuple[BankMessage, ...]:
        """What this bank's own model has written for a brief."""
        return tuple(each for each in self._messages.get(brief.key, ()) if each.model == self._engine.version)

    def _best(self, messages: Iterable[BankMessage]) -> tuple[BankMessage, ...]:
        ranked = sorted(messages, key=lambda message: (-message.score, message.message_id))
        return tuple(ranked[: self._settings.messages_per_brief])

    async def _admitted(self, brief: Brief, drafts: Mapping[str, float]) -> dict[str, float]:
        """The best drafts that pass the shield, at most as many as are wanted."""
        kept: dict[str, float] = {}
        for draft, score in drafts.items():
            if await self._passes(draft, brief):
                kept[draft] = score
            else:
                metrics.REJECTED.labels("shield").inc()
            if len(kept) == self._settings.messages_per_brief:
                break
        return kept

    async def _passes(self, draft: str, brief: Brief) -> bool:
        while True:
            try:
                return await self._review.passes(draft, brief.channel, brief.language, REVIEW_TIMEOUT_S)
            except ShieldUnavailable:
                # Nothing enters unreviewed; requests get the approved text until the shield is back.
                await asyncio.sleep(RETRY_S)

    async def load(self) -> None:
        """Takes what Redis keeps of this version; nothing where it is away."""
        metrics.BRIEFS_WANTED.set(len(self.wanted))
        try:
            stored: Any = await self._redis.hgetall(self._key)
        except OUTAGES:
            return
        for key, raw in stored.items():
            name = key.decode()
            try:
                kept = tuple(BankMessage(**fields) for fields in json.loads(raw))
            except (ValueError, TypeError):
                log.warning("bank.unreadable", brief=name)  # it is written again
                continue
            if name in self.wanted and kept:
                self._messages[name] = kept
        metrics.BRIEFS.set(self.briefs_filled)

    async def _keep(self) -> None:
        """Stores what Redis has not got yet; in an outage it serves from memory and is stored later."""
        if not self._unkept:
            return
        fields: dict[Any, Any] = {
            key: json.dumps([asdict(message) for message in self._messages[key]]) for key in self._unkept
        }
        try:
            await self._redis.hset(self._key, mapping=fields)
            await self._redis.expire(self._key, KEPT_S)
        except OUTAGES as error:
            log.warning("bank.not_kept", briefs=len(fields), reason=str(error))
            return
        self._unkept.clear()

    @property
    def _key(self) -> str:
        return f"cs:bank:{self.version}"


def _message_id(brief: Brief, draft: str) -> str:
    return hashlib.sha256(f"{brief.key}|{draft}".encode()).hexdigest()[:12]


def _prompts(settings: GeneratorSettings, world: World) -> dict[str, list[Brief]]:
    """Every brief that the gateway can ask for, by what the model is told of it."""
    prompts: dict[str, list[Brief]] = {}
    for language in settings.languages:
        for segment in SEGMENTS:
            for offer in world.offers:
                for channel in world.channels:
                    brief = Brief(
                        segment=segment, offer=offer.id, tone=settings.tone, channel=channel, language=language
                    )
                    prompts.setdefault(prompt(brief, world), []).append(brief)
    return prompts


def _version(models: str, settings: GeneratorSettings, prompts: Iterable[str]) -> str:
    """Changes with whatever makes other messages: the models, the settings, what is told and our own rules."""
    parts = [models, settings.model_dump_json(), *prompts, inspect.getsource(ranking)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
