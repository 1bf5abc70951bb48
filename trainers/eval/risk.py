"""`eval risk`: a checkpoint on rows that it was not trained on, and the recipe by repeated cross-validation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.schema import Role
from churnsaver.domain.scorecard import Scorecard
from churnsaver.domain.world import World
from churnsaver.models.calibration import sigmoid
from churnsaver.models.trees import RiskModel
from trainers.data import Dataset
from trainers.eval.explain import explained, mean_shap
from trainers.eval.metrics import (
    METRICS,
    auc,
    bootstrap,
    bootstrap_difference,
    corrected_interval,
    ece_floor,
    mean_sd,
)
from trainers.eval.metrics import reliability as reliability_points
from trainers.eval.model_report import ModelReport, auc_missed, ece_missed
from trainers.eval.peers import tuned_xgboost
from trainers.eval.segments import customer_segments
from trainers.models.boost import BoostSettings, fit_trees
from trainers.models.folds import stratified_folds
from trainers.models.scorecard import fit_scorecard, scorecard_risk

FOLDS, REPEATS = 5, 3
PEERS = ("xgboost", "logistic")
OTHERS = ("uncalibrated", *PEERS)
PEER_TRIALS, QUICK_PEER_TRIALS = 12, 4

Floats = NDArray[np.float64]
Advance = Callable[[], None]


def evaluate_checkpoint(model: RiskModel, scorecard: Scorecard, rows: Dataset, seed: int) -> ModelReport:
    """Measures a checkpoint and its scorecard on `rows`, which it must not have been trained on.

    Gates: the AUC is not worse than the scorecard's, paired; the ECE is one that perfect probabilities
    would show on as many rows.
    """
    matrix, feature_types = rows.matrix(model.schema), model.schema.feature_types()
    target, ours = rows.yes(Role.LABEL), model.trees.probability(matrix)
    baseline = scorecard_risk(scorecard, rows)
    difference = bootstrap_difference(auc, target, ours, baseline, seed)
    intervals = bootstrap(target, ours, seed)
    floor_mean, floor_sd = ece_floor(ours, seed)
    importance = mean_shap(model.trees, matrix, feature_types, model.schema.feature_names)
    missed = auc_missed({"scorecard": difference}) + ece_missed(intervals["ece"].value, floor_mean, floor_sd)
    result = {
        "rows": len(rows),
        "yes_rate": float(target.mean()),
        "metrics": {name: interval.as_dict() for name, interval in intervals.items()},
        "scorecard": {name: interval.as_dict() for name, interval in bootstrap(target, baseline, seed).items()},
        "auc_difference": {"scorecard": difference.as_dict()},
        "ece_floor": {"mean": floor_mean, "sd": floor_sd},
        **explained(importance, customer_segments(rows, importance), target, ours, seed),
        "missed": missed,
    }
    curves = {"risk model": reliability_points(target, ours), "scorecard": reliability_points(target, baseline)}
    return ModelReport(result, curves)


def repeated_cv(
    dataset: Dataset, world: World, settings: BoostSettings, seed: int, *, advance: Advance = lambda: None
) -> ModelReport:
    """FOLDS folds × REPEATS repeats over all rows: our calibrated trees against others on the same folds.

    `xgboost` is tuned by a random search of its own, `logistic` is the scorecard, `uncalibrated` are our trees
    at their word. Gates: the AUC is not worse than that of PEERS, paired; the mean ECE is within the sampling
    floor and two standard deviations.

    Everything that training chooses (depth, rounds, calibration, means) is chosen anew inside each fold's
    training rows. Intervals of differences are Nadeau and Bengio's (2003), who correct the t-test for the
    overlap of training sets. `advance` is called after each of the FOLDS × REPEATS folds.
    """
    target = dataset.yes(Role.LABEL)
    pooled = {name: np.empty((REPEATS, len(target))) for name in ("calibrated", *OTHERS)}
    scores: list[dict[str, dict[str, float]]] = []
    floors: list[tuple[float, float]] = []
    read: list[dict[str, float]] = []
    for repeat in range(REPEATS):
        for fold in stratified_folds(target, FOLDS, [seed, repeat]):
            fit, held_out = dataset.pick(fold.fit), dataset.pick(fold.held_out)
            predicted, of_fold = _predict_fold(fit, held_out, world, settings, seed)
            read.append(of_fold)
            for name, probability in predicted.items():
                pooled[name][repeat, fold.held_out] = probability
            labels = target[fold.held_out]
            scores.append({n: {m: f(labels, p) for m, f in METRICS.items()} for n, p in predicted.items()})
            floors.append(ece_floor(predicted["calibrated"], seed))
            advance()
    differences = {
        metric: {
            other: corrected_interval([s["calibrated"][metric] - s[other][metric] for s in scores], FOLDS)
            for other in OTHERS
        }
        for metric in METRICS
    }
    means = {name: {m: mean_sd([s[name][m] for s in scores]) for m in METRICS} for name in pooled}
    floor_mean, floor_sd = np.mean(floors, axis=0).tolist()
    importance = {name: float(np.mean([of_fold[name] for of_fold in read])) for name in dataset.schema.feature_names}
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
        # One repeat predicts every row once, as if by one model.
        **explained(importance, customer_segments(dataset, importance), target, pooled["calibrated"][0], seed),
        "missed": auc_missed(differences["auc"]) + ece_missed(means["calibrated"]["ece"]["mean"], floor_mean, floor_sd),
    }
    return ModelReport(result, {name: reliability_points(target, p[0]) for name, p in pooled.items()})


def _predict_fold(
    fit: Dataset, held_out: Dataset, world: World, settings: BoostSettings, seed: int
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Each model's probabilities of the held-out rows, and our trees' mean |SHAP value| of each feature there."""
    matrix, target, feature_types = fit.matrix(), fit.yes(Role.LABEL), fit.schema.feature_types()
    trees, unseen = fit_trees(matrix, target, feature_types, settings, seed).trees, held_out.matrix()
    margin = trees.margin(unseen)
    trials = PEER_TRIALS if settings.steps > 1 else QUICK_PEER_TRIALS
    predicted = {
        "calibrated": trees.calibration.probability(margin),
        "uncalibrated": sigmoid(margin),
        "xgboost": tuned_xgboost(matrix, target, feature_types, trials, seed)(unseen),
        "logistic": scorecard_risk(fit_scorecard(fit, world), held_out),
    }
    return predicted, mean_shap(trees, unseen, feature_types, fit.schema.feature_names)
