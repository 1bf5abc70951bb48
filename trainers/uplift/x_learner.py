"""X-learner: each customer's missing outcome is imputed by the other group's model, and effects are regressed.

Künzel, Sekhon, Bickel, Yu (2019), "Metalearners for estimating heterogeneous treatment effects using machine
learning", PNAS 116(10), equations 9 to 11.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from churnsaver.models.uplift import Learner, UpliftTrees, predict
from trainers.uplift.boosting import EFFECT, Bools, Floats, Forester, Matrix
from trainers.uplift.t_learner import outcome_models


@dataclass(frozen=True, slots=True)
class XLearner:
    """τ1 regresses Y − μ0(x) on the contacted, τ0 regresses μ1(x) − Y on the others; g τ0(x) + (1 − g) τ1(x).

    Any weight g in [0, 1] will do; ours is the share contacted, so that a customer who is new needs no propensity.
    """

    forester: Forester

    def fit(self, matrix: Matrix, treatment: Bools, outcome: Bools, propensity: Floats) -> UpliftTrees:
        """Reads no propensity: no row's effect is imputed by a model that was grown on it."""
        treated, control = outcome_models(self.forester, matrix, treatment, outcome)
        effects = np.where(
            treatment, outcome - predict(control.booster, matrix), predict(treated.booster, matrix) - outcome
        )
        folds = self.forester.folds(treatment, outcome)
        on_treated = self.forester.grow(matrix, effects, folds, objective=EFFECT, only=treatment)
        on_control = self.forester.grow(matrix, effects, folds, objective=EFFECT, only=~treatment)
        boosters = {"effect_on_treated": on_treated.booster, "effect_on_control": on_control.booster}
        return UpliftTrees(Learner.X, boosters, float(treatment.mean()))
