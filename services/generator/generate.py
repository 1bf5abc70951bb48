"""The story of one message: bank, else the model in the time left, else the approved text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from churnsaver.domain.message import SEGMENTS, Brief, MessageBook
from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from services.generator import metrics
from services.generator.bank import Bank
from services.generator.body import Rejected, body_of
from services.generator.engine import Engine
from services.generator.prompt import Cell, prompts
from services.generator.reviewing import DraftReview, ShieldUnavailable

FALLBACK_LANGUAGE = "en"
# A text alone takes as long as the last one did, give or take; reviewing and the way back take the rest.
MARGIN = 1.3
REVIEW_TIMEOUT_S = 0.05


@dataclass(frozen=True, slots=True)
class Writer:
    """Everything that a message can come from."""

    world: World
    books: Mapping[str, MessageBook]
    bank: Bank
    engine: Engine
    review: DraftReview

    async def write(self, brief: Brief, seed: int, time_left_s: float) -> pb.GenerateResponse:
        """A slotted draft for `brief` within `time_left_s`.

        Raises:
            BadInput: the brief names a segment, offer or channel that does not exist.
        """
        brief = self._known(brief)
        if (chosen := self.bank.choose(brief, seed)) is not None:
            message, propensity = chosen
            answer = self._answer(message.draft, pb.MESSAGE_SOURCE_BANK, message.message_id, propensity)
        elif (draft := await self._write_now(brief, seed, time_left_s)) is not None:
            message_id = hashlib.sha256(f"{brief.key}|{draft}".encode()).hexdigest()[:12]
            answer = self._answer(draft, pb.MESSAGE_SOURCE_MODEL, message_id, 1.0)
        else:
            text = self.books[brief.language].template(brief)
            answer = pb.GenerateResponse(
                draft=text, source=pb.MESSAGE_SOURCE_TEMPLATE, message_id=f"template:{brief.key}", propensity=1.0
            )
        metrics.SOURCES.labels(pb.MessageSource.Name(answer.source).removeprefix("MESSAGE_SOURCE_").lower()).inc()
        return answer

    async def _write_now(self, brief: Brief, seed: int, time_left_s: float) -> str | None:
        """A draft that the model writes for this request, or None where the time or the text is not enough."""
        if self.engine.busy or self.engine.seconds_per_text * MARGIN > time_left_s:
            return None
        book = self.books[brief.language]
        cell = Cell(brief.segment, self.world.offer(brief.offer).purpose, brief.language)
        (candidate,) = await self.engine.write(prompts(book, cell, 1), seed % 2**31)
        try:
            body = body_of(candidate.text, book, book.examples[cell.segment][cell.purpose])
            draft = book.draft(brief.channel, body)
            passes = await self.review.passes(draft, brief.channel, brief.language, REVIEW_TIMEOUT_S)
        except Rejected as reason:
            metrics.REJECTED.labels(str(reason)).inc()
            return None
        except ShieldUnavailable:
            return None
        return draft if passes else None

    def _known(self, brief: Brief) -> Brief:
        """The brief in a language that has approved texts; BadInput names what does not exist."""
        for field, value, known in (
            ("segment", brief.segment, SEGMENTS),
            ("offer", brief.offer, tuple(offer.id for offer in self.world.offers)),
            ("channel", brief.channel, tuple(self.world.channels)),
        ):
            if value not in known:
                raise BadInput(f"brief.{field} is {value!r}; expected one of {', '.join(known)}")
        if brief.language in self.books:
            return brief
        return brief.model_copy(update={"language": FALLBACK_LANGUAGE})

    def _answer(
        self, draft: str, source: pb.MessageSource.ValueType, message_id: str, propensity: float
    ) -> pb.GenerateResponse:
        return pb.GenerateResponse(
            draft=draft,
            source=source,
            message_id=message_id,
            propensity=propensity,
            model_version=self.engine.version,
        )
