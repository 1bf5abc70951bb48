"""How a brief and a draft become one input of the reward model. Trainers and services encode here alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from tokenizers import Encoding, Tokenizer

from churnsaver.domain.message import Brief
from churnsaver.domain.world import Frozen, World
from churnsaver.domain.writing import CUSTOMERS, PURPOSES, REASONS, TONES


class RewardShape(Frozen):
    """What scoring needs to know besides weights.

    Attributes:
        members: of the ensemble.
        max_tokens: of brief and draft together; what is longer is cut off at the draft's end.
        purposes: of each offer, by its id: the brief is told the purpose, as the writer is.
    """

    members: Annotated[int, Field(ge=1)]
    max_tokens: Annotated[int, Field(ge=16)]
    purposes: dict[str, str]


class PairEncoder:
    """Token ids of pairs of brief and draft: [CLS] brief [SEP] draft [SEP], with segment ids 0 and 1.

    A text that was written for none of our briefs has an empty one.
    """

    def __init__(self, tokenizer: Tokenizer, shape: RewardShape) -> None:
        self._shape = shape
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(shape.max_tokens, strategy="only_second")

    def told_of(self, world: World) -> PairEncoder:
        """The same, for briefs of this world's offers."""
        purposes = {offer.id: offer.purpose for offer in world.offers}
        return PairEncoder(self._tokenizer, self._shape.model_copy(update={"purposes": purposes}))

    def encode(self, briefs: Sequence[Brief | None], drafts: Sequence[str]) -> list[Encoding]:
        """The pairs' encodings, with `ids` and `type_ids`, unpadded.

        Raises:
            KeyError: a brief names an offer that is neither of the training's world nor of `told_of`'s.
        """
        told = [self.told(brief) for brief in briefs]
        return list(self._tokenizer.encode_batch(list(zip(told, drafts, strict=True))))

    def told(self, brief: Brief | None) -> str:
        """What the model is told of a brief, in words: all that a good draft depends on."""
        if brief is None:
            return ""
        return (
            f"{brief.channel}, {TONES[brief.tone]}, a customer who {CUSTOMERS[brief.segment]}, "
            f"reason: {REASONS[brief.reason]}, offer: {PURPOSES[self._shape.purposes[brief.offer]]}"
        )
