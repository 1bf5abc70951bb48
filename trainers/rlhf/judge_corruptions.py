"""What the judge learns to dislike: faults of other kinds than the reward model's, made on the finished text.

They are mechanical (order, missing words, broken words, an end that is not there), or put the right words to the wrong
reader; the reward model's faults are written by people (`trainers.rlhf.corruptions`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random

from churnsaver.domain.world import World
from trainers.rlhf.corpus.grammar import phrases
from trainers.rlhf.corpus.scenarios import Scenario, scenario_of
from trainers.rlhf.examples import WrittenMessage

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"(?<![{\w])[A-Za-z']+(?![}\w])")


class Spoiler:
    """Spoils messages of one part; the same seed spoils them alike."""

    def __init__(self, messages: Sequence[WrittenMessage], world: World, rng: Random) -> None:
        self._messages, self._world, self._rng = messages, world, rng
        book = phrases("judge")
        self._generic: list[str] = book["generic"]
        self._registers: list[Mapping[str, str]] = book["register"]
        self.kinds: dict[str, Callable[[WrittenMessage], str]] = {
            "shuffled": self._shuffled,
            "other_reader": self._other_reader,
            "dropped_words": self._dropped_words,
            "garbled": self._garbled,
            "register": self._register,
            "generic": self._filled_up,
            "truncated": self._truncated,
            "repeated": self._repeated,
        }

    def _shuffled(self, message: WrittenMessage) -> str:
        """Sentences in another order."""
        found = _sentences(message.text)
        moved = found[:]
        while moved == found and len(set(found)) > 1:
            self._rng.shuffle(moved)
        return " ".join(moved)

    def _other_reader(self, message: WrittenMessage) -> str:
        """A good text for another segment, or for another reason to leave; the offer's purpose is the same."""
        own = scenario_of(message.brief, self._world)
        fits = {(other.segment, other.reason) for other in map(self._scenario, self._messages)}
        if len(fits) == 1:
            return self._shuffled(message)
        while True:
            other = self._rng.choice(self._messages)
            theirs = self._scenario(other)
            if theirs.channel == own.channel and (theirs.segment, theirs.reason) != (own.segment, own.reason):
                return other.text

    def _dropped_words(self, message: WrittenMessage) -> str:
        share = self._rng.uniform(0.1, 0.3)
        return re.sub(r" {2,}", " ", _WORD.sub(lambda w: "" if self._rng.random() < share else w.group(), message.text))

    def _garbled(self, message: WrittenMessage) -> str:
        """Words in which letters stand in another order, and words that changed places."""
        share = self._rng.uniform(0.1, 0.3)

        def garble(word: re.Match[str]) -> str:
            text = word.group()
            if len(text) < 3 or self._rng.random() > share:
                return text
            letters = list(text)
            self._rng.shuffle(letters)
            return "".join(letters)

        return _WORD.sub(garble, message.text)

    def _register(self, message: WrittenMessage) -> str:
        """As in a chat, or as an office writes."""
        words = self._rng.choice(self._registers)
        return _WORD.sub(lambda word: words.get(word.group().lower(), word.group()), message.text)

    def _filled_up(self, message: WrittenMessage) -> str:
        """Slogans in the place of what was to be said."""
        found = _sentences(message.text)
        middle = [i for i, sentence in enumerate(found) if "{" not in sentence and not sentence.startswith("Subject")]
        for i in middle or [0]:
            found[i] = (
                f"{found[i]} {self._rng.choice(self._generic)}" if not middle else self._rng.choice(self._generic)
            )
        return " ".join(found)

    def _truncated(self, message: WrittenMessage) -> str:
        words = message.text.split(" ")
        return " ".join(words[: max(3, int(len(words) * self._rng.uniform(0.3, 0.85)))])

    def _repeated(self, message: WrittenMessage) -> str:
        found = _sentences(message.text)
        again = self._rng.randrange(len(found))
        return " ".join([*found[: again + 1], *found[again:]])

    def _scenario(self, message: WrittenMessage) -> Scenario:
        return scenario_of(message.brief, self._world)


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence]
