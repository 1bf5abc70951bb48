"""`eval uplift --repeated-cv`: the recipe, not a checkpoint, on every row, each held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from churnsaver.models.uplift import Learner, predict
from trainers.eval.metrics import Floats, corrected_interval, mean_sd
from trainers.eval.uplift import UpliftReport, missed_gain
from trainers.eval.uplift_metrics import AT_PERCENTS, Judge
from trainers.eval.uplift_value import (
    Prices,
    best_percent,
    deciles,
    incremental,
    net_incremental_revenue,
    sleeping_dogs,
    top,
)
from trainers.models.boost import BoostSettings
from trainers.models.folds import stratified_folds
from trainers.uplift import LEARNERS, UpliftLearner
from trainers.uplift.boosting import Forester
from trainers.uplift.choose import choose_learner
from trainers.uplift.response import fit_response
from trainers.uplift.trial import Comparison, Trial, trial_of

FOLDS, REPEATS = 5, 3
AUTO, PROPENSITY, PROPENSITY_OF_TREATED = "auto", "propensity", "propensity_of_treated"

Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Fold:
    """What one fold's held-out rows said.

    Attributes:
        learner: the one that was chosen inside the fold's other rows.
        scores: each order's score of the held-out rows, by its name.
        metrics: of each order, by its name.
        value: of the policy, where prices were given.
    """

    learner: Learner
    scores: dict[str, Floats]
    metrics: dict[str, dict[str, float]]
    value: dict[str, float]


def repeated_cv(
    comparison: Comparison,
    learners: Sequence[Learner],
    peers: Mapping[str, UpliftLearner],
    settings: BoostSettings,
    prices: Prices | None,
    seed: int,
    *,
    advance: Advance = lambda: None,
) -> UpliftReport:
    """FOLDS folds × REPEATS repeats over all rows; everything chosen is chosen anew inside each fold's other rows.

    Gates: `auto` orders customers provably better than the response model, and is not provably worse than the best
    single learner, ours or a peer's. Intervals are Nadeau and Bengio's. `advance` is called after each fold.
    """
    trial = trial_of(comparison, seed)
    folds: list[Fold] = []
    pooled = {name: np.empty(len(trial)) for name in (AUTO, PROPENSITY)}
    for repeat in range(REPEATS):
        for rows in stratified_folds(2 * trial.treatment + trial.outcome, FOLDS, [seed, repeat]):
            fold = _fold(trial.pick(rows.fit), trial.pick(rows.held_out), learners, peers, settings, prices, seed)
            folds.append(fold)
            if repeat == 0:  # one repeat scores every row once, so its points can be drawn as if from one model
                for name, scores in pooled.items():
                    scores[rows.held_out] = fold.scores[name]
            advance()
    gains = {
        other: corrected_interval(_differences(folds, other), FOLDS) for other in (PROPENSITY, PROPENSITY_OF_TREATED)
    }
    best = max((str(name) for name in [*learners, *peers]), key=lambda name: _mean_qini(folds, name))
    behind = corrected_interval(_differences(folds, best), FOLDS)
    result: dict[str, Any] = {
        "arm": comparison.arm,
        "control": comparison.control,
        "outcome": comparison.outcome,
        "rows": len(trial),
        "propensities": trial.how,
        "weighted_by_propensity": trial.mass is not None,
        "folds": FOLDS,
        "repeats": REPEATS,
        "orders": {name: _mean_metrics(folds, name) for name in folds[0].metrics},
        "chosen": dict(Counter(str(fold.learner) for fold in folds)),
        "qini_gain": {other: gain.as_dict() for other, gain in gains.items()},
        "qini_difference_to_best_learner": {"best": best, **behind.as_dict()},
        "sleeping_dogs": sleeping_dogs(trial, pooled[AUTO]),
        "deciles": deciles(trial, pooled[AUTO]),
    }
    if prices is not None:
        result["policy_value"] = _policy_value(folds, prices)
    result["missed"] = missed_gain({PROPENSITY: gains[PROPENSITY]})
    if behind.high < 0.0:
        result["missed"].append(f"Qini is {-behind.value:.4f} below that of {best}, at least {-behind.high:.4f}")
    judge = Judge(trial.outcome, trial.treatment, trial.mass)
    return UpliftReport(result, {name: judge.ranking(scores).qini_curve() for name, scores in pooled.items()})


def _fold(
    fit: Trial,
    held_out: Trial,
    learners: Sequence[Learner],
    peers: Mapping[str, UpliftLearner],
    settings: BoostSettings,
    prices: Prices | None,
    seed: int,
) -> Fold:
    forester = Forester(fit.feature_types, settings, seed)
    choice = choose_learner(fit, learners, settings, seed)
    every: dict[str, UpliftLearner] = {str(name): LEARNERS[name](forester) for name in learners} | dict(peers)
    scores = {
        name: learner.fit(fit.matrix, fit.treatment, fit.outcome, fit.propensity).uplift(held_out.matrix)
        for name, learner in every.items()
    }
    scores[AUTO] = scores[str(choice.learner)]
    scores[PROPENSITY] = predict(fit_response(forester, fit).booster, held_out.matrix)
    scores[PROPENSITY_OF_TREATED] = predict(fit_response(forester, fit, treated_only=True).booster, held_out.matrix)
    judge = Judge(held_out.outcome, held_out.treatment, held_out.mass)
    metrics = {name: _metrics(judge, score) for name, score in scores.items()}
    value = (
        {}
        if prices is None
        else _value(held_out, scores, best_percent(incremental(fit, choice.held_out), prices), prices)
    )
    return Fold(choice.learner, scores, metrics, value)


def _metrics(judge: Judge, score: Floats) -> dict[str, float]:
    ranking = judge.ranking(score)
    at = {f"uplift_at_{percent}": ranking.at(percent / 100.0) for percent in AT_PERCENTS}
    return {"qini": judge.qini(ranking), "auuc": judge.auuc(ranking), **at}


def _value(held_out: Trial, scores: Mapping[str, Floats], percent: int, prices: Prices) -> dict[str, float]:
    """Dollars a held-out customer when `percent`, chosen on the other rows, are contacted."""
    ours, theirs = (prices.profits(incremental(held_out, scores[name])) for name in (AUTO, PROPENSITY))
    everybody = np.ones(len(held_out), dtype=np.bool_)
    return {
        "contacted_percent": percent,
        "profit_usd_per_customer": float(ours[percent]),
        "profit_usd_per_customer_of_everybody": float(ours[-1]),
        "profit_usd_per_customer_of_propensity": float(theirs[percent]),
        "nir_usd": net_incremental_revenue(held_out, top(scores[AUTO], percent), prices),
        "nir_usd_of_everybody": net_incremental_revenue(held_out, everybody, prices),
    }


def _policy_value(folds: list[Fold], prices: Prices) -> dict[str, Any]:
    means = {name: mean_sd([fold.value[name] for fold in folds]) for name in folds[0].value}
    profit, gains = "profit_usd_per_customer", {}
    for other in ("everybody", PROPENSITY):
        differences = [fold.value[profit] - fold.value[f"{profit}_of_{other}"] for fold in folds]
        gains[f"gain_usd_per_customer_over_{other}"] = corrected_interval(differences, FOLDS).as_dict()
    return {"cost_usd": prices.cost_usd, "value_usd": prices.value_usd, **means, **gains}


def _differences(folds: list[Fold], other: str) -> list[float]:
    """Qini of `auto` − Qini of `other` in each fold."""
    return [fold.metrics[AUTO]["qini"] - fold.metrics[other]["qini"] for fold in folds]


def _mean_qini(folds: list[Fold], name: str) -> float:
    return float(np.mean([fold.metrics[name]["qini"] for fold in folds]))


def _mean_metrics(folds: list[Fold], name: str) -> dict[str, dict[str, float]]:
    return {metric: mean_sd([fold.metrics[name][metric] for fold in folds]) for metric in folds[0].metrics[name]}
