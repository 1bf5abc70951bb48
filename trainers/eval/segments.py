"""Calibration by segment: probabilities that are right on average may still lie about some customers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from churnsaver.domain.schema import Role
from trainers.data import Dataset
from trainers.eval.metrics import auc, ece, ece_replicates, reliability

MIN_SEGMENT_ROWS = 100
MAX_CATEGORIES = 6
QUANTILES = (1 / 3, 2 / 3)
NUMERIC_FEATURES = 2
# A segment is called miscalibrated where perfect probabilities would look as bad with this chance in any of them.
ALPHA = 0.05
REPLICATES = 1000

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Segment:
    """Some of a dataset's rows.

    Attributes:
        feature: what they have in common is a value or a range of this.
        name: the value or the range.
        rows: (n,) which rows.
    """

    feature: str
    name: str
    rows: Bools


def customer_segments(dataset: Dataset, importance: Mapping[str, float]) -> list[Segment]:
    """Segments of at least MIN_SEGMENT_ROWS rows that a person would ask about.

    They are the values of the most important categorical feature, and thirds of tenure and of revenue; where
    the schema names no such column, of the most important numeric features. `importance` is by feature.
    """
    schema = dataset.schema
    ranked = sorted(schema.feature_names, key=lambda name: (-importance[name], name))
    categorical = [name for name in ranked if schema.columns[name].role is Role.CATEGORICAL][:1]
    numeric = schema.names(Role.TENURE, Role.REVENUE)
    numeric += [name for name in ranked if schema.columns[name].role is Role.NUMERIC]
    found = [segment for name in categorical for segment in _by_value(name, dataset.frame[name])]
    found += [segment for name in numeric[:NUMERIC_FEATURES] for segment in _by_thirds(name, dataset.frame[name])]
    return [segment for segment in found if segment.rows.sum() >= MIN_SEGMENT_ROWS]


def offer_segments(contacts: Dataset) -> list[Segment]:
    """The contacts that made each offer, of those made at least MIN_SEGMENT_ROWS times."""
    made = contacts.column(Role.TREATMENT)
    found = [Segment(made.name, str(offer), (made == offer).to_numpy()) for offer in sorted(set(made))]
    return [segment for segment in found if segment.rows.sum() >= MIN_SEGMENT_ROWS]


def segment_calibration(segments: list[Segment], target: Bools, probability: Floats, seed: int) -> list[dict[str, Any]]:
    """How well probabilities hold in each segment, for `--json` and for plots.

    Each has its ECE beside the sampling floor (what perfect probabilities would show on as many rows) and the
    chance of an ECE that large from perfect ones. `calibrated` is false where that chance is below ALPHA,
    shared among all segments (Bonferroni), so that one false alarm in twenty reports is to be expected.
    """
    found = []
    for segment in segments:
        yes, said = target[segment.rows], probability[segment.rows]
        chance = ece_replicates(said, seed, REPLICATES)
        observed = ece(yes, said)
        p_value = float((1 + np.sum(chance >= observed)) / (1 + REPLICATES))
        found.append(
            {
                "feature": segment.feature,
                "segment": segment.name,
                "rows": len(said),
                "predicted": float(said.mean()),
                "observed": float(yes.mean()),
                "auc": auc(yes, said) if 0 < yes.sum() < len(yes) else None,
                "ece": observed,
                "ece_floor": {"mean": float(chance.mean()), "sd": float(chance.std())},
                "p_value": p_value,
                "calibrated": p_value >= ALPHA / len(segments),
                "reliability": reliability(yes, said),
            }
        )
    return found


def _by_value(name: str, values: pl.Series) -> list[Segment]:
    common = values.value_counts(sort=True)[name].to_list()[:MAX_CATEGORIES]
    return [Segment(name, str(value), values.eq_missing(value).to_numpy()) for value in common]


def _by_thirds(name: str, values: pl.Series) -> list[Segment]:
    numbers = values.to_numpy()
    edges = np.unique(np.nanquantile(numbers, QUANTILES))
    third = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="left"))
    names = [f"up to {edges[0]:g}", *(f"over {low:g} to {high:g}" for low, high in pairwise(edges))]
    names = ["missing", *names, f"over {edges[-1]:g}"]
    return [Segment(name, text, third == number - 1) for number, text in enumerate(names)]
