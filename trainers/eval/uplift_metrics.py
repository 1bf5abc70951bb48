"""How well customers are ordered by uplift: Qini, AUUC and uplift at k, with intervals.

The numbers are those of scikit-uplift 0.5.1 (`qini_auc_score`, `uplift_auc_score`, `uplift_at_k`), to 1e-9. Each
takes weights, which count how often a row was drawn: a bootstrap sorts once, and draws a thousand times. Where
propensities vary, each row counts `Trial.mass` times, without which the arms hold different customers and the order
by response looks like uplift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from trainers.eval.metrics import BOOTSTRAP_REPLICATES, Bools, Floats, Interval, percentile_interval

AT_PERCENTS = (10, 20, 30)


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a curve over the customers contacted, the best first; both (points,), beginning at (0, 0).

    Attributes:
        contacted: how many.
        gained: how many more outcomes than without.
    """

    contacted: Floats
    gained: Floats

    def area_over_random(self) -> float:
        """Area between the curve and the straight line to its end."""
        return float(np.trapezoid(self.gained, self.contacted) - 0.5 * self.contacted[-1] * self.gained[-1])


class Ranking:
    """The rows of a trial from the highest score to the lowest.

    Args:
        outcome, treatment: (n,).
        score: (n,); rows with the same score are one point of a curve.
        mass: (n,) how many customers each row stands for, `Trial.mass`.
    """

    def __init__(self, outcome: Bools, treatment: Bools, score: Floats, mass: Floats | None = None) -> None:
        self._mass = mass
        # Reversed, so that ties stand as they do in scikit-uplift; only uplift at k depends on it.
        self.order = np.argsort(score, kind="stable")[::-1]
        self._outcome = outcome[self.order].astype(np.float64)
        self._treatment = treatment[self.order].astype(np.float64)
        # Each row's place among the distinct scores, times the four kinds of rows.
        distinct, place = np.unique(-score, return_inverse=True)
        self._points, self._cells = len(distinct), 4 * place + 2 * treatment + outcome

    def qini_curve(self, weights: Floats | None = None) -> Curve:
        """Outcomes of the treated − outcomes of the others, scaled to as many. Radcliffe (2007)."""
        treated, control, treated_yes, control_yes = self._counts(weights)
        gained = treated_yes - control_yes * _ratio(treated, control)
        return Curve(np.r_[0.0, treated + control], np.r_[0.0, gained])

    def uplift_curve(self, weights: Floats | None = None) -> Curve:
        """(Rate of the treated − rate of the others) × customers. Devriendt, Guns, Verbeke (2020)."""
        treated, control, treated_yes, control_yes = self._counts(weights)
        gained = (_ratio(treated_yes, treated) - _ratio(control_yes, control)) * (treated + control)
        return Curve(np.r_[0.0, treated + control], np.r_[0.0, gained])

    def at(self, share: float, weights: Floats | None = None) -> float:
        """Rate of the treated − rate of the others among the best `share`; `uplift_at_k(strategy="overall")`."""
        counted = self._counted(weights)
        drawn = np.ones(len(self.order)) if counted is None else counted[self.order]
        before = np.cumsum(drawn) - drawn
        kept = np.clip(np.floor(drawn.sum() * share) - before, 0.0, drawn)
        treated, control = kept * self._treatment, kept * (1.0 - self._treatment)
        rates = [arm @ self._outcome / max(arm.sum(), 1.0) for arm in (treated, control)]
        return float(rates[0] - rates[1])

    def _counts(self, weights: Floats | None) -> tuple[Floats, Floats, Floats, Floats]:
        """Treated, others, and the yes of each, up to the end of every distinct score, (points,) each."""
        cells = np.bincount(self._cells, self._counted(weights), 4 * self._points).reshape(self._points, 4)
        control_no, control_yes, treated_no, treated_yes = np.cumsum(cells, axis=0, dtype=np.float64).T
        return treated_no + treated_yes, control_no + control_yes, treated_yes, control_yes

    def _counted(self, weights: Floats | None) -> Floats | None:
        """How often each row counts, (n,), drawn `weights` times; None where once."""
        if self._mass is None or weights is None:
            return self._mass if weights is None else weights
        return self._mass * weights


