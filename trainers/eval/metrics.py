"""How good probabilities of a yes are, and how sure one can be of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Metric = Callable[[Bools, Floats], float]

ECE_BINS = 10
BOOTSTRAP_REPLICATES = 1000
CONFIDENCE = 0.95
# Log-loss of a certain and wrong prediction is infinite; probabilities are kept this far from 0 and 1.
LOG_LOSS_EDGE = 1e-12


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its CONFIDENCE interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def auc(target: Bools, probability: Floats) -> float:
    """Probability that a random yes ranks above a random no; ties count half. Mann-Whitney U, scaled."""
    _, inverse, counts = np.unique(probability, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - 0.5 * (counts - 1)
    positives = int(target.sum())
    negatives = len(target) - positives
    rank_sum = float(mean_rank[inverse][target].sum())
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)


def brier(target: Bools, probability: Floats) -> float:
    """Mean squared error of the probability."""
    return float(np.mean((probability - target) ** 2))


def log_loss(target: Bools, probability: Floats) -> float:
    """Mean negative log-likelihood, in nats."""
    clipped = np.clip(probability, LOG_LOSS_EDGE, 1.0 - LOG_LOSS_EDGE)
    return float(-np.mean(np.where(target, np.log(clipped), np.log1p(-clipped))))


def ece(target: Bools, probability: Floats) -> float:
    """Expected calibration error over ECE_BINS bins of equal width (Naeini et al. 2015)."""
    bins = np.minimum((probability * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=probability - target, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(target))


METRICS: dict[str, Metric] = {"auc": auc, "brier": brier, "ece": ece, "log_loss": log_loss}


def ece_floor(probability: Floats, seed: int, replicates: int = 200) -> tuple[float, float]:
    """Mean and standard deviation of the ECE that perfect probabilities would show on as many rows."""
    eces = ece_replicates(probability, seed, replicates)
    return float(np.mean(eces)), float(np.std(eces))


def ece_replicates(probability: Floats, seed: int, replicates: int) -> Floats:
    """ECEs of labels drawn with `probability`, (replicates,): what sampling alone makes of perfect probabilities."""
    rng = np.random.default_rng(seed)
    return np.array([ece(rng.random(len(probability)) < probability, probability) for _ in range(replicates)])


def bootstrap(target: Bools, probability: Floats, seed: int) -> dict[str, Interval]:
    """Each of METRICS with a percentile interval over rows drawn with replacement.

    ECE's interval is one of the plain estimate, whose bias upwards (the sampling floor) it shares.
    """
    draws = list(_draws(target, seed))
    replicates = {name: [metric(target[rows], probability[rows]) for rows in draws] for name, metric in METRICS.items()}
    return {
        name: percentile_interval(METRICS[name](target, probability), values) for name, values in replicates.items()
    }


def bootstrap_difference(metric: Metric, target: Bools, ours: Floats, theirs: Floats, seed: int) -> Interval:
    """metric(ours) − metric(theirs) on the same rows, with a paired percentile interval."""
    draws = _draws(target, seed)
    values = [metric(target[rows], ours[rows]) - metric(target[rows], theirs[rows]) for rows in draws]
    return percentile_interval(metric(target, ours) - metric(target, theirs), values)


def reliability(target: Bools, probability: Floats) -> list[dict[str, float]]:
    """Points of a reliability diagram: mean probability, share of yes and rows of each filled bin."""
    bins = np.minimum((probability * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    rows = ((bins == b) for b in range(ECE_BINS))
    return [
        {"predicted": float(probability[r].mean()), "observed": float(target[r].mean()), "rows": int(r.sum())}
        for r in rows
        if r.any()
    ]


def _draws(target: Bools, seed: int) -> Iterator[NDArray[np.int64]]:
    """Rows with replacement; a draw without both classes has no AUC and is drawn again."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < BOOTSTRAP_REPLICATES:
        rows = rng.integers(len(target), size=len(target))
        if target[rows].any() and not target[rows].all():
            made += 1
            yield rows


def percentile_interval(value: float, replicates: list[float]) -> Interval:
    """An estimate with the quantiles of what it was on rows drawn again."""
    low, high = np.quantile(replicates, [(1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0])
    return Interval(value, float(low), float(high))


def mean_sd(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation of one figure over folds."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}


def corrected_interval(differences: list[float], folds: int) -> Interval:
    """Mean of differences over the folds of repeated cross-validation, with an interval.

    Nadeau and Bengio (2003), "Inference for the generalization error": the t-test corrected for the overlap of
    training sets, of which each test set is 1 / (folds − 1).
    """
    from scipy.stats import t  # noqa: PLC0415 – half a second that only this needs

    n = len(differences)
    error = float(np.sqrt((1.0 / n + 1.0 / (folds - 1)) * np.var(differences, ddof=1)))
    half = float(t.ppf((1.0 + CONFIDENCE) / 2.0, n - 1)) * error
    mean = float(np.mean(differences))
    return Interval(mean, mean - half, mean + half)
