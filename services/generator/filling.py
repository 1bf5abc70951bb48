"""What the bank lacks, and writing it: the engine writes, the reward ranks, the shield passes or not.

Briefs that the model is told alike (their offers have one purpose) share a prompt, and with it what is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from churnsaver.domain.message import Brief
from churnsaver.settings import BankSettings
from services.generator import metrics
from services.generator.engine import AWAY, SMALL_WRITE, Engine, EngineFailed
from services.generator.message import BankMessage, Judgements, message_id
from services.generator.ranking import Reward, ranked_drafts
from services.generator.reviewing import DraftReview, ShieldUnavailable
from services.generator.shelf import Shelf

REVIEW_TIMEOUT_S = 2.0
SHIELD_TRIES, SHIELD_RETRY_S = 5, 1.0
# A prompt that yields too little is tried again with other seeds, and then rests: the approved text stands in.
MAX_TRIES = 4
REST_S = 600.0
ENGINE_RETRY_S = 10.0  # where the engine or the shield failed, it may not be the prompt's fault
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Lack:
    """What should be written next: the briefs of a prompt that have no message, too few, or old ones.

    Attributes:
        empty: whether one of them has none.
        first: whether that is what the first filling is about: it was not tried MAX_TRIES times yet.
    """

    told: str
    briefs: tuple[Brief, ...]
    empty: bool
    first: bool


class Filler:
    """Says what a shelf lacks and writes it.

    Attributes:
        prompts: the briefs that messages are wanted for, by what the model is told of them.
        asked: how often each brief was asked for, by key.
        wrote_s: how long the engine took to write last, or to fail, in seconds.
    """

    def __init__(
        self,
        settings: BankSettings,
        prompts: Mapping[str, list[Brief]],
        engine: Engine,
        reward: Reward,
        review: DraftReview,
        judgements: Judgements,
        *,
        seed: int,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._seed, self._clock = settings, seed, clock
        self._engine, self._reward, self._review, self._judgements = engine, reward, review, judgements
        self.prompts = prompts
        self.asked: Counter[str] = Counter()
        self.wrote_s = 0.0
        self._tries: Counter[str] = Counter()
        self._rests_until: dict[str, float] = {}

    def next_lack(self, shelf: Shelf) -> Lack | None:
        """What to write next: empty briefs before others, untried prompts before tried ones, then by demand."""
        lacks = [
            lack for told, briefs in self._in_demand(shelf) if (lack := self._lack(told, briefs, shelf)) is not None
        ]
        return min(lacks, key=lambda lack: (not lack.empty, self._tries[lack.told]), default=None)

    def _in_demand(self, shelf: Shelf) -> list[tuple[str, list[Brief]]]:
        """The prompts whose briefs there is room for, those first that are asked for most."""
        room, found = self._settings.max_messages, []
        for told, briefs in self.by_demand():
            room -= sum(max(self._settings.messages_per_brief, len(shelf.held(brief.key))) for brief in briefs)
            if room < 0:
                break
            found.append((told, briefs))
        return found

    def by_demand(self) -> list[tuple[str, list[Brief]]]:
        """All prompts and their briefs, those first that are asked for most."""

        def demand(prompt: tuple[str, list[Brief]]) -> int:
            return sum(self.asked[brief.key] for brief in prompt[1])

        return sorted(self.prompts.items(), key=demand, reverse=True)

    def _lack(self, told: str, briefs: list[Brief], shelf: Shelf) -> Lack | None:
        wanting = tuple(brief for brief in briefs if self._is_wanting(shelf.held(brief.key)))
        if not wanting:
            self._tries.pop(told, None)
            return None
        if self._tries[told] >= MAX_TRIES and self._clock() < self._rests_until.get(told, 0.0):
            return None
        empty = any(not shelf.held(brief.key) for brief in wanting)
        return Lack(told, wanting, empty=empty, first=empty and self._tries[told] < MAX_TRIES)

    def _is_wanting(self, held: tuple[BankMessage, ...]) -> bool:
        return sum(map(self._is_young, held)) < self._settings.messages_per_brief

    def _is_young(self, message: BankMessage) -> bool:
        return self._clock() - message.written_at < self._settings.max_age_days * SECONDS_PER_DAY

    async def write(self, lack: Lack, shelf: Shelf) -> dict[str, list[BankMessage]]:
        """What each brief is to hold now, by key; only those briefs for which something was written.

        Raises:
            EngineFailed: nothing could be written.
            ShieldUnavailable: what was written could not be reviewed.
        """
        # More than a small write, which would be written with requests and no longer follow from its seed alone.
        count = max(self._settings.messages_per_brief * self._settings.candidates_per_message, SMALL_WRITE + 1)
        seed = self._seed_of(lack, shelf)
        self._tries[lack.told] += 1
        self._rests_until[lack.told] = self._clock() + ENGINE_RETRY_S
        started = time.monotonic()
        try:
            candidates = await self._engine.write(lack.told, count, seed)
        except EngineFailed as error:
            if error.reason == AWAY:
                self._tries[lack.told] -= 1  # nothing was tried
            raise
        finally:
            self.wrote_s = time.monotonic() - started
        ranked = await ranked_drafts(candidates, lack.briefs[0], self._reward)
        try:
            admitted = await self._admitted(ranked, lack)
        except ShieldUnavailable:
            metrics.REJECTED.labels("unreviewed").inc()
            self._tries[lack.told] -= 1
            raise
        self._rests_until[lack.told] = self._clock() + REST_S
        written: dict[str, list[BankMessage]] = {}
        for brief in lack.briefs:
            new = [
                BankMessage(id_, draft, score, self._engine.version, self._clock())
                for draft, score in admitted.items()
                if not self._judgements.is_retired(id_ := message_id(brief, draft))
            ]
            if new:
                written[brief.key] = self.best((*shelf.held(brief.key), *new))
        return written

    def _seed_of(self, lack: Lack, shelf: Shelf) -> int:
        """Depends on the prompt, on what is held for it and on how often it was tried, so that new words come."""
        held = sorted(message.message_id for brief in lack.briefs for message in shelf.held(brief.key))
        parts = (self._seed, lack.told, self._tries[lack.told], *held)
        return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:4])

    async def _admitted(self, ranked: Mapping[str, float], lack: Lack) -> dict[str, float]:
        """The best drafts that pass the shield, at most as many as are wanted."""
        kept: dict[str, float] = {}
        for draft, score in ranked.items():
            if all(self._judgements.is_retired(message_id(brief, draft)) for brief in lack.briefs):
                metrics.REJECTED.labels("retired").inc()
            elif await self._passes(draft, lack.briefs[0]):
                kept[draft] = score
            else:
                metrics.REJECTED.labels("shield").inc()
            if len(kept) == self._settings.messages_per_brief:
                break
        return kept

    async def _passes(self, draft: str, brief: Brief) -> bool:
        for _ in range(SHIELD_TRIES - 1):
            with contextlib.suppress(ShieldUnavailable):
                return await self._review.passes(draft, brief.channel, brief.language, REVIEW_TIMEOUT_S)
            # Nothing enters unreviewed; requests get the approved text until the shield is back.
            await asyncio.sleep(SHIELD_RETRY_S)
        return await self._review.passes(draft, brief.channel, brief.language, REVIEW_TIMEOUT_S)

    def best(self, messages: Iterable[BankMessage]) -> list[BankMessage]:
        """Those of a brief that are held: as many as are wanted, the young before the old, the best of each first.

        Those that wait for a person's approval are held beside the ones whose place they are to take.
        """
        wanted = self._settings.messages_per_brief
        by_id = {each.message_id: each for each in messages if not self._judgements.is_retired(each.message_id)}
        ranked = sorted(by_id.values(), key=lambda each: (not self._is_young(each), -each.score, each.message_id))
        given_out = [each for each in ranked if self._judgements.may_be_given_out(each.message_id)][:wanted]
        waiting = [each for each in ranked if not self._judgements.may_be_given_out(each.message_id)]
        return given_out + waiting[: wanted - sum(map(self._is_young, given_out))]
