"""Dataset schemas: which column of anyone's CSV means what, and the encoding that models share.

A schema is a YAML file. Trainers validate a CSV with it and the gateway validates a request's
attributes with the very same rules, because a checkpoint carries the schema that it was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from churnsaver.domain.world import Frozen
from churnsaver.errors import SchemaError

Scalar = str | float | int | bool | None
MISSING = ("", " ", None)
# Where a schema names no range of its own. Nobody's charge is a million dollars a month, and beyond a billion
# 32-bit floats and integer cents lose what a number meant.
MAX_NUMBER = 1e9
MAX_REVENUE_USD = 1e6
MAX_INTEGER = 2**63 - 1


class Role(StrEnum):
    """What a column is to the models.

    `revenue` and `tenure` are numeric features with a meaning. `outcome` (yes or no) and `outcome_usd` (money)
    came after the treatment and are no features.
    """

    ID = "id"
    LABEL = "label"
    TREATMENT = "treatment"
    PROPENSITY = "propensity"
    OUTCOME = "outcome"
    OUTCOME_USD = "outcome_usd"
    REVENUE = "revenue"
    TENURE = "tenure"
    TIME = "time"
    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    IGNORE = "ignore"


NUMERIC_ROLES = frozenset({Role.NUMERIC, Role.REVENUE, Role.TENURE})
FEATURE_ROLES = NUMERIC_ROLES | {Role.CATEGORICAL}
SINGLE_ROLES = tuple(role for role in Role if role not in {Role.NUMERIC, Role.CATEGORICAL, Role.TIME, Role.IGNORE})
BINARY_ROLES = frozenset({Role.LABEL, Role.OUTCOME})


def _as_text(value: object) -> object:
    """`yes: 1` and `categories: [0, 1]` of a YAML file mean the texts "1", "0" and "1"."""
    return category_text(value) if isinstance(value, int | float) else value


CategoryText = Annotated[str, BeforeValidator(_as_text)]


class Column(Frozen):
    """One column of a dataset.

    Attributes:
        role: what the column is.
        yes: for label and outcome, the value that means yes ("Yes", "1", "True.").
        categories: for categorical and treatment, the allowed values; `data prepare` learns them where absent.
        control: for treatment, the value that means "left alone".
        proportions: for treatment in a randomised test, how its values were drawn ({A: 1, B: 1} is half each).
        optional: whether the value may be missing (blank in a CSV, null or absent in a request).
        minimum, maximum: for numeric, the allowed range; without them MAX_NUMBER and MAX_REVENUE_USD hold.
        unit_months: for tenure, how many months one unit is (a day is 0.03285).
    """

    role: Role
    yes: CategoryText | None = None
    categories: tuple[CategoryText, ...] | None = None
    control: CategoryText | None = None
    proportions: dict[CategoryText, Annotated[float, Field(gt=0)]] | None = None
    optional: bool = False
    minimum: float | None = None
    maximum: float | None = None
    unit_months: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.role in BINARY_ROLES and self.yes is None:
            raise ValueError(f"a {self.role} column needs `yes`: the value that means yes")
        if self.role is not Role.TREATMENT and (self.control is not None or self.proportions is not None):
            raise ValueError(f"`control` and `proportions` belong to a treatment, not to a {self.role} column")
        for known in (self.categories, self.proportions):
            if self.control is not None and known is not None and self.control not in known:
                raise ValueError(f"`control` is {self.control!r}; expected one of {', '.join(map(repr, known))}")
        return self

    @property
    def propensities(self) -> dict[str, float] | None:
        """With which probability a randomised test drew each treatment; None where the schema does not say."""
        if self.proportions is None:
            return None
        total = sum(self.proportions.values())
        return {treatment: share / total for treatment, share in self.proportions.items()}

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest number that the column may hold."""
        largest = MAX_REVENUE_USD if self.role is Role.REVENUE else MAX_NUMBER
        return (
            -largest if self.minimum is None else self.minimum,
            largest if self.maximum is None else self.maximum,
        )


class FieldError(Frozen):
    """One value that does not follow the schema: which field, what is wrong and how to mend it."""

    field: str
    message: str


