"""`train accept`: who accepts which offer when contacted, from a log of contacts, as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churnsaver.checkpoints import Manifest, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN, MODEL_CARD
from churnsaver.domain.schema import DatasetSchema, Role
from churnsaver.domain.world import World
from churnsaver.errors import SchemaError
from churnsaver.models.trees import (
    ACCEPTANCE,
    CALIBRATION_FILE,
    MODEL,
    SCHEMA,
    AcceptanceModel,
    acceptance_fault,
    offers_known,
)
from trainers.data import Dataset, Part
from trainers.eval.explain import explained, mean_shap
from trainers.eval.metrics import bootstrap
from trainers.eval.segments import offer_segments
from trainers.models.boost import Advance, BoostSettings, fit_trees
from trainers.models.cards import card_table, model_card
from trainers.models.checks import beats_base_rate, require_both_classes
from trainers.models.seen import TRAINED_ON, trained_on

# Customers that never were: low, middling and high risk, cheap and dear plans, new and old.
GOLDEN_CUSTOMERS = [(0.05, 20.0, 60.0), (0.2, 45.0, 24.0), (0.5, 70.0, 6.0), (0.8, 95.0, 1.0), (0.35, 120.0, 0.0)]
LIMITS = """It learned from those whom the old policy contacted; of customers or offers that it never tried, and of a \
second contact soon after a first, it knows nothing. It knows risk, charge and tenure alone, because that is what is \
known when an offer is chosen; most of what it says is how well an offer is liked."""


def train_accept(
    dataset: Dataset, world: World, out: Path, settings: BoostSettings, seed: int, *, advance: Advance = lambda: None
) -> Manifest:
    """Fits on the train and valid parts, measures on the test part and writes a checkpoint to `out`.

    The propensity is logged for off-policy evaluation; a regression of acceptance on all that the old
    policy saw needs no weights.

    Raises:
        SchemaError: the schema is no contact log's, an offer of `world` was never made, or a part has
            too few rows of a class.
    """
    schema = dataset.schema
    if (fault := acceptance_fault(schema)) is not None:
        raise SchemaError(f"{dataset.source}: {fault}")
    require_both_classes(dataset, Role.OUTCOME)
    fit, test = dataset.take(Part.TRAIN, Part.VALID), dataset.take(Part.TEST)
    _require_offers(fit, world)
    feature_types = [*schema.feature_types(), "c"]
    fitted = fit_trees(offer_matrix(fit), fit.yes(Role.OUTCOME), feature_types, settings, seed, advance=advance)
    model = AcceptanceModel(schema, fitted.trees, offers_known(schema))
    matrix, target = offer_matrix(test), test.yes(Role.OUTCOME)
    accepts = fitted.trees.probability(matrix)
    intervals = bootstrap(target, accepts, seed)
    names = [*schema.feature_names, test.column(Role.TREATMENT).name]
    explanation = explained(
        mean_shap(fitted.trees, matrix, feature_types, names), offer_segments(test), target, accepts, seed
    )
    files = {
        MODEL: bytes(fitted.trees.booster.save_raw("ubj")),
        SCHEMA: schema.model_dump_json(indent=2, exclude_defaults=True).encode(),
        CALIBRATION_FILE: fitted.trees.calibration.model_dump_json().encode(),
        TRAINED_ON: trained_on(fit),
        GOLDEN: json.dumps(_golden(model), indent=1).encode(),
        MODEL_CARD: model_card(
            title="Offer acceptance",
            use="Calibrated probability that a customer who is contacted accepts an offer. Acceptance is not "
            "retention: whoever would have stayed may accept, too.",
            dataset=dataset,
            fitted=fitted,
            results=card_table(intervals),
            explanation=explanation,
            limits=LIMITS,
        ).encode(),
    }
    metrics = {f"test_{name}": interval.value for name, interval in intervals.items()}
    gate = beats_base_rate(fit.yes(Role.OUTCOME), target, intervals["log_loss"].value)
    return write_checkpoint(out, ACCEPTANCE, files, seed=seed, metrics=metrics, data_sha256=dataset.sha256, gate=gate)


def offer_matrix(dataset: Dataset, schema: DatasetSchema | None = None) -> NDArray[np.float32]:
    """Features of logged contacts, (n, features + 1): the last is the code of the offer that was made.

    `schema` is a model's, where its offers have other codes than this dataset's.
    """
    codes = {offer: code for code, offer in enumerate(offers_known(schema or dataset.schema))}
    made = [codes[offer] for offer in dataset.column(Role.TREATMENT)]
    return np.column_stack([dataset.matrix(schema), np.array(made, dtype=np.float32)])


def _require_offers(fit: Dataset, world: World) -> None:
    made = set(fit.column(Role.TREATMENT))
    if missing := [offer.id for offer in world.offers if offer.id not in made]:
        raise SchemaError(
            f"{fit.source}, column {fit.column(Role.TREATMENT).name}: the offer {missing[0]!r} of env.yaml was never "
            f"made; add contacts that made it, or take it out of env.yaml (made: {', '.join(sorted(made))})"
        )


def _golden(model: AcceptanceModel) -> list[dict[str, Any]]:
    risk, monthly_usd, tenure_months = zip(*GOLDEN_CUSTOMERS, strict=True)
    acceptance = model.acceptance(risk, monthly_usd, tenure_months)
    return [
        {
            "risk": customer[0],
            "monthly_usd": customer[1],
            "tenure_months": customer[2],
            "acceptance": dict(zip(model.offers, row.tolist(), strict=True)),
        }
        for customer, row in zip(GOLDEN_CUSTOMERS, acceptance, strict=True)
    ]
