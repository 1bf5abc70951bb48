"""S-learner: a single model of the outcome that sees the treatment as one more feature.

Künzel, Sekhon, Bickel, Yu (2019), "Metalearners for estimating heterogeneous treatment effects using machine
learning", PNAS 116(10), section "S-learner".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from churnsaver.models.uplift import Learner, UpliftTrees, with_treatment
from trainers.uplift.boosting import PROBABILITY, Bools, Floats, Forester, Matrix


@dataclass(frozen=True, slots=True)
class SLearner:
    """μ(x, t) = P(Y | x, t); the uplift is μ(x, 1) − μ(x, 0)."""

    forester: Forester

    def fit(self, matrix: Matrix, treatment: Bools, outcome: Bools, propensity: Floats) -> UpliftTrees:
        """Reads no propensity: the outcome's model conditions on the treatment."""
        forester = replace(self.forester, feature_types=[*self.forester.feature_types, "q"])
        folds = forester.folds(treatment, outcome)
        fitted = forester.grow(with_treatment(matrix, treatment), outcome, folds, objective=PROBABILITY)
        return UpliftTrees(Learner.S, {"outcome": fitted.booster}, float(treatment.mean()))
