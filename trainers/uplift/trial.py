"""One arm of an experiment against its control, as arrays, or a sentence about why it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.schema import Column, DatasetSchema, Role
from churnsaver.errors import BadInput, SchemaError
from trainers.data import Dataset, Part
from trainers.uplift.boosting import FULL, PROBABILITY, Bools, Floats, Forester, Matrix

# Least rows of each outcome in each arm: to learn from, and to measure on.
MIN_FIT_ROWS = 20
MIN_TEST_ROWS = 10
# Propensities that differ by less are one propensity.
SAME_PROPENSITY = 1e-9
# An estimated propensity is kept this far from 0 and 1, so that no row weighs more than twenty.
CLIP = 0.05
MAX_DEVIATIONS = 4.5  # of a share drawn in the stated proportion: 7 in a million trials are farther away


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm and the control that it is compared with.

    Attributes:
        rows: those of the two alone.
        arm, control: their values in the treatment column.
    """

    rows: Dataset
    arm: str
    control: str

    def take(self, *parts: Part) -> Comparison:
        return replace(self, rows=self.rows.take(*parts))

    @property
    def outcome(self) -> str:
        """Name of the outcome's column."""
        return str(self.rows.column(Role.OUTCOME).name)


@dataclass(frozen=True, slots=True)
class Trial:
    """A comparison as arrays.

    Attributes:
        matrix: (n, features), categories as codes, NaN missing.
        treatment: (n,) whether a row is the arm's.
        outcome: (n,) whether it said yes.
        propensity: (n,) the probability with which a row of the two came into the arm.
        feature_types: XGBoost's, one a feature.
        how: "by design", "logged" or "estimated": where the propensities come from.
    """

    matrix: Matrix
    treatment: Bools
    outcome: Bools
    propensity: Floats
    feature_types: list[str]
    how: str

    def __len__(self) -> int:
        return len(self.treatment)

    @property
    def mass(self) -> Floats | None:
        """How many customers each row stands for, (n,): its arm's share over the probability of coming into it.

        None where every row had the same propensity, so that each stands for itself. Where they vary, whoever was
        likely to be contacted is common among the treated, and plain rates compare different customers.
        """
        if np.ptp(self.propensity) < SAME_PROPENSITY:
            return None
        share = float(self.treatment.mean())
        return np.where(self.treatment, share / self.propensity, (1.0 - share) / (1.0 - self.propensity))

    def joined(self, other: Trial) -> Trial:
        """These rows, and after them those of `other`."""
        return replace(
            self,
            matrix=np.concatenate([self.matrix, other.matrix]),
            treatment=np.concatenate([self.treatment, other.treatment]),
            outcome=np.concatenate([self.outcome, other.outcome]),
            propensity=np.concatenate([self.propensity, other.propensity]),
        )

    def pick(self, rows: NDArray[np.int64]) -> Trial:
        """The rows with these numbers."""
        return replace(
            self,
            matrix=self.matrix[rows],
            treatment=self.treatment[rows],
            outcome=self.outcome[rows],
            propensity=self.propensity[rows],
        )


def with_outcome(schema: DatasetSchema, name: str) -> DatasetSchema:
    """`schema` with column `name` as its outcome, which says yes as the schema's own outcome does.

    Raises:
        BadInput: the schema has no such column, or no outcome of its own to go by.
    """
    own = schema.name_of(Role.OUTCOME)
    if own == name:
        return schema
    if own is None or name not in schema.columns:
        others = ", ".join(schema.names(Role.OUTCOME, Role.IGNORE)) or "none"
        raise BadInput(f"schema {schema.name}: --outcome {name!r} is no column of it; expected one of {others}")
    chosen = Column(role=Role.OUTCOME, yes=schema.columns[own].yes)
    columns = {**schema.columns, own: Column(role=Role.IGNORE), name: chosen}
    return schema.model_copy(update={"columns": columns})


def compare(dataset: Dataset, arm: str | None) -> Comparison:
    """The rows of `arm` and of the control; `arm` may be None where there is only one.

    Raises:
        SchemaError: the schema says of no column that it is the treatment, the outcome or the control, or the
            treatment does not vary.
        BadInput: `arm` is none of the treatments, or is needed to choose among several.
    """
    column = dataset.column(Role.TREATMENT)
    dataset.column(Role.OUTCOME)
    where = f"{dataset.source}, column {column.name}"
    control = dataset.schema.columns[column.name].control
    if control is None:
        raise SchemaError(
            f"schema {dataset.schema.name}, column {column.name}: say with `control` which value means left alone"
        )
    found = sorted(set(column.drop_nulls()))
    arms = [value for value in found if value != control]
    if not arms or control not in found:
        raise SchemaError(
            f"{where}: every row is {', '.join(map(repr, found[:5]))}; uplift compares contacted customers with others "
            f"who were left alone ({control!r}), so give rows of both"
        )
    if arm is None and len(arms) > 1:
        raise BadInput(f"{where}: has {len(arms)} arms; choose one with --arm: {', '.join(map(repr, arms))}")
    chosen = arm or arms[0]
    if chosen not in arms:
        why = "is the control" if chosen == control else "is in no row"
        raise BadInput(f"{where}: --arm {chosen!r} {why}; expected one of {', '.join(map(repr, arms))}")
    rows = np.flatnonzero(column.is_in([chosen, control]).fill_null(value=False).to_numpy())
    return Comparison(dataset.pick(rows), chosen, control)


