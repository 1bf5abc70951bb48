"""The story of one message: bank, else the model in the time left, else the approved text."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from churnsaver.domain.message import FALLBACK_LANGUAGE, Brief, MessageBook, spoken_language
from churnsaver.domain.world import World
from churnsaver.domain.writing import check_brief
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from services.generator import metrics
from services.generator.bank import Bank
from services.generator.engine import AWAY, SMALL_WRITE, Engine, EngineFailed
from services.generator.message import message_id
from services.generator.prompt import prompt
from services.generator.ranking import Reward, ranked_drafts
from services.generator.reviewing import DraftReview, ShieldUnavailable

log = structlog.get_logger()

# A write takes as long as the last ones say, give or take; reviewing and the way back take the rest.
MARGIN = 1.3
# A review may take so long, or a share of the time left where that is more.
REVIEW_S, REVIEW_SHARE = 0.05, 0.05
# Of the time left, at least: a machine that is busy for seconds is late by more than one that is for milliseconds.
ANSWER_S, ANSWER_SHARE = 0.02, 0.05
FORGET_S = 5.0


class Lately:
    """How long something took when it was last done; nothing where that is long ago, so that somebody finds out."""

    def __init__(self) -> None:
        self._took_s, self._at = 0.0, -math.inf

    @property
    def took_s(self) -> float:
        return self._took_s if time.monotonic() - self._at < FORGET_S else 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._at = time.monotonic()
            self._took_s = self._at - started


@dataclass(frozen=True, slots=True)
class Writer:
    """Everything that a message can come from."""

    world: World
    books: Mapping[str, MessageBook]
    bank: Bank
    engine: Engine
    reward: Reward
    review: DraftReview
    judging: Lately = field(default_factory=Lately)

    async def write(self, brief: Brief, seed: int, time_left_s: float) -> pb.GenerateResponse:
        """A slotted draft for `brief` within `time_left_s`, in the language of the answer.

        Raises:
            BadInput: the brief names a segment, offer, channel, tone or reason that does not exist.
        """
        brief = self._known(brief)
        if (chosen := self.bank.choose(brief, seed)) is not None:
            message, propensity = chosen
            answer = pb.GenerateResponse(
                draft=message.draft,
                source=pb.MESSAGE_SOURCE_BANK,
                message_id=message.message_id,
                propensity=propensity,
                model_version=message.model,
            )
        elif (draft := await self._write_now(brief, seed, time_left_s)) is not None:
            answer = pb.GenerateResponse(
                draft=draft,
                source=pb.MESSAGE_SOURCE_MODEL,
                message_id=message_id(brief, draft),
                propensity=1.0,
                model_version=self.engine.version,
            )
        else:
            text = self.books[brief.language].template(brief)
            answer = pb.GenerateResponse(
                draft=text, source=pb.MESSAGE_SOURCE_TEMPLATE, message_id=f"template:{brief.key}", propensity=1.0
            )
        answer.language = brief.language
        metrics.SOURCES.labels(pb.MessageSource.Name(answer.source).removeprefix("MESSAGE_SOURCE_").lower()).inc()
        return answer

    async def warm_up(self) -> None:
        """Writes once for nobody, so that the engine's speed is known before the first request."""
        try:
            await self.engine.write(next(iter(self.bank.prompts)), SMALL_WRITE, seed=0)
        except Exception as error:  # the bank's work goes on beside it
            log.warning("engine.cold", reason=repr(error))

    async def _write_now(self, brief: Brief, seed: int, time_left_s: float) -> str | None:
        """A draft that the model writes for this request, or None where the time or the text is not enough."""
        if brief.language not in self.bank.languages or self.bank.needs_approval:  # nobody has seen what it would write
            return None
        # Judging has no queue of its own that could be looked into: where too much is judged at once, it takes longer.
        if (expected_s := self.engine.expected_s + self.judging.took_s) * MARGIN > time_left_s:
            metrics.ENGINE_FAILURES.labels(AWAY if math.isinf(expected_s) else "busy").inc()
            return None
        try:
            # Past it the engine is told to stop, and the approved text still reaches the caller in time.
            async with asyncio.timeout(time_left_s - max(ANSWER_S, ANSWER_SHARE * time_left_s)):
                return await self._best_draft(brief, seed, max(REVIEW_S, REVIEW_SHARE * time_left_s))
        except TimeoutError:
            metrics.ENGINE_FAILURES.labels("late").inc()
        except EngineFailed as reason:
            log.warning("generate.not_written", reason=repr(reason))
        except ShieldUnavailable as reason:
            metrics.REJECTED.labels("unreviewed").inc()
            log.warning("generate.not_reviewed", reason=repr(reason))
        return None

    async def _best_draft(self, brief: Brief, seed: int, review_timeout_s: float) -> str | None:
        """The best of a small write that the shield passes."""
        with metrics.QUEUE_DEPTH.track_inprogress():
            candidates = await self.engine.write(prompt(brief, self.world), SMALL_WRITE, seed % 2**31)
        with self.judging.timed():
            for draft in await ranked_drafts(candidates, brief, self.reward):
                if self.bank.is_retired(message_id(brief, draft)):
                    metrics.REJECTED.labels("retired").inc()
                    continue
                if await self.review.passes(draft, brief.channel, brief.language, review_timeout_s):
                    return draft
                metrics.REJECTED.labels("shield").inc()
        return None

    def _known(self, brief: Brief) -> Brief:
        """The brief in a language that has approved texts; BadInput names what does not exist."""
        check_brief(brief, self.world)
        if (spoken := spoken_language(brief.language, self.books)) is None:
            metrics.LANGUAGE_FALLBACKS.inc()
        return brief.model_copy(update={"language": spoken or FALLBACK_LANGUAGE})
