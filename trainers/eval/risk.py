"""`eval risk`: a checkpoint on rows that it was not trained on, and the recipe by repeated cross-validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.schema import Role
from churnsaver.domain.scorecard import Scorecard
from churnsaver.domain.world import World
from churnsaver.models.calibration import sigmoid
from churnsaver.models.trees import RiskModel
from trainers.data import Dataset
from trainers.eval.metrics import (
    METRICS,
    Interval,
    auc,
    bootstrap,
    bootstrap_difference,
    corrected_interval,
    ece_floor,
    mean_sd,
)
from trainers.eval.metrics import reliability as reliability_points
from trainers.models.boost import BoostSettings, fit_trees
from trainers.models.folds import stratified_folds
from trainers.models.scorecard import fit_scorecard, scorecard_risk

FOLDS, REPEATS = 5, 3
# "Not worse" means that a difference in AUC beyond this is ruled out; half of one fold's standard deviation.
AUC_MARGIN = 0.005

Floats = NDArray[np.float64]
Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class RiskReport:
    """What was measured.

    Attributes:
        result: for `--json`: numbers, intervals and, under "missed", the targets that were missed.
        reliability: points of the reliability diagram of each model, by name.
    """

    result: dict[str, Any]
    reliability: dict[str, list[dict[str, float]]]


def evaluate_checkpoint(model: RiskModel, scorecard: Scorecard, rows: Dataset, seed: int) -> RiskReport:
    """Measures a checkpoint and its scorecard on `rows`, which it must not have been trained on.

    Gates: the AUC is not worse than the scorecard's, paired; the ECE is one that perfect probabilities
    would show on as many rows.
    """
    target, ours = rows.yes(Role.LABEL), model.risk(rows.rows())
    baseline = scorecard_risk(scorecard, rows)
    difference = bootstrap_difference(auc, target, ours, baseline, seed)
    intervals = bootstrap(target, ours, seed)
    floor_mean, floor_sd = ece_floor(ours, seed)
    missed = _missed({"scorecard": difference}, intervals["ece"].value, floor_mean, floor_sd)
    result = {
        "rows": len(rows),
        "yes_rate": float(target.mean()),
        "metrics": {name: interval.as_dict() for name, interval in intervals.items()},
        "scorecard": {name: interval.as_dict() for name, interval in bootstrap(target, baseline, seed).items()},
        "auc_difference": {"scorecard": difference.as_dict()},
        "ece_floor": {"mean": floor_mean, "sd": floor_sd},
        "missed": missed,
    }
    curves = {"risk model": reliability_points(target, ours), "scorecard": reliability_points(target, baseline)}
    return RiskReport(result, curves)


def repeated_cv(
    dataset: Dataset, world: World, settings: BoostSettings, seed: int, *, advance: Advance = lambda: None
) -> RiskReport:
    """FOLDS folds × REPEATS repeats over all rows: our calibrated trees against two others on the same folds.

    The others are `xgboost`, the same tuned trees without calibration, and `logistic`, the scorecard.

    Everything that training chooses (depth, rounds, calibration, means) is chosen anew inside each fold's
    training rows. Intervals of differences are Nadeau and Bengio's (2003), who correct the t-test for the
    overlap of training sets. `advance` is called after each of the FOLDS × REPEATS folds.
    """
    target = dataset.yes(Role.LABEL)
    pooled = {name: np.empty((REPEATS, len(target))) for name in ("calibrated", "xgboost", "logistic")}
    scores: list[dict[str, dict[str, float]]] = []
    floors: list[tuple[float, float]] = []
    for repeat in range(REPEATS):
        for fold in stratified_folds(target, FOLDS, [seed, repeat]):
            fit, held_out = dataset.pick(fold.fit), dataset.pick(fold.held_out)
            predicted = _predict_fold(fit, held_out, world, settings, seed)
            for name, probability in predicted.items():
                pooled[name][repeat, fold.held_out] = probability
            labels = target[fold.held_out]
            scores.append({n: {m: f(labels, p) for m, f in METRICS.items()} for n, p in predicted.items()})
            floors.append(ece_floor(predicted["calibrated"], seed))
            advance()
    differences = {
        metric: {
            other: corrected_interval([s["calibrated"][metric] - s[other][metric] for s in scores], FOLDS)
            for other in ("xgboost", "logistic")
        }
        for metric in ("auc", "brier", "ece")
    }
    means = {name: {m: mean_sd([s[name][m] for s in scores]) for m in METRICS} for name in pooled}
    floor_mean, floor_sd = np.mean(floors, axis=0).tolist()
    result = {
        "rows": len(dataset),
        "yes_rate": float(target.mean()),
        "folds": FOLDS,
        "repeats": REPEATS,
        "models": means,
        **{
            f"{metric}_difference": {other: interval.as_dict() for other, interval in of.items()}
            for metric, of in differences.items()
        },
        "ece_floor": {"mean": floor_mean, "sd": floor_sd},
        "missed": _missed(differences["auc"], means["calibrated"]["ece"]["mean"], floor_mean, floor_sd),
    }
    # One repeat predicts every row once, so its points can be drawn as if from one model.
    return RiskReport(result, {name: reliability_points(target, p[0]) for name, p in pooled.items()})


def _predict_fold(
    fit: Dataset, held_out: Dataset, world: World, settings: BoostSettings, seed: int
) -> dict[str, Floats]:
    trees = fit_trees(fit.matrix(), fit.yes(Role.LABEL), fit.schema.feature_types(), settings, seed).trees
    margin = trees.margin(held_out.matrix())
    return {
        "calibrated": trees.calibration.probability(margin),
        "xgboost": sigmoid(margin),
        "logistic": scorecard_risk(fit_scorecard(fit, world), held_out),
    }


def _missed(differences: dict[str, Interval], ece: float, floor_mean: float, floor_sd: float) -> list[str]:
    """The targets that were missed, each as a sentence."""
    missed = [
        f"AUC may be {-interval.low:.4f} below {other}'s (margin {AUC_MARGIN})"
        for other, interval in differences.items()
        if not interval.low >= -AUC_MARGIN
    ]
    if not ece <= floor_mean + 2.0 * floor_sd:
        missed.append(f"ECE {ece:.4f} is above the sampling floor {floor_mean:.4f} + 2 × {floor_sd:.4f}")
    return missed
