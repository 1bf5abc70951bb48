"""Customers for golden cases: none of them is a real one."""

from __future__ import annotations

from typing import Any

import numpy as np

from churnsaver.domain.schema import Scalar
from trainers.data import Dataset

GOLDEN_CASES = 8


def made_up_customers(dataset: Dataset, seed: int) -> list[dict[str, Scalar]]:
    """GOLDEN_CASES customers, each attribute another real customer's."""
    rng = np.random.default_rng([seed, 2])
    names = dataset.schema.feature_names
    columns = {name: rng.permutation(dataset.frame[name].to_numpy())[:GOLDEN_CASES] for name in names}
    return [{name: _plain(column[i]) for name, column in columns.items()} for i in range(GOLDEN_CASES)]


def _plain(value: Any) -> Scalar:
    """A NumPy value as JSON has it; polars' null numbers become NaN in NumPy, and null here."""
    if isinstance(value, float):
        return None if np.isnan(value) else float(value)
    return None if value is None else str(value)
