"""Choosing a learner, and what its order promises, on rows that were held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from churnsaver.models.uplift import Learner
from trainers.models.boost import BoostSettings
from trainers.models.folds import stratified_folds
from trainers.uplift import LEARNERS
from trainers.uplift.boosting import Floats, Forester
from trainers.uplift.dr_learner import robust_scores
from trainers.uplift.trial import Trial

FOLDS = 3
Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Choice:
    """What cross-validation chose.

    Attributes:
        learner: the one whose order of customers is worth most.
        values: what each learner's order is worth, `order_value`.
        held_out: (n,) the chosen learner's uplift of rows that it was not fitted on.
    """

    learner: Learner
    values: dict[Learner, float]
    held_out: Floats


def choose_learner(
    trial: Trial, learners: Sequence[Learner], settings: BoostSettings, seed: int, *, advance: Advance = lambda: None
) -> Choice:
    """Cross-validates `learners` on `trial` and takes the one that orders customers best.

    `advance` is called after each learner and fold.
    """
    forester = Forester(trial.feature_types, settings, seed)
    held_out = {learner: np.empty(len(trial)) for learner in learners}
    for fold in stratified_folds(2 * trial.treatment + trial.outcome, FOLDS, [seed, 4]):
        fit = trial.pick(fold.fit)
        for learner in learners:
            model = LEARNERS[learner](forester).fit(fit.matrix, fit.treatment, fit.outcome, fit.propensity)
            held_out[learner][fold.held_out] = model.uplift(trial.matrix[fold.held_out])
            advance()
    scores = robust_scores(forester, trial.matrix, trial.treatment, trial.outcome, trial.propensity)
    values = {learner: order_value(scores, found) for learner, found in held_out.items()}
    best = max(values, key=values.__getitem__)
    return Choice(best, values, held_out[best])


def order_value(scores: Floats, uplift: Floats) -> float:
    """Area of the Qini curve over random when gains are counted in doubly robust scores, in outcomes a customer.

    Yadlowsky, Fleming, Shah, Brunskill and Wager (2025), "Evaluating treatment prioritization rules via rank-weighted
    average treatment effects", JASA 120: their RATE with Qini's weights. Unlike Qini itself it stays true where
    propensities vary; unlike the squared DR-loss it asks for the order alone, which is what a budget is spent by.

    Args:
        scores: (n,) doubly robust scores.
        uplift: (n,) by which customers are ordered, the highest first; ties share their ranks' mean.
    """
    _, inverse, counts = np.unique(uplift, return_inverse=True, return_counts=True)
    middle = (np.cumsum(counts) - 0.5 * counts)[inverse] / len(uplift)
    return float(np.mean((middle - 0.5) * scores))
