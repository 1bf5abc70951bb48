"""Boosted trees whose depth and rounds are chosen by cross-validation, with what they say of held-out rows.

The folds that choose also cross-fit: every row gets a prediction of trees that were not grown on it, which is what
doubly robust scores need, at no further cost. The number of rounds is all that a held-out row had a say in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from churnsaver.models.uplift import predict
from trainers.models.boost import BoostSettings
from trainers.models.folds import Fold, stratified_folds

FOLDS = 3
PROBABILITY, EFFECT = "binary:logistic", "reg:squarederror"
# An effect is regressed on scores that are nearly all noise: a leaf holds at least this share of the rows.
MIN_LEAF_SHARE = 0.008

# Effects are weak and rows many, so few, slow steps matter less than trying them on enough folds.
FULL = BoostSettings(depths=(2, 3), max_rounds=400, patience=15, eta=0.1)
QUICK = BoostSettings(depths=(2,), max_rounds=150, patience=10, eta=0.1)

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CrossFitted:
    """Trees with what was chosen for them.

    Attributes:
        booster: grown on all rows.
        held_out: (n,) the prediction for each row by trees that it was held out from.
    """

    booster: xgb.Booster
    held_out: Floats


@dataclass(frozen=True, slots=True)
class Forester:
    """Grows trees on a matrix.

    Attributes:
        feature_types: XGBoost's, one a feature.
        settings: the depths to try, and XGBoost's parameters.
        seed: of the folds and of XGBoost.
    """

    feature_types: Sequence[str]
    settings: BoostSettings
    seed: int

    def folds(self, treatment: Bools, outcome: Bools) -> list[Fold]:
        """Folds that spread treatments and outcomes evenly. Both are (n,)."""
        return stratified_folds(2 * treatment + outcome, FOLDS, [self.seed, 3])

    def grow(
        self, matrix: Matrix, target: Floats | Bools, folds: list[Fold], *, objective: str, only: Bools | None = None
    ) -> CrossFitted:
        """Trees of `objective` on the rows in `only` (n,), or on all.

        Args:
            matrix: (n, features), categories as codes, NaN missing.
            target: (n,), read where `only` says so.
            folds: of all n rows, so that rows outside `only` get held-out predictions, too.
        """
        rows = np.ones(len(matrix), dtype=np.bool_) if only is None else only
        labels = np.asarray(target, dtype=np.float32)
        parts = [
            (
                self._data(matrix, labels, fold.fit[rows[fold.fit]]),
                self._data(matrix, labels, fold.held_out[rows[fold.held_out]]),
            )
            for fold in folds
        ]
        choices = [
            self._cross_validate(parts, self._adapted(parameters, objective, int(rows.sum())))
            for parameters in self.settings.candidates(self.seed)
        ]
        best = min(choices, key=lambda choice: choice.loss)
        held_out = np.empty(len(matrix))
        for fold, booster in zip(folds, best.boosters, strict=True):
            held_out[fold.held_out] = predict(booster[: best.rounds], matrix[fold.held_out])
        everything = self._data(matrix, labels, np.flatnonzero(rows))
        return CrossFitted(xgb.train(best.parameters, everything, best.rounds), held_out)

    def _data(self, matrix: Matrix, labels: Matrix, rows: NDArray[np.int64]) -> xgb.DMatrix:
        return xgb.DMatrix(matrix[rows], label=labels[rows], feature_types=list(self.feature_types), nthread=1)

    def _adapted(self, parameters: dict[str, Any], objective: str, rows: int) -> dict[str, Any]:
        parameters = parameters | {"objective": objective}
        return parameters if objective == PROBABILITY else parameters | {"min_child_weight": MIN_LEAF_SHARE * rows}

    def _cross_validate(self, parts: list[tuple[xgb.DMatrix, xgb.DMatrix]], parameters: dict[str, Any]) -> _Choice:
        """Grows all folds' trees side by side until their summed held-out loss stops falling."""
        boosters = [xgb.Booster(parameters, cache=list(part)) for part in parts]
        loss = _squared_error if parameters["objective"] == EFFECT else _log_loss
        best = _Choice(parameters, 1, np.inf, boosters)
        for number in range(self.settings.max_rounds):
            total = 0.0
            for booster, (fit, held_out) in zip(boosters, parts, strict=True):
                booster.update(fit, number)
                total += loss(held_out.get_label(), booster.predict(held_out))
            if total < best.loss:
                best = _Choice(parameters, number + 1, total, boosters)
            elif number + 1 - best.rounds >= self.settings.patience:
                break
        return best


@dataclass(frozen=True, slots=True)
class _Choice:
    parameters: dict[str, Any]
    rounds: int
    loss: float
    boosters: list[xgb.Booster]


def _log_loss(target: Matrix, probability: Matrix) -> float:
    return float(-np.sum(np.where(target > 0.5, np.log(probability), np.log1p(-probability)), dtype=np.float64))


def _squared_error(target: Matrix, prediction: Matrix) -> float:
    return float(np.sum((target - prediction) ** 2, dtype=np.float64))
