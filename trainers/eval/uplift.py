"""`eval uplift`: a checkpoint on rows that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from churnsaver.models.uplift import UpliftModel, predict
from trainers.eval.metrics import Interval
from trainers.eval.uplift_metrics import Curve, Judge
from trainers.eval.uplift_value import Prices, best_percent, deciles, effect, policy_value, sleeping_dogs
from trainers.uplift.trial import Comparison, trial_of


@dataclass(frozen=True, slots=True)
class UpliftReport:
    """What was measured.

    Attributes:
        result: for `--json`: numbers, intervals and, under "missed", the targets that were missed.
        curves: Qini curve of each order, by its name.
    """

    result: dict[str, Any]
    curves: dict[str, Curve]


def evaluate_checkpoint(model: UpliftModel, test: Comparison, prices: Prices | None, seed: int) -> UpliftReport:
    """Measures a checkpoint on `test`, which it must not have been trained on.

    Gate: its Qini is above that of the response model on the same rows, paired, and above that of chance. How many
    customers to contact at `prices` was read off the checkpoint's cross-validated gains; what that earns is measured
    here.
    """
    trial = trial_of(test, seed)
    judge = Judge(trial.outcome, trial.treatment, trial.mass)
    matrix = test.rows.matrix(model.schema)  # a file with other categories gives them other codes
    ours, propensity = model.trees.uplift(matrix), predict(model.response, matrix)
    gain = judge.qini_gain(ours, propensity, seed)
    result: dict[str, Any] = {
        "learner": str(model.spec.learner),
        "arm": test.arm,
        "control": test.control,
        "outcome": test.outcome,
        "rows": len(trial),
        "treated_rows": int(trial.treatment.sum()),
        "propensities": trial.how,
        "weighted_by_propensity": trial.mass is not None,
        "mean_effect": effect(trial, np.ones(len(trial), dtype=np.bool_)).value,
        "metrics": {name: interval.as_dict() for name, interval in judge.measure(ours, seed).items()},
        "propensity": {name: interval.as_dict() for name, interval in judge.measure(propensity, seed).items()},
        "qini_gain_over_propensity": gain.as_dict(),
        "sleeping_dogs": sleeping_dogs(trial, ours),
        "deciles": deciles(trial, ours),
    }
    if prices is not None:
        percent = best_percent(np.array(model.spec.gains), prices)
        result["policy_value"] = policy_value(trial, ours, propensity, percent, prices, seed)
    by_chance = judge.qini_gain(ours, np.zeros(len(trial)), seed)
    result["missed"] = missed_gain({"propensity": gain, "chance": by_chance})
    curves = {
        name: judge.ranking(score).qini_curve() for name, score in {"uplift": ours, "propensity": propensity}.items()
    }
    return UpliftReport(result, curves)


def missed_gain(gains: dict[str, Interval]) -> list[str]:
    """A sentence for each order whose Qini is not provably beaten."""
    return [
        f"Qini gain over {other} is {gain.value:.4f}, at least {gain.low:.4f}: not above 0"
        for other, gain in gains.items()
        if not gain.low > 0.0
    ]
