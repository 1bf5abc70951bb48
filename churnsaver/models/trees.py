"""Risk and acceptance: gradient-boosted trees with a calibration, as the decision service runs them.

Needs XGBoost and NumPy only. The trainers measure with this very code, so what is measured is what serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import xgboost as xgb
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError

from churnsaver.checkpoints import Checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN
from churnsaver.domain.schema import DatasetSchema, Role, Scalar
from churnsaver.domain.world import Frozen, World
from churnsaver.errors import CheckpointError
from churnsaver.models.calibration import CALIBRATION, Calibration

RISK, ACCEPTANCE = "risk", "acceptance"
MODEL, SCHEMA, CALIBRATION_FILE, SCORECARD = "model.ubj", "schema.json", "calibration.json", "scorecard.json"
GOLDEN_TOLERANCE = 1e-6
Golden = TypeVar("Golden", bound=Frozen)


class RiskGolden(Frozen):
    """One customer who is no real one, and the risk that the checkpoint must give them."""

    attributes: dict[str, Scalar]
    risk: float


class AcceptanceGolden(Frozen):
    """One made-up customer, and the acceptance of each offer that the checkpoint must give them."""

    risk: float
    monthly_usd: float
    tenure_months: float
    acceptance: dict[str, float]


@dataclass(frozen=True, slots=True)
class Reason:
    """What one attribute adds to a customer's log-odds of churn.

    Attributes:
        feature: the attribute's name.
        value: what it is for this customer; None where it is missing.
        log_odds: its SHAP value, in log-odds before calibration; above zero it raises the risk.
    """

    feature: str
    value: Scalar
    log_odds: float


class CalibratedTrees:
    """An XGBoost model and the calibration of its margin.

    Args:
        booster: trained with `binary:logistic`.
        calibration: fitted on margins of rows that the booster's twins had not seen.
    """

    def __init__(self, booster: xgb.Booster, calibration: Calibration) -> None:
        # One row takes less time than waking a thread, and one thread adds up in one order (law 8).
        booster.set_param({"nthread": 1})
        self.booster = booster
        self.calibration = calibration

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, features: int) -> Self:
        """Reads `model.ubj` and `calibration.json`; CheckpointError where they do not fit."""
        booster = read_booster(checkpoint, MODEL, features)
        try:
            calibration = CALIBRATION.validate_python(checkpoint.read_json(CALIBRATION_FILE))
        except ValidationError:
            raise CheckpointError(f"{checkpoint.path / CALIBRATION_FILE}: is no calibration; train it again") from None
        return cls(booster, calibration)

    def probability(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated probability of each row of `matrix` (n, features), shape (n,)."""
        return self.calibration.probability(self.margin(matrix))

    def margin(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Uncalibrated log-odds of each row of `matrix` (n, features), shape (n,)."""
        margin = self.booster.inplace_predict(matrix, predict_type="margin", validate_features=False)
        return np.asarray(margin, dtype=np.float64)

    def contributions(self, matrix: NDArray[np.float32], feature_types: list[str]) -> NDArray[np.float64]:
        """SHAP values of each row of `matrix`, (n, features + 1): they add up to the margin, the last is its mean.

        Exact for trees (Lundberg et al. 2018, "Consistent individualized feature attribution for tree
        ensembles"); XGBoost computes them. `feature_types` are those that the booster was trained with.
        """
        data = xgb.DMatrix(matrix, feature_types=feature_types, nthread=1)
        return np.asarray(self.booster.predict(data, pred_contribs=True), dtype=np.float64)


class RiskModel:
    """Calibrated probability of churn of customers who follow a dataset schema."""

    def __init__(self, schema: DatasetSchema, trees: CalibratedTrees) -> None:
        self.schema = schema
        self.trees = trees

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Self:
        """Reads a risk checkpoint; CheckpointError where a golden case comes out differently."""
        schema = read_schema(checkpoint)
        model = cls(schema, CalibratedTrees.from_checkpoint(checkpoint, len(schema.feature_names)))
        golden = read_golden(checkpoint, _RiskGoldens).cases
        found = model.risk([case.attributes for case in golden])
        check_golden(checkpoint, found, np.array([case.risk for case in golden]))
        return model

    def risk(self, rows: Sequence[Mapping[str, Scalar]]) -> NDArray[np.float64]:
        """Probability of churn of each customer, (n,). Rows must have passed `schema.check_row`."""
        return self.trees.probability(self.schema.encode(rows))

    def reasons(self, rows: Sequence[Mapping[str, Scalar]], top: int = 3) -> list[list[Reason]]:
        """The `top` attributes that move each customer's risk most, up or down, the strongest first.

        They say what the model read, not what caused a customer to leave.
        """
        shap = self.trees.contributions(self.schema.encode(rows), self.schema.feature_types())[:, :-1]
        names = self.schema.feature_names
        strongest = np.argsort(-np.abs(shap), axis=1, kind="stable")[:, :top]
        return [
            [Reason(names[j], row.get(names[j]), float(values[j])) for j in order]
            for row, values, order in zip(rows, shap, strongest, strict=True)
        ]


class AcceptanceModel:
    """Calibrated probability that a customer who is contacted accepts an offer, for a world's offers.

    The trees see the schema's numeric columns in its order, then the offer's code among `offers_known`.
    """

    def __init__(self, schema: DatasetSchema, trees: CalibratedTrees, offers: Sequence[str]) -> None:
        self.schema = schema
        self.trees = trees
        self.offers = tuple(offers)
        known = offers_known(schema)
        self._codes = np.array([known.index(offer) for offer in self.offers], dtype=np.float32)
        self._roles = [schema.columns[name].role for name in schema.feature_names]
        self._unit_months = schema.columns[schema.names(Role.TENURE)[0]].unit_months

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, world: World) -> Self:
        """Reads an acceptance checkpoint for the offers of `world`.

        Raises:
            CheckpointError: it does not know an offer of the world, reads other features than risk,
                monthly charge and tenure, or a golden case comes out differently.
        """
        schema = read_schema(checkpoint)
        if (fault := acceptance_fault(schema)) is not None:
            raise CheckpointError(f"{checkpoint.path / SCHEMA}: {fault}; train it again")
        known, offers = offers_known(schema), [offer.id for offer in world.offers]
        if unknown := [offer for offer in offers if offer not in known]:
            raise CheckpointError(
                f"{checkpoint.path}: does not know the offer {unknown[0]!r} of env.yaml, only {', '.join(known)}; "
                "run `train accept` on contacts that made it, or take it out of env.yaml"
            )
        trees = CalibratedTrees.from_checkpoint(checkpoint, len(schema.feature_names) + 1)
        golden = read_golden(checkpoint, _AcceptanceGoldens).cases
        whole = cls(schema, trees, known)
        found = whole.acceptance(*_golden_columns(golden))
        expected = np.array([[case.acceptance.get(offer, np.nan) for offer in known] for case in golden])
        check_golden(checkpoint, found, expected)
        return cls(schema, trees, offers)

    def acceptance(self, risk: ArrayLike, monthly_usd: ArrayLike, tenure_months: ArrayLike) -> NDArray[np.float64]:
        """Probability of accepting each offer if contacted, (n, offers). All arguments are (n,)."""
        by_role = {
            Role.NUMERIC: np.atleast_1d(np.asarray(risk, dtype=np.float32)),
            Role.REVENUE: np.atleast_1d(np.asarray(monthly_usd, dtype=np.float32)),
            Role.TENURE: np.atleast_1d(np.asarray(tenure_months, dtype=np.float32)) / np.float32(self._unit_months),
        }
        n, n_offers = len(by_role[Role.NUMERIC]), len(self.offers)
        columns = [np.repeat(by_role[role], n_offers) for role in self._roles]
        matrix = np.column_stack([*columns, np.tile(self._codes, n)])
        return self.trees.probability(matrix).reshape(n, n_offers)


def acceptance_fault(schema: DatasetSchema) -> str | None:
    """Why a schema cannot describe a contact log, or None: it needs exactly what serving knows of a contact."""
    for role in (Role.TREATMENT, Role.OUTCOME, Role.NUMERIC, Role.REVENUE, Role.TENURE):
        if (count := len(schema.names(role))) != 1:
            meaning = " (the churn risk)" if role is Role.NUMERIC else ""
            return f"schema {schema.name} has {count} columns with the role {role}{meaning}; a contact log needs one"
    if named := schema.names(Role.CATEGORICAL):
        return (
            f"column {named[0]!r} of schema {schema.name} is unknown when an offer is chosen; give it the role ignore"
        )
    return None


def offers_known(schema: DatasetSchema) -> tuple[str, ...]:
    """The offers of a contact log's schema, in the order of their codes."""
    name = schema.name_of(Role.TREATMENT)
    return (schema.columns[name].categories or ()) if name else ()


class _RiskGoldens(Frozen):
    cases: tuple[RiskGolden, ...] = Field(min_length=1)


class _AcceptanceGoldens(Frozen):
    cases: tuple[AcceptanceGolden, ...] = Field(min_length=1)


def _golden_columns(cases: Sequence[AcceptanceGolden]) -> tuple[list[float], list[float], list[float]]:
    return [c.risk for c in cases], [c.monthly_usd for c in cases], [c.tenure_months for c in cases]


def read_booster(checkpoint: Checkpoint, name: str, features: int) -> xgb.Booster:
    """The XGBoost model in file `name`; CheckpointError where it is none or reads another number of features."""
    try:
        booster = xgb.Booster(model_file=bytearray(checkpoint.read(name)))
    except xgb.core.XGBoostError:
        raise CheckpointError(f"{checkpoint.path / name}: is no XGBoost model; train it again") from None
    if booster.num_features() != features:
        raise CheckpointError(
            f"{checkpoint.path / name}: reads {booster.num_features()} features, its {SCHEMA} has {features}; "
            "train it again"
        )
    return booster


def read_schema(checkpoint: Checkpoint) -> DatasetSchema:
    """The schema that the checkpoint was trained with; CheckpointError where there is none."""
    try:
        return DatasetSchema.parse(checkpoint.read_json(SCHEMA))
    except ValidationError:
        raise CheckpointError(f"{checkpoint.path / SCHEMA}: is no dataset schema; train it again") from None


def read_golden(checkpoint: Checkpoint, model: type[Golden]) -> Golden:
    """The checkpoint's golden cases as the `cases` of `model`; CheckpointError where there are none."""
    try:
        return model.model_validate({"cases": checkpoint.read_json(GOLDEN)})
    except ValidationError:
        raise CheckpointError(f"{checkpoint.path / GOLDEN}: holds no golden cases; train it again") from None


def check_golden(checkpoint: Checkpoint, found: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    """CheckpointError where the golden cases do not come out as they did in training."""
    difference = float(np.max(np.abs(found - expected)))
    if not difference <= GOLDEN_TOLERANCE:  # a NaN is a difference, too
        raise CheckpointError(
            f"{checkpoint.path}: golden cases come out {difference:.2g} off (more than {GOLDEN_TOLERANCE:g}); "
            "the model and this version of XGBoost do not agree, train it again"
        )
