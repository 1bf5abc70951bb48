"""What a draft earns: the reward model's word for it, as far as it is sure, and the rules that none may break.

- The ensemble's mean less k standard deviations: where its members disagree, drafts are unlike what they were trained
  on, and that is where a policy finds what only looks good (Coste et al. 2023, "Reward Model Ensembles Help Mitigate
  Overoptimization", https://arxiv.org/abs/2310.02743; their uncertainty-weighted optimisation, with its square root).
- The shield's rules are no preference: a draft that they stop earns the floor, and no draft that ended less.
- A draft that never ended loses a fixed penalty besides, stopped or not (Ziegler et al. 2019; `missing_eos_penalty` of
  TRL).
- Length has a band by channel, from the texts that people approved, and words outside it cost. A band, not the
  residual of the reward on length: with some dozen drafts an iteration that slope is noise, and a band says to a
  person what is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from churnsaver.domain.message import Brief
from churnsaver.domain.world import Frozen, World
from churnsaver.domain.writing import form_fault
from churnsaver.errors import BadInput
from churnsaver.safety.review import Policy, Review, Stage
from churnsaver.safety.rules import review_with_rules
from trainers.rlhf.examples import WrittenMessage

Floats = NDArray[np.float64]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Reward(Protocol):
    """A reward model."""

    def scores(self, briefs: Sequence[Brief], drafts: Sequence[str]) -> Floats:
        """(n, members), higher is better."""
        ...


class Filter(Protocol):
    """Rules that a draft passes or not."""

    def passes(self, brief: Brief, draft: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class ShieldFilter:
    """A draft's form, as the generator demands it, and the shield's fast rules, as it reviews drafts."""

    policy: Policy

    @classmethod
    def of(cls, world: World) -> Self:
        return cls(Policy.of(world))

    def passes(self, brief: Brief, draft: str) -> bool:
        if form_fault(draft, brief.channel):
            return False
        return not review_with_rules(Review(draft, Stage.DRAFT, brief.channel, brief.language), self.policy)


class RewardSettings(Frozen):
    """How scores become a reward.

    Attributes:
        disagreement: k, standard deviations of the ensemble that are taken off its mean.
        floor: what a draft earns that the rules stop, and the least that any earns that ended.
        no_end: penalty of a draft that did not end.
        word: penalty of each word outside its channel's band.
        band: quantiles of the approved texts' words that bound the band.
    """

    disagreement: NotNegative
    floor: Annotated[float, Field(lt=0, allow_inf_nan=False)]
    no_end: NotNegative
    word: NotNegative
    band: tuple[Annotated[float, Field(ge=0, lt=0.5)], Annotated[float, Field(gt=0.5, le=1)]]


Bands = Mapping[str, tuple[float, float]]


def length_bands(approved: Sequence[WrittenMessage], settings: RewardSettings) -> dict[str, tuple[float, float]]:
    """By channel, how few and how many words a draft may have for nothing."""
    words: dict[str, list[int]] = {}
    for message in approved:
        words.setdefault(message.brief.channel, []).append(len(message.text.split()))
    found = {}
    for channel, counts in sorted(words.items()):
        low, high = np.quantile(counts, settings.band)
        found[channel] = (float(low), float(high))
    return found


@dataclass(frozen=True, slots=True)
class Earned:
    """What drafts earned, (n,) each.

    Attributes:
        reward: all in all, which PPO maximises less the KL penalty.
        conservative: the ensemble's mean less k standard deviations.
        disagreement: the ensemble's standard deviation.
        passed: whether the rules let it pass.
    """

    reward: Floats
    conservative: Floats
    disagreement: Floats
    passed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Earnings:
    """All that decides what a draft earns."""

    model: Reward
    filter: Filter
    bands: Bands
    settings: RewardSettings

    def of(self, briefs: Sequence[Brief], drafts: Sequence[str], ended: Sequence[bool]) -> Earned:
        scores = np.asarray(self.model.scores(briefs, drafts), dtype=np.float64)
        if not np.isfinite(scores).all():
            raise BadInput("the reward model gives a score that is no number; train it again (`train rm`)")
        disagreement = scores.std(axis=1)
        conservative = scores.mean(axis=1) - self.settings.disagreement * disagreement
        passed = np.array([self.filter.passes(brief, draft) for brief, draft in zip(briefs, drafts, strict=True)])
        outside = np.array([self._outside(brief, draft) for brief, draft in zip(briefs, drafts, strict=True)])
        reward = np.maximum(conservative - self.settings.word * outside, self.settings.floor)
        reward = np.where(passed, reward, self.settings.floor)
        reward = reward - self.settings.no_end * ~np.asarray(ended, dtype=np.bool_)
        return Earned(reward, conservative, disagreement, passed)

    def _outside(self, brief: Brief, draft: str) -> float:
        """Words too few or too many."""
        low, high = self.bands.get(brief.channel, (0.0, np.inf))
        words = len(draft.split())
        return max(low - words, words - high, 0.0)
