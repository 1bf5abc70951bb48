"""The arena: any number of policies over the same campaigns, each pair compared, all ranked.

Policies meet the same luck (common random numbers), so a difference is one of pairs, and its interval is a
paired bootstrap over customers and campaigns. k policies make k (k - 1) / 2 pairs, and with many pairs one of them
looks different by chance; the simultaneous intervals are wide enough for all pairs at once (max-T: Westfall & Young
1993, Romano & Wolf 2005). What they tell apart gives each policy the ranks that it may have (Mogstad, Romano,
Shaikh & Wilhelm 2024, "Inference for ranks").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from trainers.env.response import Floats
from trainers.eval.metrics import CONFIDENCE, Interval
from trainers.eval.play import Play
from trainers.eval.resample import TwoWayBootstrap, percentile_interval


@dataclass(frozen=True, slots=True)
class Pair:
    """How much more `first` gains than `second`, $ a customer and campaign.

    Attributes:
        gain: with its own paired interval.
        simultaneous: the same difference with an interval that holds for all pairs at once.
        as_drawn: of the money as drawn, which is noisier, with its own paired interval.
    """

    first: str
    second: str
    gain: Interval
    simultaneous: Interval
    as_drawn: Interval


@dataclass(frozen=True, slots=True)
class Standing:
    """A policy's gain over contacting nobody, and the ranks that it may have, 1 for the best."""

    policy: str
    gain: Interval
    best_rank: int
    worst_rank: int


@dataclass(frozen=True, slots=True)
class Arena:
    """Standings, the best first, and every pair of them, the better one first."""

    standings: list[Standing]
    pairs: list[Pair]

    def pair(self, first: str, second: str) -> Pair:
        """`first` against `second`, whichever is better; KeyError where one did not play."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
            if (pair.first, pair.second) == (second, first):
                return Pair(first, second, _turned(pair.gain), _turned(pair.simultaneous), _turned(pair.as_drawn))
        raise KeyError(f"{first} against {second}")

    def as_dict(self) -> dict[str, Any]:
        return {
            "standings": [
                {"policy": s.policy, "gain_usd": s.gain.as_dict(), "ranks": [s.best_rank, s.worst_rank]}
                for s in self.standings
            ],
            "pairs": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "difference_usd": pair.gain.as_dict(),
                    "simultaneous": pair.simultaneous.as_dict(),
                    "as_drawn": pair.as_drawn.as_dict(),
                }
                for pair in self.pairs
            ],
        }


def compare(plays: Mapping[str, Play], bootstrap: TwoWayBootstrap) -> Arena:
    """Ranks policies that played the same campaigns over the same customers."""
    gains = {name: played.gain_usd for name, played in plays.items()}  # (campaigns, customers)
    drawn = {name: played.value_usd for name, played in plays.items()}
    order = sorted(gains, key=lambda name: -float(gains[name].mean()))
    couples = list(combinations(order, 2))
    differences = np.stack([gains[first] - gains[second] for first, second in couples], axis=2)
    values, replicates = differences.mean(axis=(0, 1)), bootstrap.means(differences)
    together = simultaneous_intervals(values, replicates)
    pairs = [
        Pair(
            *couple,
            percentile_interval(float(values[i]), replicates[:, i]),
            together[i],
            bootstrap.mean(drawn[couple[0]] - drawn[couple[1]]),
        )
        for i, couple in enumerate(couples)
    ]
    standings = [_standing(name, order, pairs, bootstrap.mean(gains[name])) for name in order]
    return Arena(standings, pairs)


def simultaneous_intervals(values: Floats, replicates: Floats) -> list[Interval]:
    """Intervals of `values` (k,) that all hold at once with CONFIDENCE: each ± the same number of standard errors.

    That number is the quantile of the largest studentised deviation among the k in each of the `replicates`
    (resamples, k); a difference without any spread has an interval without any width.
    """
    errors = replicates.std(axis=0)
    deviations = np.abs(replicates - values) / np.where(errors > 0, errors, np.inf)
    reach = float(np.quantile(deviations.max(axis=1), CONFIDENCE)) * errors
    return [
        Interval(float(value), float(value - half), float(value + half))
        for value, half in zip(values, reach, strict=True)
    ]


def _standing(name: str, order: list[str], pairs: list[Pair], gain: Interval) -> Standing:
    better = sum(pair.second == name and pair.simultaneous.low > 0 for pair in pairs)
    worse = sum(pair.first == name and pair.simultaneous.low > 0 for pair in pairs)
    return Standing(name, gain, 1 + better, len(order) - worse)


def _turned(interval: Interval) -> Interval:
    return Interval(-interval.value, -interval.high, -interval.low)
