"""The response model: how likely a customer says yes, whoever was contacted. Uplift has to order customers better."""

from __future__ import annotations

from trainers.uplift.boosting import PROBABILITY, CrossFitted, Forester
from trainers.uplift.trial import Trial


def fit_response(forester: Forester, trial: Trial, *, treated_only: bool = False) -> CrossFitted:
    """P(outcome) from all rows, or from those contacted alone, as who has never left anybody alone would learn it."""
    folds = forester.folds(trial.treatment, trial.outcome)
    only = trial.treatment if treated_only else None
    return forester.grow(trial.matrix, trial.outcome, folds, objective=PROBABILITY, only=only)
