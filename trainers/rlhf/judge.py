"""The judge that says whether tuning helped: independent of the reward model in data, features and faults.

- Texts: the reward model's are of the training part's scenarios, the judge's of the validation part's.
- Public data, where a person has them: Upworthy headlines and polite requests there, SMS spam here.
- Features: a sentence encoder's, learned, there; figures that a person can count here (`judge_features.FEATURES`).
- Faults: wrong offer, vague, pushy, non-compliant, padded there; here sentences shuffled, a text for another reader,
  words dropped or garbled, another register, slogans, cut off, repeated (`judge_corruptions`).

It is a Bradley-Terry model, linear in the features. Length is one of them while it is fitted, so that none of the
others has to stand for it, and is left out of the score (a nuisance covariate). It shares the corpus's grammar with the
reward model, as both judge messages of one kind, and it is no person: it knows what is complete, for its reader and
well formed, not what is charming. Validation scenarios also fit the reward's centre and temperature, which changes no
order; and a few texts of the grammar come up on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from churnsaver.domain.message import Brief
from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.settings import load_world
from trainers.data.csv_reader import read_csv
from trainers.rlhf.corpus import make_corpus
from trainers.rlhf.examples import Preference, WrittenMessage
from trainers.rlhf.judge_corruptions import Spoiler
from trainers.rlhf.judge_features import FEATURES, LENGTH, FeatureMaker, WordOdds
from trainers.rlhf.win_rate import win_rate

__all__ = ["Judge", "judge_pairs", "win_rate"]

SPAM = "sms_spam.csv"
ROUNDS = 2  # how often each text is spoiled in each way
INVERSE_PENALTY = 1.0


@dataclass(frozen=True, slots=True)
class Judge:
    """Scores texts for briefs.

    Attributes:
        features: computes them.
        weights: by FEATURES, that of the length 0.
    """

    features: FeatureMaker
    weights: NDArray[np.float64]

    @classmethod
    def train(cls, seed: int, data_dir: Path | None = None, world: World | None = None) -> Self:
        """Fits the judge on the corpus's validation scenarios.

        Args:
            data_dir: folder of public data with SPAM; None is a judge that knows no spam.

        Raises:
            BadInput: `data_dir` has no such file, or it is none.
        """
        spam, world = _spam_odds(data_dir), world or load_world()
        messages = make_corpus(seed, world).valid
        # What the features count and what they are weighed on are different texts, or every text would look familiar.
        counted, weighed = messages[::2], messages[1::2]
        features = FeatureMaker.learn(counted, weighed, world, spam)
        pairs = judge_pairs(weighed, world, seed)
        difference = _differences(features, pairs)
        sign = np.where(np.arange(len(pairs)) % 2, 1.0, -1.0)
        scale = np.maximum(difference.std(axis=0), 1e-6)
        model = LogisticRegression(C=INVERSE_PENALTY, fit_intercept=False, max_iter=1000)
        model.fit(sign[:, None] * difference / scale, sign > 0)
        weights = model.coef_[0] / scale
        weights[LENGTH] = 0.0
        return cls(features, weights)

    def score(self, briefs: Sequence[Brief], texts: Sequence[str]) -> NDArray[np.float64]:
        """How good each text is for its brief, shape (n,); the difference of two is the log-odds of preference."""
        return np.asarray(self.features.of(briefs, texts) @ self.weights, dtype=np.float64)

    def accuracy(self, pairs: Sequence[Preference]) -> dict[str, float]:
        """Share of pairs of each kind in which the chosen text scores higher, ties half."""
        difference = _differences(self.features, pairs) @ self.weights
        right = (difference > 0) + 0.5 * (difference == 0)
        kinds = np.array([pair.kind for pair in pairs])
        return {kind: float(right[kinds == kind].mean()) for kind in dict.fromkeys(kinds.tolist())}

    def describe(self) -> dict[str, float]:
        """The weight of each feature."""
        return dict(zip(FEATURES, map(float, self.weights), strict=True))


def judge_pairs(messages: Sequence[WrittenMessage], world: World, seed: int) -> list[Preference]:
    """Approved texts against spoiled ones of the same brief, of every kind; no text in both roles of a pair."""
    rng = Random(seed)  # noqa: S311 - it decides how texts are spoiled
    spoiler = Spoiler(messages, world, rng)
    return [
        Preference(brief=message.brief, chosen=message.text, rejected=spoiled, kind=kind)
        for message in messages
        for kind, spoil in spoiler.kinds.items()
        for _ in range(ROUNDS)
        if (spoiled := spoil(message)) != message.text
    ]


def _differences(features: FeatureMaker, pairs: Sequence[Preference]) -> NDArray[np.float64]:
    briefs = [pair.brief for pair in pairs if pair.brief is not None]
    if len(briefs) < len(pairs):
        raise BadInput("the judge compares texts for a brief, and a pair has none")
    chosen = features.of(briefs, [pair.chosen for pair in pairs])
    return chosen - features.of(briefs, [pair.rejected for pair in pairs])


def _spam_odds(folder: Path | None) -> WordOdds | None:
    if folder is None:
        return None
    if not (folder / SPAM).is_file():
        raise BadInput(f"{folder}: has no {SPAM}; name a folder that has it, or leave out --public")
    raw = read_csv(folder / SPAM)
    if missing := {"label", "text"} - set(raw.cells.columns):
        raise BadInput(f"{raw.path}: has no column {min(missing)!r}; expected label and text")
    return WordOdds(raw.cells.select("label", "text").iter_rows())
