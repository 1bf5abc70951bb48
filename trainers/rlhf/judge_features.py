"""What the judge looks at: figures of a text that a person can check by hand, no embedding and no language model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.message import SLOTS, Brief, slots_in
from churnsaver.domain.world import World
from churnsaver.domain.writing import SUBJECT, SUBJECT_CHANNELS
from trainers.rlhf.corpus.scenarios import Scenario, scenario_of
from trainers.rlhf.examples import WrittenMessage

_TOKEN = re.compile(r"\{[a-z_]+\}|[a-z']+|[.!?,;:]")
_WORD = re.compile(r"[a-z']+")
_SENTENCE = re.compile(r"[^.!?\n]+")
_YOU, _WE = frozenset({"you", "your", "yours"}), frozenset({"we", "us", "our", "ours"})
_SMOOTHING = 0.5

FEATURES = (
    "fits_brief",  # how much more its words are those of its segment, reason, purpose and tone than of any other
    "worst_fit",  # the same for the field that it fits least
    "slots",  # of the four, how many stand exactly once
    "slot_order",  # name first, opt-out last
    "form",  # a subject where the channel has one, and nowhere else; ends whole
    "familiar_pairs",  # share of its neighbouring words that stood together in an approved text, up to what most reach
    "known_words",  # share of its words that stood in an approved text, likewise
    "repetition",  # share of its word pairs that stand in it twice or more
    "sentence_words",  # mean words a sentence, as distance from approved texts
    "word_letters",  # mean letters a word, likewise
    "you_share",  # of pronouns, those that speak to the reader
    "spam",  # log-odds a word of being spam, learned from sms_spam.csv; 0 without it
    "log_words",  # length: fitted, so that no other figure has to stand for it, and then left out of the score
)
LENGTH = FEATURES.index("log_words")
CAPPED = ("familiar_pairs", "known_words")
PERCENT_BELOW_ENOUGH = 20


class WordOdds:
    """Naive Bayes on words: which of some classes a text's words belong to."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        """Counts words of `(class, text)`, each word once a text."""
        self._counts: dict[str, Counter[str]] = {}
        for label, text in texts:
            self._counts.setdefault(label, Counter()).update(set(_WORD.findall(text.lower())))
        self._totals = {label: sum(counts.values()) for label, counts in self._counts.items()}
        self._vocabulary = len(set().union(*self._counts.values())) if self._counts else 0

    def advantage(self, text: str, label: str) -> float:
        """Mean log-odds a word of `label` against the best other class; 0 where the text has no words."""
        words = set(_WORD.findall(text.lower()))
        if not words or label not in self._counts or len(self._counts) < 2:
            return 0.0
        scores = {
            other: sum(
                math.log((counts[word] + _SMOOTHING) / (self._totals[other] + _SMOOTHING * self._vocabulary))
                for word in words
            )
            for other, counts in self._counts.items()
        }
        own = scores.pop(label)
        return (own - max(scores.values())) / len(words)


@dataclass(frozen=True, slots=True)
class FeatureMaker:
    """Computes FEATURES; what it counts, it counted in approved texts of the validation scenarios.

    Attributes:
        fields: naive Bayes by field of a scenario, in `Scenario`'s order, without the channel.
        pairs: neighbouring tokens of approved texts.
        norms: mean words a sentence and mean letters a word of approved texts.
        spam: from public data; None without them.
        enough: shares of familiar pairs and of known words beyond which more is no better, so that a text earns
            nothing by being the most usual one.
    """

    world: World
    fields: Mapping[str, WordOdds]
    words: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    norms: tuple[float, float]
    spam: WordOdds | None
    enough: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def learn(
        cls,
        counted: Sequence[WrittenMessage],
        others: Sequence[WrittenMessage],
        world: World,
        spam: WordOdds | None,
    ) -> Self:
        """Counts the words of `counted`, and sees by `others` how familiar approved texts are that it did not count."""
        maker = cls._count(counted, world, spam)
        rows = maker.of([message.brief for message in others], [message.text for message in others])
        familiar = rows[:, [FEATURES.index(name) for name in CAPPED]]
        enough = np.percentile(familiar, PERCENT_BELOW_ENOUGH, axis=0)
        return replace(maker, enough=(float(enough[0]), float(enough[1])))

    @classmethod
    def _count(cls, messages: Sequence[WrittenMessage], world: World, spam: WordOdds | None) -> Self:
        on = [scenario_of(message.brief, world) for message in messages]
        fields = {
            field: WordOdds((getattr(scenario, field), m.text) for scenario, m in zip(on, messages, strict=True))
            for field in Scenario._fields
            if field != "channel"
        }
        tokens = [_TOKEN.findall(message.text.lower()) for message in messages]
        pairs = frozenset(pair for each in tokens for pair in pairwise(each))
        words = frozenset(token for each in tokens for token in each)
        norms = np.mean([_sizes(message.text) for message in messages], axis=0)
        return cls(world, fields, words, pairs, (float(norms[0]), float(norms[1])), spam)

    def of(self, briefs: Sequence[Brief], texts: Sequence[str]) -> NDArray[np.float64]:
        """FEATURES of each text for its brief, shape (n, len(FEATURES))."""
        return np.array([self._row(brief, text) for brief, text in zip(briefs, texts, strict=True)]).reshape(
            len(texts), len(FEATURES)
        )

    def _row(self, brief: Brief, text: str) -> list[float]:
        on = scenario_of(brief, self.world)
        fits = [odds.advantage(text, getattr(on, field)) for field, odds in self.fields.items()]
        tokens = _TOKEN.findall(text.lower())
        words = [token for token in tokens if token[0].isalpha()]
        pairs = Counter(pairwise(tokens))
        n_pairs = max(pairs.total(), 1)
        slots = slots_in(text)
        counts = Counter(slots)
        per_sentence, per_word = _sizes(text)
        you, we = sum(word in _YOU for word in words), sum(word in _WE for word in words)
        return [
            float(np.mean(fits)),
            min(fits),
            sum(counts[name] == 1 for name in SLOTS) / len(SLOTS),
            float(slots[:1] == ["first_name"]) + float(slots[-1:] == ["opt_out"]),
            self._form(brief, text),
            min(sum(n for pair, n in pairs.items() if pair in self.pairs) / n_pairs, self.enough[0]),
            min(sum(token in self.words for token in tokens) / max(len(tokens), 1), self.enough[1]),
            sum(n for n in pairs.values() if n > 1) / n_pairs,
            abs(math.log(per_sentence / self.norms[0])),
            abs(math.log(per_word / self.norms[1])),
            you / max(you + we, 1),
            self.spam.advantage(text, "spam") if self.spam else 0.0,
            math.log1p(len(words)),
        ]

    @staticmethod
    def _form(brief: Brief, text: str) -> float:
        subject = text.startswith(SUBJECT) == (brief.channel in SUBJECT_CHANNELS)
        paragraphs = ("\n\n" in text.strip()) == (brief.channel in SUBJECT_CHANNELS)
        return float(subject) + float(paragraphs) + float(text.rstrip().endswith(("}", ".", "!", "?")))


def _sizes(text: str) -> tuple[float, float]:
    """Mean words a sentence and mean letters a word, each at least 1."""
    sentences = [found for found in map(_WORD.findall, _SENTENCE.findall(text.lower())) if found]
    words = [word for sentence in sentences for word in sentence]
    if not words:
        return 1.0, 1.0
    return len(words) / len(sentences), sum(map(len, words)) / len(words)
