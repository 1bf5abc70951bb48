"""Fitting gradient-boosted trees and their calibration, with every choice made by cross-validation.

Depth, share of columns a tree sees and number of rounds are those with the lowest log-loss over the folds. The
calibration is chosen and fitted on the folds' held-out margins, so the final model trains on every row and the
calibration has still seen no row that its model was fitted on. Classes are not reweighted: `scale_pos_weight`
buys nothing here and makes probabilities lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from churnsaver.models.calibration import sigmoid
from churnsaver.models.trees import CalibratedTrees
from trainers.eval.metrics import log_loss
from trainers.models.calibrate import choose_calibration
from trainers.models.folds import Fold, stratified_folds

FOLDS = 5
Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class BoostSettings:
    """What is tried: trees of each of `depths`, seeing each of `column_shares` of the features.

    The other values are XGBoost's parameters of the same names.
    """

    depths: tuple[int, ...]
    max_rounds: int
    patience: int
    column_shares: tuple[float, ...] = (0.6,)
    eta: float = 0.05
    subsample: float = 0.8
    min_child_weight: float = 5.0

    def candidates(self, seed: int) -> list[dict[str, Any]]:
        """XGBoost's parameters of everything that is tried."""
        return [self.parameters(depth, share, seed) for depth in self.depths for share in self.column_shares]

    def parameters(self, depth: int, column_share: float, seed: int) -> dict[str, Any]:
        """XGBoost's parameters for trees of `depth` that see a `column_share` of the features each."""
        return {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "max_depth": depth,
            "eta": self.eta,
            "subsample": self.subsample,
            "colsample_bytree": column_share,
            "min_child_weight": self.min_child_weight,
            "seed": seed,
            "nthread": 1,  # one thread adds up in one order, so the same seed gives the same bits
        }

    @property
    def steps(self) -> int:
        """How often a fit calls `advance`."""
        return len(self.depths) * len(self.column_shares)


FULL = BoostSettings(depths=(2, 3, 5), column_shares=(0.6, 1.0), max_rounds=1000, patience=50)
QUICK = BoostSettings(depths=(3,), max_rounds=400, patience=20)


@dataclass(frozen=True, slots=True)
class FittedTrees:
    """Trees with what was chosen for them.

    Attributes:
        trees: fitted on every row.
        parameters, rounds: XGBoost's, as chosen by cross-validation.
        log_losses: cross-validated log-loss of each calibration, by its kind.
    """

    trees: CalibratedTrees
    parameters: dict[str, Any]
    rounds: int
    log_losses: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Curve:
    """Cross-validation of one set of parameters: its best round, the loss and the held-out margins, (n,), there."""

    parameters: dict[str, Any]
    rounds: int
    loss: float
    margins: NDArray[np.float64]


def fit_trees(
    matrix: NDArray[np.float32],
    target: NDArray[np.bool_],
    feature_types: list[str],
    settings: BoostSettings,
    seed: int,
    *,
    advance: Advance = lambda: None,
) -> FittedTrees:
    """Fits calibrated trees.

    Args:
        matrix: (n, features), categories as codes, NaN missing.
        target: (n,), with at least FOLDS rows of each kind.
        feature_types: XGBoost's, one a feature.
        advance: called after each of `settings.steps` steps.
    """
    data = xgb.DMatrix(matrix, label=target, feature_types=feature_types, nthread=1)
    folds = stratified_folds(target, FOLDS, seed)
    curves = []
    for parameters in settings.candidates(seed):
        curves.append(_cross_validate(data, target, folds, settings, parameters))
        advance()
    best = min(curves, key=lambda curve: curve.loss)
    calibration, log_losses = choose_calibration(best.margins, target, seed)
    booster = xgb.train(best.parameters, data, best.rounds)
    return FittedTrees(CalibratedTrees(booster, calibration), best.parameters, best.rounds, log_losses)


def _cross_validate(
    data: xgb.DMatrix,
    target: NDArray[np.bool_],
    folds: list[Fold],
    settings: BoostSettings,
    parameters: dict[str, Any],
) -> _Curve:
    """Grows all folds' models side by side until their mean held-out log-loss stops falling."""
    parts = [(data.slice(fold.fit), data.slice(fold.held_out)) for fold in folds]
    boosters = [xgb.Booster(parameters, cache=list(part)) for part in parts]
    best = _Curve(parameters, 0, np.inf, np.empty(0))
    for number in range(settings.max_rounds):
        margins = np.empty(len(target))
        for booster, (fit, held_out), fold in zip(boosters, parts, folds, strict=True):
            booster.update(fit, number)
            margins[fold.held_out] = booster.predict(held_out, output_margin=True)
        loss = log_loss(target, sigmoid(margins))
        if loss < best.loss:
            best = _Curve(parameters, number + 1, loss, margins)
        elif number + 1 - best.rounds >= settings.patience:
            break
    return best
