"""`eval accept`: the acceptance model on contacts that it was not trained on, as a whole and by offer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.schema import Role
from churnsaver.errors import BadInput
from churnsaver.models.trees import AcceptanceModel, offers_known
from trainers.data import Dataset
from trainers.eval.explain import explained, mean_shap
from trainers.eval.metrics import METRICS, bootstrap, bootstrap_difference, ece_floor
from trainers.eval.metrics import reliability as reliability_points
from trainers.eval.model_report import ModelReport, auc_missed, ece_missed
from trainers.eval.segments import offer_segments
from trainers.models.accept import offer_matrix

Floats = NDArray[np.float64]


def evaluate_acceptance(model: AcceptanceModel, rows: Dataset, seed: int) -> ModelReport:
    """Measures a checkpoint on logged contacts, which it must not have been trained on.

    The baseline gives every contact the acceptance rate of the offer that was made, as these very rows have
    it, so it has seen the answers and knows no customer. Gates, as of the risk model: the AUC is not worse than
    the baseline's, paired; the ECE is one that perfect probabilities would show on as many rows.

    Raises:
        BadInput: an offer was made that the model does not know.
    """
    _require_known(model, rows)
    matrix, target = offer_matrix(rows, model.schema), rows.yes(Role.OUTCOME)
    made = rows.column(Role.TREATMENT).to_numpy()
    ours, baseline = model.trees.probability(matrix), _offer_rates(made, target)
    intervals = bootstrap(target, ours, seed)
    differences = {
        name: bootstrap_difference(METRICS[name], target, ours, baseline, seed) for name in ("auc", "log_loss")
    }
    floor_mean, floor_sd = ece_floor(ours, seed)
    treatment = rows.column(Role.TREATMENT).name
    names = [*model.schema.feature_names, treatment]
    result = {
        "rows": len(rows),
        "yes_rate": float(target.mean()),
        "metrics": {name: interval.as_dict() for name, interval in intervals.items()},
        **{f"{name}_difference": {"offer_rate": interval.as_dict()} for name, interval in differences.items()},
        "ece_floor": {"mean": floor_mean, "sd": floor_sd},
        **explained(
            mean_shap(model.trees, matrix, [*model.schema.feature_types(), "c"], names),
            offer_segments(rows),
            target,
            ours,
            seed,
        ),
        "missed": auc_missed({"offer_rate": differences["auc"]})
        + ece_missed(intervals["ece"].value, floor_mean, floor_sd),
    }
    curves = {"acceptance model": reliability_points(target, ours), "offer rate": reliability_points(target, baseline)}
    return ModelReport(result, curves)


def _require_known(model: AcceptanceModel, rows: Dataset) -> None:
    known, made = offers_known(model.schema), rows.column(Role.TREATMENT)
    if unknown := sorted(set(made) - set(known)):
        raise BadInput(
            f"{rows.source}, column {made.name}: the offer {unknown[0]!r} is unknown to the checkpoint, which knows "
            f"{', '.join(known)}; train it on contacts that made it, or take these rows out"
        )


def _offer_rates(made: NDArray[np.str_], target: NDArray[np.bool_]) -> Floats:
    """The acceptance rate of each row's offer, (n,)."""
    _, codes = np.unique(made, return_inverse=True)
    return (np.bincount(codes, weights=target) / np.bincount(codes))[codes]
