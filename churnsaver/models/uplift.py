"""Uplift: by how much a contact changes the probability of an outcome, from boosted trees.

Needs XGBoost and NumPy only. The trainers measure with this very code, so what is measured is what serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Self

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.schema import DatasetSchema, Scalar
from churnsaver.domain.world import Frozen
from churnsaver.errors import CheckpointError
from churnsaver.models.trees import check_golden, read_booster, read_golden, read_schema

UPLIFT, SPEC, RESPONSE = "uplift", "spec.json", "response"
PERCENTS = 100

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]


class Learner(StrEnum):
    """How the effect is learned; `trainers.uplift` says what each is."""

    S = "s"
    T = "t"
    X = "x"
    DR = "dr"


# The boosters of each learner, which are files of the checkpoint, `<name>.ubj`.
BOOSTERS = {
    Learner.S: ("outcome",),
    Learner.T: ("treated", "control"),
    Learner.X: ("effect_on_treated", "effect_on_control"),
    Learner.DR: ("effect",),
}


class UpliftSpec(Frozen):
    """What an uplift checkpoint compares, and what its cross-validation promised.

    Attributes:
        learner: which of BOOSTERS it holds.
        arm, control: the two treatments that are compared, as the schema writes them.
        outcome: the column whose yes is counted.
        treated_share: of the rows that were learned from; the X-learner's weight.
        gains: (PERCENTS,) more outcomes a customer when the best 1 %, 2 %, …, 100 % are contacted than when nobody
            is, on rows that were held out in cross-validation. Whoever knows what a contact costs and an outcome
            earns reads off how many to contact.
    """

    learner: Learner
    arm: str
    control: str
    outcome: str
    treated_share: float = Field(gt=0, lt=1)
    gains: Annotated[tuple[float, ...], Field(min_length=PERCENTS, max_length=PERCENTS)]


class UpliftGolden(Frozen):
    """One customer who is no real one, and the uplift that the checkpoint must give them."""

    attributes: dict[str, Scalar]
    uplift: float


class UpliftTrees:
    """The boosters of one learner.

    Args:
        learner: how they are put together.
        boosters: by the names in BOOSTERS.
        treated_share: share of the rows learned from that were treated.
    """

    def __init__(self, learner: Learner, boosters: Mapping[str, xgb.Booster], treated_share: float) -> None:
        for booster in boosters.values():
            booster.set_param({"nthread": 1})  # one thread adds up in one order (law 8)
        self.learner, self.boosters, self.treated_share = learner, dict(boosters), treated_share

    def uplift(self, matrix: Matrix) -> Floats:
        """P(outcome | contacted) − P(outcome | left alone) of each row of `matrix` (n, features), (n,)."""
        first, *second = (self.boosters[name] for name in BOOSTERS[self.learner])
        match self.learner:
            case Learner.S:
                return predict(first, with_treatment(matrix, 1.0)) - predict(first, with_treatment(matrix, 0.0))
            case Learner.T:
                return predict(first, matrix) - predict(second[0], matrix)
            case Learner.X:
                share = self.treated_share
                return (1.0 - share) * predict(first, matrix) + share * predict(second[0], matrix)
            case Learner.DR:
                return predict(first, matrix)


class UpliftModel:
    """An uplift checkpoint.

    Attributes:
        schema: of the customers.
        spec: what is compared.
        trees: give the uplift.
        response: P(outcome), whoever was contacted: the ordering that uplift has to beat.
    """

    def __init__(self, schema: DatasetSchema, spec: UpliftSpec, trees: UpliftTrees, response: xgb.Booster) -> None:
        self.schema, self.spec, self.trees, self.response = schema, spec, trees, response

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Self:
        """Reads an uplift checkpoint; CheckpointError where a golden case comes out differently."""
        schema = read_schema(checkpoint)
        try:
            spec = UpliftSpec.model_validate(checkpoint.read_json(SPEC))
        except ValidationError:
            raise CheckpointError(f"{checkpoint.path / SPEC}: is no uplift model's; train it again") from None
        features = len(schema.feature_names)
        seen = features + (spec.learner is Learner.S)
        boosters = {name: read_booster(checkpoint, f"{name}.ubj", seen) for name in BOOSTERS[spec.learner]}
        trees = UpliftTrees(spec.learner, boosters, spec.treated_share)
        model = cls(schema, spec, trees, read_booster(checkpoint, f"{RESPONSE}.ubj", features))
        golden = read_golden(checkpoint, _Goldens).cases
        found = model.uplift([case.attributes for case in golden])
        check_golden(checkpoint, found, np.array([case.uplift for case in golden]))
        return model

    def uplift(self, rows: Sequence[Mapping[str, Scalar]]) -> Floats:
        """Uplift of each customer, (n,), in probability. Rows must have passed `schema.check_row`."""
        return self.trees.uplift(self.schema.encode(rows))


def predict(booster: xgb.Booster, matrix: Matrix) -> Floats:
    """A booster's prediction of each row of `matrix` (n, features), (n,): a probability where it was trained on one."""
    return np.asarray(booster.inplace_predict(matrix, validate_features=False), dtype=np.float64)


def with_treatment(matrix: Matrix, treatment: float | NDArray[np.bool_]) -> Matrix:
    """`matrix` (n, features) with the treatment, one for all or (n,), as its last column."""
    column = np.broadcast_to(np.asarray(treatment, dtype=np.float32), (len(matrix),))
    return np.column_stack([matrix, column])


class _Goldens(Frozen):
    cases: tuple[UpliftGolden, ...] = Field(min_length=1)
