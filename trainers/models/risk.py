"""`train risk`: the churn model, its calibration and the gateway's scorecard, as one checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from churnsaver.checkpoints import Manifest, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN, MODEL_CARD
from churnsaver.domain.schema import Role
from churnsaver.domain.world import World
from churnsaver.models.trees import CALIBRATION_FILE, MODEL, RISK, SCHEMA, SCORECARD, RiskModel
from trainers.data import Dataset, Part
from trainers.eval.explain import explained, mean_shap
from trainers.eval.metrics import METRICS, bootstrap
from trainers.eval.segments import customer_segments
from trainers.models.boost import Advance, BoostSettings, fit_trees
from trainers.models.cards import card_table, model_card
from trainers.models.checks import beats_base_rate, require_both_classes
from trainers.models.golden import made_up_customers
from trainers.models.scorecard import fit_scorecard, scorecard_risk
from trainers.models.seen import TRAINED_ON, trained_on

LIMITS = """The risk is of whatever the label of the data means, over the time that it means. A customer may be at \
high risk and beyond keeping, or stay if left alone: risk says nothing of what a contact does. Where every customer's \
history was cut at one moment, how long a risk keeps its meaning is not known from the data."""
NO_REVENUE = """The schema names no revenue, so an offer costs nothing and a customer is worth nothing here: the \
scorecard's threshold means nothing until a column has that role."""


def train_risk(
    dataset: Dataset, world: World, out: Path, settings: BoostSettings, seed: int, *, advance: Advance = lambda: None
) -> Manifest:
    """Fits on the train and valid parts, measures on the test part and writes a checkpoint to `out`.

    Raises:
        SchemaError: the schema has no label, or a part has too few rows of a class.
    """
    fit, test = dataset.take(Part.TRAIN, Part.VALID), dataset.take(Part.TEST)
    require_both_classes(dataset, Role.LABEL)
    fitted = fit_trees(
        fit.matrix(), fit.yes(Role.LABEL), dataset.schema.feature_types(), settings, seed, advance=advance
    )
    model = RiskModel(dataset.schema, fitted.trees)
    card = fit_scorecard(fit, world)
    target = test.yes(Role.LABEL)
    matrix, schema = test.matrix(), dataset.schema
    risk = fitted.trees.probability(matrix)
    intervals = bootstrap(target, risk, seed)
    importance = mean_shap(fitted.trees, matrix, schema.feature_types(), schema.feature_names)
    explanation = explained(importance, customer_segments(test, importance), target, risk, seed)
    baseline = scorecard_risk(card, test)
    metrics = {f"test_{name}": interval.value for name, interval in intervals.items()}
    metrics |= {f"scorecard_test_{name}": metric(target, baseline) for name, metric in METRICS.items()}
    files = {
        MODEL: bytes(fitted.trees.booster.save_raw("ubj")),
        SCHEMA: dataset.schema.model_dump_json(indent=2, exclude_defaults=True).encode(),
        CALIBRATION_FILE: fitted.trees.calibration.model_dump_json().encode(),
        SCORECARD: card.model_dump_json(indent=2).encode(),
        TRAINED_ON: trained_on(fit),
        GOLDEN: json.dumps(_golden(model, fit, seed), indent=1).encode(),
        MODEL_CARD: model_card(
            title="Churn risk",
            use="Calibrated probability that a customer leaves, for deciding whom to contact. It says who may "
            "leave, not who can be kept: that is the policy's and the acceptance model's part.",
            dataset=dataset,
            fitted=fitted,
            results=card_table(intervals)
            + f"\nThe scorecard beside it (the gateway's baseline) has AUC {metrics['scorecard_test_auc']:.4f} on the "
            f"same rows; it offers `{card.offer}` from a risk of {card.threshold:.3f}, which spends the campaign's "
            "budget on the riskiest customers once.",
            explanation=explanation,
            limits=LIMITS if schema.name_of(Role.REVENUE) else f"{LIMITS}\n\n{NO_REVENUE}",
        ).encode(),
    }
    gate = beats_base_rate(fit.yes(Role.LABEL), target, intervals["log_loss"].value)
    return write_checkpoint(out, RISK, files, seed=seed, metrics=metrics, data_sha256=dataset.sha256, gate=gate)


def _golden(model: RiskModel, dataset: Dataset, seed: int) -> list[dict[str, Any]]:
    """Customers who are none, and their risks."""
    rows = made_up_customers(dataset, seed)
    return [{"attributes": row, "risk": risk} for row, risk in zip(rows, model.risk(rows).tolist(), strict=True)]
