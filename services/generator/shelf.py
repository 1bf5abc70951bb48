"""The messages of one bank in memory, by brief. Choosing one is a look-up."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.generator.message import BankMessage, Judgements

# The policy draws its action from the same seed; what is mixed in makes the choice of the message independent of it.
CHOICE = 0x6D657373


@dataclass(frozen=True, slots=True)
class Choices:
    """The messages of a brief that may be chosen, with their chances and those added up."""

    messages: tuple[BankMessage, ...]
    chances: tuple[float, ...]
    cumulative: tuple[float, ...]


class Shelf:
    """Messages by brief, best first; what is retired leaves it.

    Args:
        judgements: what may be given out; tell `judged` when one is added.
        exploration: the share of choices that is uniform.
    """

    def __init__(self, judgements: Judgements, exploration: float) -> None:
        self._judgements, self._exploration = judgements, exploration
        self._held: dict[str, tuple[BankMessage, ...]] = {}
        self._choices: dict[str, Choices] = {}
        self._brief_of: dict[str, str] = {}

    def put(self, brief: str, messages: Iterable[BankMessage]) -> None:
        """Makes `messages` what is held for a brief, but for those that are retired."""
        for former in self.held(brief):
            del self._brief_of[former.message_id]
        kept = [message for message in messages if not self._judgements.is_retired(message.message_id)]
        kept.sort(key=lambda message: (-message.score, message.message_id))
        self._brief_of |= {message.message_id: brief for message in kept}
        self._held[brief] = tuple(kept)
        if not kept:
            del self._held[brief]
        open_ = tuple(each for each in kept if self._judgements.may_be_given_out(each.message_id))
        self._choices.pop(brief, None)
        if open_:
            chances = choice_chances(np.array([each.score for each in open_]), self._exploration)
            self._choices[brief] = Choices(open_, tuple(chances.tolist()), tuple(np.cumsum(chances).tolist()))

    def judged(self, message_id: str) -> None:
        """Looks again at a message about which something was decided."""
        if (brief := self._brief_of.get(message_id)) is not None:
            self.put(brief, self._held[brief])

    def choose(self, brief: str, seed: int) -> tuple[BankMessage, float] | None:
        """A message and the probability of choosing it, or None where there is none. Same seed, same message."""
        if (choices := self._choices.get(brief)) is None:
            return None
        at = np.random.Generator(np.random.PCG64((CHOICE, seed))).random() * choices.cumulative[-1]
        index = min(bisect(choices.cumulative, at), len(choices.messages) - 1)
        return choices.messages[index], choices.chances[index]

    def held(self, brief: str) -> tuple[BankMessage, ...]:
        """All messages of a brief, best first."""
        return self._held.get(brief, ())

    def chance(self, brief: str, message_id: str) -> float:
        """The probability with which a brief gets a message; 0 where it may not be chosen."""
        choices = self._choices.get(brief)
        found = zip(choices.messages, choices.chances, strict=True) if choices else ()
        return next((chance for message, chance in found if message.message_id == message_id), 0.0)

    def find(self, message_id: str) -> tuple[str, BankMessage] | None:
        """A message and the key of its brief."""
        if (brief := self._brief_of.get(message_id)) is None:
            return None
        return brief, next(each for each in self._held[brief] if each.message_id == message_id)

    def __iter__(self) -> Iterator[tuple[str, tuple[BankMessage, ...]]]:
        return iter(tuple(self._held.items()))

    @property
    def messages(self) -> int:
        return len(self._brief_of)

    @property
    def briefs(self) -> int:
        """How many have a message, whether it may be chosen or not."""
        return len(self._held)

    @property
    def briefs_served(self) -> int:
        """How many have a message that may be chosen."""
        return len(self._choices)


def choice_chances(scores: NDArray[np.float64], exploration: float) -> NDArray[np.float64]:
    """The probability of each message, (messages,).

    Rewards are log-odds of being preferred (Bradley-Terry), so their softmax chooses a message as often as people
    prefer it among all of the brief (Luce's choice rule, 1959; docs/adr/0021). A share of `exploration` goes to all
    alike, so that no message is too rare for what its outcomes say to be measured.
    """
    weights = np.exp(scores - scores.max())
    chances: NDArray[np.float64] = (1.0 - exploration) * weights / weights.sum() + exploration / len(scores)
    return chances
