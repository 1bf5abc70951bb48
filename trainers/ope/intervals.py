"""Intervals of ratios over decisions, with the decisions of one customer kept together.

Three kinds, because each fails elsewhere. BCa bootstrap (Efron 1987) follows the skew that large weights make;
the empirical Bernstein bound (Maurer & Pontil 2009, theorem 4) holds for any n where the terms' range is known,
and is wide; Student's t on the linearised ratio is for comparison. The range is taken from the terms as seen, as
OBP does too, so the Bernstein bound is no strict guarantee where a larger term was possible and never logged.

Which one is stated: the bootstrap, unless a handful of terms make up the variance. A resample cannot show the
rare, heavy events that the log happened to lack, so on few events (a rare churn, a click in two hundred) only the
wide interval is honest. How many terms make up the variance is n over their kurtosis, (Σd²)²/Σd⁴ of the deviations
d: for a yes/no outcome about the number of yeses. `tests/load/ope_coverage.py` measures both sides of MIN_TERMS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, t

from trainers.eval.metrics import CONFIDENCE
from trainers.ope.estimators import Ratio
from trainers.ope.logged import Floats, Ints

RESAMPLES = 1_000
MIN_TERMS = 100.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its three CONFIDENCE intervals, each (low, high).

    Attributes:
        terms: how many of the independent terms make up the variance.
    """

    value: float
    terms: float
    bootstrap: tuple[float, float]
    empirical_bernstein: tuple[float, float]
    student_t: tuple[float, float]

    @classmethod
    def of(cls, ratio: Ratio, drawn: Floats) -> Estimate:
        """A ratio of independent terms, and its `resampled` values."""
        return cls(
            ratio.value,
            variance_terms(ratio),
            bca_bootstrap(ratio, drawn),
            empirical_bernstein(ratio),
            student_t(ratio),
        )

    @property
    def stated(self) -> str:
        """The interval that is stated, by its name."""
        return "bootstrap" if self.terms >= MIN_TERMS else "empirical_bernstein"

    def as_dict(self) -> dict[str, Any]:
        """`low` and `high` are the stated interval's, and all three stand beside them."""
        kinds = ("bootstrap", "empirical_bernstein", "student_t")
        intervals = {kind: dict(zip(("low", "high"), getattr(self, kind), strict=True)) for kind in kinds}
        return {
            "value": self.value,
            **intervals[self.stated],
            "interval": self.stated,
            "terms": self.terms if self.terms < float("inf") else None,
        } | intervals


def estimates(ratios: Mapping[str, Ratio], clusters: Ints, seed: int) -> dict[str, Estimate]:
    """Each ratio with its intervals, all from the same resamples of customers."""
    sums = {name: _cluster_sums(ratio, clusters) for name, ratio in ratios.items()}
    drawn = resampled(list(sums.values()), seed)
    return {name: Estimate.of(sums[name], drawn[:, j]) for j, name in enumerate(ratios)}


def resampled(ratios: Sequence[Ratio], seed: int) -> Floats:
    """Each ratio over RESAMPLES draws of its independent terms with replacement, (resamples, ratios)."""
    rng, n = np.random.default_rng(seed), len(ratios[0].numerator)
    columns = np.column_stack([part for ratio in ratios for part in (ratio.numerator, ratio.denominator)])
    sums = np.array([np.bincount(rng.integers(n, size=n), minlength=n) @ columns for _ in range(RESAMPLES)])
    return np.asarray(sums[:, ::2] / np.maximum(sums[:, 1::2], np.finfo(float).tiny), dtype=np.float64)


def _cluster_sums(ratio: Ratio, clusters: Ints) -> Ratio:
    """Sums over each customer's decisions, (customers,)."""
    numerator, denominator = (
        np.asarray(np.bincount(clusters, weights=part), dtype=np.float64)
        for part in (ratio.numerator, ratio.denominator)
    )
    return Ratio(numerator, denominator)


def linearised(ratio: Ratio) -> Floats:
    """Independent terms whose mean is the ratio, (n,): its influence function, moved to its value."""
    value = ratio.value
    terms = value + (ratio.numerator - value * ratio.denominator) / ratio.denominator.mean()
    return np.asarray(terms, dtype=np.float64)


def variance_terms(ratio: Ratio) -> float:
    """(Σd²)²/Σd⁴ of the terms' deviations d: n over the kurtosis; inf where all are equal."""
    squares = (linearised(ratio) - ratio.value) ** 2
    fourth = float((squares**2).sum())
    return float(squares.sum()) ** 2 / fourth if fourth > 0 else float("inf")


def student_t(ratio: Ratio) -> tuple[float, float]:
    """Student's t over independent terms."""
    terms, n = linearised(ratio), len(ratio.numerator)
    margin = t.ppf((1.0 + CONFIDENCE) / 2.0, n - 1) * terms.std(ddof=1) / np.sqrt(n)
    return float(terms.mean() - margin), float(terms.mean() + margin)


def empirical_bernstein(ratio: Ratio) -> tuple[float, float]:
    """Maurer & Pontil 2009, theorem 4, once for each side: √(2 V ln(2/δ)/n) + 7 R ln(2/δ)/(3(n - 1))."""
    terms, n = linearised(ratio), len(ratio.numerator)
    log = np.log(2.0 / ((1.0 - CONFIDENCE) / 2.0))
    margin = np.sqrt(2.0 * terms.var(ddof=1) * log / n) + 7.0 * np.ptp(terms) * log / (3.0 * (n - 1))
    return float(terms.mean() - margin), float(terms.mean() + margin)


def bca_bootstrap(ratio: Ratio, drawn: Floats) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap (Efron 1987) from the ratio's `resampled` values."""
    deviations = linearised(ratio) - ratio.value
    scale = float((deviations**2).sum())
    if scale < np.finfo(float).tiny:  # every customer says the same
        return ratio.value, ratio.value
    acceleration = float((deviations**3).sum()) / (6.0 * scale**1.5)
    below = np.clip(np.mean(drawn < ratio.value) + np.mean(drawn == ratio.value) / 2.0, 1e-3, 1.0 - 1e-3)
    bias = norm.ppf(below)
    low, high = (_bca_level(bias, acceleration, level) for level in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(np.quantile(drawn, low)), float(np.quantile(drawn, high))


def _bca_level(bias: float, acceleration: float, level: float) -> float:
    """Which quantile of the resamples stands at this level of the interval."""
    shifted = bias + norm.ppf(level)
    return float(norm.cdf(bias + shifted / max(1.0 - acceleration * shifted, 1e-3)))
