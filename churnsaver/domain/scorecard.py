"""The baseline's risk model: a logistic scorecard as JSON, so that the gateway needs no model library.

`train risk` exports it beside the XGBoost model, fitted on the same rows. It answers when the decision
service cannot, or when the kill switch says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from churnsaver.domain.schema import MISSING, DatasetSchema, Scalar, category_text
from churnsaver.domain.world import Frozen


class NumericTerm(Frozen):
    """weight × (value − mean) / std; a missing value stands at the mean, so it adds nothing."""

    mean: float
    std: float
    weight: float


class Scorecard(Frozen):
    """Log-odds of churn: intercept + numeric terms + one weight per category.

    Attributes:
        dataset: the dataset schema, with categories, that requests are validated against.
        threshold: the risk from which the propensity baseline contacts.
        offer: the offer that the propensity baseline makes.
    """

    version: str
    dataset: DatasetSchema
    intercept: float
    numeric: dict[str, NumericTerm]
    categorical: dict[str, dict[str, float]]
    threshold: float
    offer: str

    def risk(self, attributes: Mapping[str, Scalar]) -> float:
        """Probability of churn, [0, 1], of one customer whose attributes follow the schema."""
        log_odds = self.intercept
        for name, term in self.numeric.items():
            value = attributes.get(name)
            if value not in MISSING:
                log_odds += term.weight * (float(value) - term.mean) / term.std
        for name, weights in self.categorical.items():
            log_odds += weights.get(category_text(attributes.get(name)), 0.0)
        # Written so that neither branch overflows.
        if log_odds >= 0:
            return 1.0 / (1.0 + math.exp(-log_odds))
        odds = math.exp(log_odds)
        return odds / (1.0 + odds)