class DatasetSchema(Frozen):
    """Columns of a dataset by name, in the order in which models see them."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    columns: dict[str, Column]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for role in SINGLE_ROLES:
            if len(named := self.names(role)) > 1:
                raise ValueError(f"columns: only one may have the role {role}, got {named}")
        if not self.feature_names:
            raise ValueError("columns: at least one must be numeric, categorical, revenue or tenure")
        return self

    def names(self, *roles: Role) -> list[str]:
        return [name for name, column in self.columns.items() if column.role in roles]

    def name_of(self, role: Role) -> str | None:
        """The one column with `role`, or None."""
        return next(iter(self.names(role)), None)

    @property
    def feature_names(self) -> list[str]:
        return self.names(*FEATURE_ROLES)

    def require_same_features(self, other: DatasetSchema) -> None:
        """SchemaError where customers would have to be described by other columns from one request to the next."""
        if changed := sorted(set(self.feature_names) ^ set(other.feature_names)):
            raise SchemaError(
                f"the risk model reads other attributes than the one that serves (only one of them has "
                f"{', '.join(changed[:5])}); callers would be refused, so restart the services to begin with it"
            )

    def with_categories(self, learned: Mapping[str, Sequence[str]]) -> Self:
        """This schema with the categories of the columns in `learned`."""
        columns = {
            name: column.model_copy(update={"categories": tuple(learned[name])}) if name in learned else column
            for name, column in self.columns.items()
        }
        return self.model_copy(update={"columns": columns})

    def check_value(self, name: str, value: Scalar) -> str | None:
        """What is wrong with `value` in column `name` and how to mend it; None if nothing is.

        Numbers must be numbers here; a CSV reader turns text into numbers before.
        """
        column = self.columns[name]
        if value in MISSING:
            return None if column.optional else "is missing; give it a value"
        if isinstance(value, int) and abs(value) > MAX_INTEGER:  # neither a float nor a text can be made of any
            return "is an integer of more than 64 bits; expected one that a 64-bit signed integer holds"
        if column.role in NUMERIC_ROLES or column.role is Role.OUTCOME_USD:
            return _check_number(column, value)
        if column.role is Role.PROPENSITY:
            return _check_propensity(value)
        if column.categories is not None and category_text(value) not in column.categories:
            return f"is {value!r}; expected one of {', '.join(map(repr, column.categories))}"
        return None

    def check_row(self, row: Mapping[str, Scalar]) -> list[FieldError]:
        """Everything wrong with the features of one customer; columns that are no features are not read."""
        return [
            FieldError(field=name, message=message)
            for name in self.feature_names
            if (message := self.check_value(name, row.get(name))) is not None
        ]

    def encode(self, rows: Sequence[Mapping[str, Scalar]]) -> NDArray[np.float32]:
        """Rows as a matrix for tree models, (n, features): numbers as they are, categories as codes.

        A missing value and a category that the schema does not list are NaN.
        """
        matrix = np.full((len(rows), len(self.feature_names)), np.nan, dtype=np.float32)
        for j, name in enumerate(self.feature_names):
            column = self.columns[name]
            codes = {text: float(code) for code, text in enumerate(column.categories or ())}
            for i, row in enumerate(rows):
                value = row.get(name)
                if value in MISSING:
                    continue
                if column.role is Role.CATEGORICAL:
                    matrix[i, j] = codes.get(category_text(value), np.nan)
                else:
                    matrix[i, j] = float(value)
        return matrix

    def feature_types(self) -> list[str]:
        """XGBoost's feature types: 'c' categorical, 'q' quantitative."""
        return ["c" if self.columns[name].role is Role.CATEGORICAL else "q" for name in self.feature_names]

    def monthly_usd(self, row: Mapping[str, Scalar]) -> float:
        """The revenue column of one customer, 0 where the schema names none or it is missing."""
        return self._role_number(row, Role.REVENUE)

    def tenure_months(self, row: Mapping[str, Scalar]) -> float:
        """The tenure column of one customer in months, 0 where the schema names none or it is missing."""
        name = self.name_of(Role.TENURE)
        unit = self.columns[name].unit_months if name else 1.0
        return self._role_number(row, Role.TENURE) * unit

    def _role_number(self, row: Mapping[str, Scalar], role: Role) -> float:
        name = self.name_of(role)
        value = row.get(name) if name else None
        return 0.0 if value in MISSING else max(0.0, float(value))

    @classmethod
    def parse(cls, document: Any) -> Self:
        """From a parsed YAML or JSON document; pydantic's ValidationError where it is not a schema."""
        return cls.model_validate(document)


def category_text(value: Scalar) -> str:
    """How a categorical value is written in `categories`: 0, "0" and 0.0 are the same category."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _check_propensity(value: Scalar) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value <= 1.0:
        return f"is {value!r}; expected a probability in (0, 1]"
    return None


def _check_number(column: Column, value: Scalar) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"is {value!r}; expected a number"
    if not math.isfinite(value):
        return f"is {value}; expected a finite number"
    minimum, maximum = column.range
    if value < minimum:
        return f"is {value}; expected {minimum:.15g} or more"
    if value > maximum:
        return f"is {value}; expected {maximum:.15g} or less"
    return None
