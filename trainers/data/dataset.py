"""A validated dataset and the parts that it is split into."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from churnsaver.domain.schema import Column, DatasetSchema, Role, Scalar
from churnsaver.errors import SchemaError


class Part(StrEnum):
    """Models are fitted on TRAIN, chosen and calibrated on TRAIN and VALID, measured on TEST."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


PART_ENDS = {Part.TRAIN: 0.6, Part.VALID: 0.8, Part.TEST: 1.0}


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows that follow a schema.

    Attributes:
        source: the file or folder, for messages.
        sha256: hash of the CSV that the rows came from.
        schema: with every category known.
        frame: one typed column per column of the schema, as `trainers.data.validate` types them.
        parts: (n,) the `Part` of each row.
    """

    source: Path
    sha256: str
    schema: DatasetSchema
    frame: pl.DataFrame
    parts: NDArray[np.str_]

    def __len__(self) -> int:
        return self.frame.height

    def take(self, *parts: Part) -> Dataset:
        """The rows of `parts`, one part after the other, so that a CSV and its prepared folder agree."""
        return self.pick(np.concatenate([np.flatnonzero(self.parts == str(part)) for part in parts]))

    def pick(self, rows: NDArray[np.int64]) -> Dataset:
        """The rows with these numbers, in their order."""
        return replace(self, frame=self.frame[rows], parts=self.parts[rows])

    def rows(self) -> list[dict[str, Scalar]]:
        """Each row as a mapping by column, as `DatasetSchema` and the models take them."""
        return self.frame.to_dicts()

    def matrix(self, schema: DatasetSchema | None = None) -> NDArray[np.float32]:
        """Features for tree models, (n, features): what `DatasetSchema.encode` says of `rows()`, column by column.

        Args:
            schema: a model's, where its categories have other codes than this dataset's.
        """
        return encode_frame(self.frame, schema or self.schema)

    def monthly_usd(self) -> NDArray[np.float64]:
        """`DatasetSchema.monthly_usd` of each row, (n,)."""
        return self._role_numbers(Role.REVENUE)

    def tenure_months(self) -> NDArray[np.float64]:
        """`DatasetSchema.tenure_months` of each row, (n,)."""
        name = self.schema.name_of(Role.TENURE)
        return self._role_numbers(Role.TENURE) * (self.schema.columns[name].unit_months if name else 1.0)

    def _role_numbers(self, role: Role) -> NDArray[np.float64]:
        name = self.schema.name_of(role)
        return self.frame[name].fill_null(0.0).clip(0.0).to_numpy() if name else np.zeros(len(self))

    def yes(self, role: Role) -> NDArray[np.bool_]:
        """The label or the outcome, (n,); SchemaError where the schema names none."""
        return self.column(role).to_numpy().astype(bool)

    def column(self, role: Role) -> pl.Series:
        """The one column with `role`; SchemaError where the schema names none."""
        name = self.schema.name_of(role)
        if name is None:
            raise SchemaError(f"schema {self.schema.name}: no column has the role {role}, which is needed here")
        return self.frame[name]


def encode_frame(frame: pl.DataFrame, schema: DatasetSchema) -> NDArray[np.float32]:
    """`DatasetSchema.encode` of a typed frame, column by column, (n, features)."""
    return np.column_stack([_encoded(frame[name], schema.columns[name]) for name in schema.feature_names])


def _encoded(values: pl.Series, column: Column) -> NDArray[np.float32]:
    """One column of `encode_frame`, (n,)."""
    if column.role is Role.CATEGORICAL:
        categories = column.categories or ()
        codes = values.replace_strict(categories, range(len(categories)), default=None, return_dtype=pl.Float32)
        return codes.to_numpy()
    return values.cast(pl.Float32).to_numpy()


def assign_parts(frame: pl.DataFrame, schema: DatasetSchema, split_seed: int) -> NDArray[np.str_]:
    """The part of each row, (n,), by a hash of its id.

    The file's order does not matter, so a customer who was held out once is held out from every later
    file with the same `split_seed`, too. Rows without an id are split by their number.
    """
    name = schema.name_of(Role.ID)
    keys: Sequence[str] = frame[name].to_list() if name else [str(index) for index in range(frame.height)]
    fractions = np.array([_hash_fraction(split_seed, key) for key in keys])
    ends = np.array(list(PART_ENDS.values()))
    names = np.array([str(part) for part in PART_ENDS])
    return names[np.searchsorted(ends, fractions, side="right")]


def _hash_fraction(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments; 53 bits, so that it never rounds to 1."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2.0**53
