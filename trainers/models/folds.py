"""Cross-validation folds that keep the share of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Fold:
    """Row numbers to fit on and, disjoint from them, row numbers to measure on."""

    fit: NDArray[np.int64]
    held_out: NDArray[np.int64]


def stratified_folds(target: NDArray[Any], folds: int, seed: int | list[int]) -> list[Fold]:
    """`folds` folds; each row is held out once, and each class is spread evenly.

    `target` is (n,): whether a row says yes, or the number of its class.
    """
    rng = np.random.default_rng(seed)
    fold_of = np.empty(len(target), dtype=np.int64)
    for value in np.unique(target):
        members = rng.permutation(np.flatnonzero(target == value))
        fold_of[members] = np.arange(len(members)) % folds
    return [Fold(np.flatnonzero(fold_of != k), np.flatnonzero(fold_of == k)) for k in range(folds)]
