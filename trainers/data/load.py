"""A dataset from anyone's CSV, or from a folder that `data prepare` wrote."""

from __future__ import annotations

from pathlib import Path

from churnsaver.domain.schema import DatasetSchema
from churnsaver.errors import SchemaError
from churnsaver.settings import DEFAULT_SEED, load_schema
from trainers.data.csv_reader import read_csv
from trainers.data.dataset import Dataset, assign_parts
from trainers.data.prepare import read_prepared
from trainers.data.validate import validate


def load_dataset(path: Path, schema: DatasetSchema | None, split_seed: int = DEFAULT_SEED) -> Dataset:
    """A dataset from a CSV file, or from a folder that `data prepare` wrote.

    Args:
        path: the file or folder.
        schema: how to read a CSV; may be None for a folder, which brings its own.
        split_seed: another one splits a CSV otherwise; a folder is split already.

    Raises:
        SchemaError: with file, row, column, what was expected and how to mend it.
    """
    if path.is_dir():
        return read_prepared(path, schema)
    if schema is None:
        raise SchemaError(f"{path}: is no prepared folder; say with --schema how to read the CSV")
    raw = read_csv(path)
    frame, schema = validate(raw, schema)
    return Dataset(path, raw.sha256, schema, frame, assign_parts(frame, schema, split_seed))


def load_dataset_as(path: Path, schema_path: Path | None, split_seed: int = DEFAULT_SEED) -> Dataset:
    """`load_dataset` with the schema still in its YAML file."""
    return load_dataset(path, load_schema(schema_path) if schema_path else None, split_seed)