Measure = Callable[[Ranking, Floats | None], float]


class Judge:
    """Measures orderings of the same rows; `outcome`, `treatment` and `mass` (`Trial.mass`) are (n,)."""

    def __init__(self, outcome: Bools, treatment: Bools, mass: Floats | None = None) -> None:
        self.outcome, self.treatment, self._mass = outcome, treatment, mass
        yes, contacted = outcome.astype(np.float64), treatment.astype(np.float64)
        # The best order there could be: with negative effects, whoever said yes untreated comes last.
        self._perfect_qini = self.ranking(yes * (2.0 * contacted - 1.0))
        no_treated = int((treatment & ~outcome).sum())
        more_control_yes = int((outcome & ~treatment).sum()) > no_treated
        self._perfect_uplift = self.ranking(2.0 * (outcome == treatment) + (yes if more_control_yes else contacted))

    def ranking(self, score: Floats) -> Ranking:
        """These rows by `score`, (n,)."""
        return Ranking(self.outcome, self.treatment, score, self._mass)

    def qini(self, ranking: Ranking, weights: Floats | None = None) -> float:
        """Area of the Qini curve over random, as a share of the perfect curve's; `qini_auc_score`."""
        perfect = self._perfect_qini.qini_curve(weights).area_over_random()
        return _share(ranking.qini_curve(weights).area_over_random(), perfect)

    def auuc(self, ranking: Ranking, weights: Floats | None = None) -> float:
        """Area of the uplift curve over random, as a share of the perfect curve's; `uplift_auc_score`."""
        perfect = self._perfect_uplift.uplift_curve(weights).area_over_random()
        return _share(ranking.uplift_curve(weights).area_over_random(), perfect)

    def measure(self, score: Floats, seed: int) -> dict[str, Interval]:
        """Every metric of the order by `score`, (n,), with percentile intervals over rows drawn again."""
        ranking = self.ranking(score)
        measured: dict[str, Measure] = {"qini": self.qini, "auuc": self.auuc}
        measured |= {f"uplift_at_{percent}": _at(percent / 100.0) for percent in AT_PERCENTS}
        draws = list(self.draws(seed))
        return {
            name: percentile_interval(metric(ranking, None), [metric(ranking, weights) for weights in draws])
            for name, metric in measured.items()
        }

    def qini_gain(self, ours: Floats, theirs: Floats, seed: int) -> Interval:
        """Qini of the order by `ours` − that by `theirs`, with a paired percentile interval."""
        one, other = self.ranking(ours), self.ranking(theirs)
        gains = [self.qini(one, weights) - self.qini(other, weights) for weights in self.draws(seed)]
        return percentile_interval(self.qini(one) - self.qini(other), gains)

    def draws(self, seed: int) -> Iterator[Floats]:
        """How often each row was drawn, (n,), with replacement within each arm: the experiment fixed their sizes."""
        rng = np.random.default_rng(seed)
        arms = [np.flatnonzero(self.treatment), np.flatnonzero(~self.treatment)]
        for _ in range(BOOTSTRAP_REPLICATES):
            weights = np.zeros(len(self.treatment))
            for rows in arms:
                weights[rows] = np.bincount(rng.integers(len(rows), size=len(rows)), minlength=len(rows))
            yield weights


def _at(share: float) -> Measure:
    return lambda ranking, weights: ranking.at(share, weights)


def _share(area: float, perfect: float) -> float:
    """0 where even the perfect order gains nothing, as when no row says yes: no order is better than another."""
    return area / perfect if perfect > 0.0 else 0.0


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """0 where nobody is counted, as in scikit-uplift."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