def require_rows(comparison: Comparison, least: int) -> None:
    """SchemaError where an arm has fewer than `least` rows that say yes, or that say no."""
    rows = comparison.rows
    treatment = rows.column(Role.TREATMENT)
    for value in (comparison.arm, comparison.control):
        outcome = rows.yes(Role.OUTCOME)[(treatment == value).to_numpy()]
        yes = int(outcome.sum())
        if min(yes, len(outcome) - yes) < least:
            parts = " and ".join(part for part in Part if (rows.parts == str(part)).any()) or "chosen"
            raise SchemaError(
                f"{rows.source}, column {comparison.outcome}: of the {parts} rows with {treatment.name} {value!r}, "
                f"{yes} say yes and {len(outcome) - yes} no; at least {least} of each are needed, so give more rows"
            )


def trial_of(comparison: Comparison, seed: int) -> Trial:
    """`comparison` as arrays; propensities that nobody knows are estimated from its rows, cross-fitted and clipped.

    Raises:
        SchemaError: an arm has too few rows, or a logged propensity leaves no other choice.
    """
    rows = comparison.rows
    treatment = (rows.column(Role.TREATMENT) == comparison.arm).to_numpy()
    outcome, matrix, types = rows.yes(Role.OUTCOME), rows.matrix(), rows.schema.feature_types()
    if (known := _by_design(comparison)) is not None:
        _require_drawn_so(comparison, treatment, known)
        return Trial(matrix, treatment, outcome, np.full(len(rows), known), types, "by design")
    if _is_logged(rows.schema):
        return Trial(matrix, treatment, outcome, _logged(comparison, treatment), types, "logged")
    forester = Forester(types, FULL, seed)
    folds = forester.folds(treatment, outcome)
    estimated = forester.grow(matrix, treatment, folds, objective=PROBABILITY).held_out
    return Trial(matrix, treatment, outcome, np.clip(estimated, CLIP, 1.0 - CLIP), types, "estimated")


def _by_design(comparison: Comparison) -> float | None:
    """The arm's probability among the two, where the schema says in which proportions they were drawn."""
    column = comparison.rows.schema.columns[comparison.rows.column(Role.TREATMENT).name]
    if column.propensities is None or not {comparison.arm, comparison.control} <= set(column.propensities):
        return None
    arm, control = column.propensities[comparison.arm], column.propensities[comparison.control]
    return arm / (arm + control)


def _require_drawn_so(comparison: Comparison, treatment: Bools, propensity: float) -> None:
    """SchemaError where the arm's share is another than stated, beyond chance: then it was not drawn so."""
    n, stray = len(treatment), float(treatment.mean()) - propensity
    deviations = abs(stray) / float(np.sqrt(propensity * (1.0 - propensity) / n))
    if deviations > MAX_DEVIATIONS:
        column = comparison.rows.column(Role.TREATMENT).name
        raise SchemaError(
            f"{comparison.rows.source}, column {column}: {int(treatment.sum())} of {n} rows are {comparison.arm!r} "
            f"where its proportions say {propensity:.0%}, {deviations:.0f} standard deviations away: this is "
            "not that experiment; give all its rows, or take `proportions` out, so that propensities are estimated"
        )


def _is_logged(schema: DatasetSchema) -> bool:
    """A logged propensity is of the treatment that was drawn: with two, the other one's follows from it."""
    name = schema.name_of(Role.TREATMENT)
    categories = schema.columns[name].categories if name else None
    return schema.name_of(Role.PROPENSITY) is not None and categories is not None and len(categories) == 2


def _logged(comparison: Comparison, treatment: Bools) -> Floats:
    column = comparison.rows.column(Role.PROPENSITY)
    drawn = column.to_numpy()
    if column.null_count() or (drawn >= 1.0).any():
        raise SchemaError(
            f"{comparison.rows.source}, column {column.name}: {int((drawn >= 1.0).sum())} rows have propensity 1 and "
            f"{column.null_count()} none; leave out rows that could not have come into the other arm"
        )
    return np.where(treatment, drawn, 1.0 - drawn)
