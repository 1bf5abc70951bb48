"""The bootstrap over customers (Efron & Tibshirani 1993): one set of draws for every figure of a report.

A customer's campaigns are kept together, as what one customer brings in several campaigns is not independent.
"""

from __future__ import annotations

import numpy as np

from trainers.env.response import Floats
from trainers.eval.metrics import CONFIDENCE, Interval

RESAMPLES = 2_000
CHUNK = 250  # resamples at a time, so that many customers fit into memory


class CustomerBootstrap:
    """Draws of n customers with replacement; the same seed gives the same draws."""

    def __init__(self, customers: int, seed: int, resamples: int = RESAMPLES) -> None:
        rng = np.random.default_rng(seed)
        draws = (rng.integers(customers, size=customers) for _ in range(resamples))
        # How often each customer is drawn, (resamples, customers); nobody comes up 256 times.
        self._counts = np.stack([np.bincount(draw, minlength=customers).astype(np.uint8) for draw in draws])

    def means(self, values: Floats) -> Floats:
        """Means of `values` (customers, k) in every resample, (resamples, k)."""
        chunks = (self._counts[i : i + CHUNK].astype(np.float64) for i in range(0, len(self._counts), CHUNK))
        sums = np.concatenate([chunk @ values for chunk in chunks])
        return np.asarray(sums / self._counts.shape[1], dtype=np.float64)

    def mean(self, values: Floats) -> Interval:
        """The mean of `values` (customers,) with its percentile interval."""
        return percentile_interval(float(values.mean()), self.means(values[:, None])[:, 0])


def percentile_interval(value: float, replicates: Floats) -> Interval:
    """`value` between the percentiles of `replicates`; where some are not defined (0 / 0), of the others."""
    defined = replicates[np.isfinite(replicates)]
    if not defined.size:
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0])
    return Interval(float(value), float(low), float(high))
