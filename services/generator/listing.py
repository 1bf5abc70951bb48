"""The bank as people are shown it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from churnsaver.domain.message import Brief
from services.generator.message import BankMessage, Judgement, Judgements, Verdict
from services.generator.shelf import Shelf


class State(StrEnum):
    ACTIVE = "active"
    WAITING = "waiting"
    NEXT = "next"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Entry:
    """A message as people are shown it.

    Attributes:
        message: None where it was retired and only its draft is known.
        chance: the probability with which its brief gets it now.
    """

    brief: Brief
    message_id: str
    draft: str
    state: State
    message: BankMessage | None
    judgement: Judgement | None
    chance: float


def list_entries(wanted: Mapping[str, Brief], serving: Shelf, new: Shelf | None, judgements: Judgements) -> list[Entry]:
    """Everything that is held or was retired, in the order of `wanted`.

    Args:
        wanted: briefs by key.
        new: the shelf that is to take over from `serving`, if there is one.
    """
    by_brief: dict[str, list[Entry]] = {key: [] for key in wanted}
    for key, messages in serving:
        by_brief[key] += (_entry(wanted[key], each, serving, State.ACTIVE, judgements) for each in messages)
    if new is not None:
        for key, messages in new:
            # What both models have written is one message.
            unknown = (each for each in messages if serving.find(each.message_id) is None)
            by_brief[key] += (_entry(wanted[key], each, new, State.NEXT, judgements) for each in unknown)
    for judgement in judgements.all():
        if judgement.verdict is Verdict.RETIRED and (brief := wanted.get(judgement.brief)):
            retired = Entry(brief, judgement.message_id, judgement.draft, State.RETIRED, None, judgement, 0.0)
            by_brief[judgement.brief].append(retired)
    return [entry for found in by_brief.values() for entry in found]


def _entry(brief: Brief, message: BankMessage, shelf: Shelf, open_state: State, judgements: Judgements) -> Entry:
    id_ = message.message_id
    state = open_state if judgements.may_be_given_out(id_) else State.WAITING
    chance = shelf.chance(brief.key, id_) if state is State.ACTIVE else 0.0
    return Entry(brief, id_, message.draft, state, message, judgements.get(id_), chance)
