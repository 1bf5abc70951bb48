"""A message of the bank, and what is held of it: by people, or by what its outcomes say."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import FiniteFloat

from churnsaver.domain.message import Brief

EVIDENCE = "evidence"  # who retires what draws more opt-outs than its siblings


@dataclass(frozen=True, slots=True)
class BankMessage:
    """One message that was written ahead and passed by the shield.

    Attributes:
        score: the reward that ranks it (see `ranking`), higher is better.
        model: version of the model that wrote it.
        written_at: Unix time in seconds.
    """

    message_id: str
    draft: str
    score: FiniteFloat
    model: str
    written_at: FiniteFloat


class Verdict(StrEnum):
    APPROVED = "approved"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided about a message, by whom and why.

    Attributes:
        brief: key of its brief.
        at: Unix time in seconds.
    """

    message_id: str
    verdict: Verdict
    by: str
    reason: str
    at: FiniteFloat
    brief: str
    draft: str


class Judgements:
    """Everything that was decided about messages. A message that is retired stays so, whatever comes later.

    Attributes:
        needs_approval: whether a person approves each message before it is given out.
    """

    def __init__(self, approval: Literal["none", "person"]) -> None:
        self.needs_approval = approval == "person"
        self._by_id: dict[str, Judgement] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, judgement: Judgement) -> None:
        """Remembers a judgement, unless the message is retired already."""
        if not self.is_retired(judgement.message_id):
            self._by_id[judgement.message_id] = judgement

    def get(self, message_id: str) -> Judgement | None:
        return self._by_id.get(message_id)

    def all(self) -> tuple[Judgement, ...]:
        return tuple(self._by_id.values())

    def is_retired(self, message_id: str) -> bool:
        found = self._by_id.get(message_id)
        return found is not None and found.verdict is Verdict.RETIRED

    def may_be_given_out(self, message_id: str) -> bool:
        """Whether it is not retired, and approved where that is asked for."""
        found = self._by_id.get(message_id)
        return not self.needs_approval if found is None else found.verdict is Verdict.APPROVED


def message_id(brief: Brief, draft: str) -> str:
    """The same words for the same brief are the same message, whoever writes them."""
    return id_of(brief.key, draft)


def id_of(brief: str, draft: str) -> str:
    """The same, for the key of a brief."""
    return hashlib.sha256(f"{brief}|{draft}".encode()).hexdigest()[:12]
