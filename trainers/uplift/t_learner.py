"""T-learner: two models of the outcome, one of the customers contacted and one of those left alone.

Künzel, Sekhon, Bickel, Yu (2019), "Metalearners for estimating heterogeneous treatment effects using machine
learning", PNAS 116(10), section "T-learner".
"""

from __future__ import annotations

from dataclasses import dataclass

from churnsaver.models.uplift import Learner, UpliftTrees
from trainers.uplift.boosting import PROBABILITY, Bools, CrossFitted, Floats, Forester, Matrix


@dataclass(frozen=True, slots=True)
class TLearner:
    """μ1(x) = P(Y | x, contacted), μ0(x) = P(Y | x, left alone); the uplift is μ1(x) − μ0(x)."""

    forester: Forester

    def fit(self, matrix: Matrix, treatment: Bools, outcome: Bools, propensity: Floats) -> UpliftTrees:
        """Reads no propensity: each model sees one treatment alone."""
        treated, control = outcome_models(self.forester, matrix, treatment, outcome)
        boosters = {"treated": treated.booster, "control": control.booster}
        return UpliftTrees(Learner.T, boosters, float(treatment.mean()))


def outcome_models(
    forester: Forester, matrix: Matrix, treatment: Bools, outcome: Bools
) -> tuple[CrossFitted, CrossFitted]:
    """μ1 and μ0, each with its held-out prediction for every row."""
    folds = forester.folds(treatment, outcome)
    return (
        forester.grow(matrix, outcome, folds, objective=PROBABILITY, only=treatment),
        forester.grow(matrix, outcome, folds, objective=PROBABILITY, only=~treatment),
    )
