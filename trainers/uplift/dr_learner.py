"""DR-learner: a regression of cross-fitted doubly robust scores.

Kennedy (2023), "Towards optimal doubly robust estimation of heterogeneous causal effects", Electronic Journal of
Statistics 17(2), algorithm 1, with its folds taken in turns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from churnsaver.models.uplift import Learner, UpliftTrees
from trainers.uplift.boosting import EFFECT, Bools, Floats, Forester, Matrix
from trainers.uplift.t_learner import outcome_models


@dataclass(frozen=True, slots=True)
class DRLearner:
    """τ regresses the doubly robust score on x; an error in μ1, μ0 costs variance, not bias, where e is known."""

    forester: Forester

    def fit(self, matrix: Matrix, treatment: Bools, outcome: Bools, propensity: Floats) -> UpliftTrees:
        """The scores of a row come from outcome models that were not grown on it."""
        scores = robust_scores(self.forester, matrix, treatment, outcome, propensity)
        folds = self.forester.folds(treatment, outcome)
        fitted = self.forester.grow(matrix, scores, folds, objective=EFFECT)
        return UpliftTrees(Learner.DR, {"effect": fitted.booster}, float(treatment.mean()))


def robust_scores(forester: Forester, matrix: Matrix, treatment: Bools, outcome: Bools, propensity: Floats) -> Floats:
    """μ1 − μ0 + t (y − μ1) / e − (1 − t) (y − μ0) / (1 − e) of each row, (n,): its mean given x is the uplift."""
    treated, control = outcome_models(forester, matrix, treatment, outcome)
    weighted = np.where(
        treatment, (outcome - treated.held_out) / propensity, (control.held_out - outcome) / (1.0 - propensity)
    )
    return treated.held_out - control.held_out + weighted
