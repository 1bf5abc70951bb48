"""`data prepare`: a validated, split copy of a CSV in Parquet, with its schema and a data card.

The folder holds `train.parquet`, `valid.parquet`, `test.parquet`, `schema.json` (categories learned),
`DATA_CARD.md` for people and `dataset.json`, which vouches for the others.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import ValidationError

from churnsaver.domain.schema import BINARY_ROLES, DatasetSchema, Role
from churnsaver.domain.world import Frozen
from churnsaver.errors import BadInput, SchemaError
from trainers.data.dataset import Dataset, Part
from trainers.data.validate import NUMBER_ROLES

DATASET = "dataset.json"
SCHEMA = "schema.json"
CARD = "DATA_CARD.md"


class PreparedFiles(Frozen):
    """`dataset.json`: what a prepared folder holds.

    Attributes:
        source: name of the CSV.
        sha256: hash of the CSV.
        files: sha256 of each file, by name.
        rows: number of rows by part.
    """

    source: str
    sha256: str
    files: dict[str, str]
    rows: dict[Part, int]


def write_prepared(dataset: Dataset, out: Path) -> PreparedFiles:
    """Writes `dataset` to the folder `out`; BadInput where that cannot be done."""
    files: dict[str, str] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for part in Part:
            path = out / f"{part}.parquet"
            dataset.take(part).frame.write_parquet(path)
            files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        schema_json = dataset.schema.model_dump_json(indent=2, exclude_defaults=True)
        (out / SCHEMA).write_text(schema_json + "\n", encoding="utf-8")
        files[SCHEMA] = hashlib.sha256((out / SCHEMA).read_bytes()).hexdigest()
        rows = {part: len(dataset.take(part)) for part in Part}
        prepared = PreparedFiles(source=dataset.source.name, sha256=dataset.sha256, files=files, rows=rows)
        (out / CARD).write_text(data_card(dataset, prepared), encoding="utf-8")
        (out / DATASET).write_text(prepared.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    return prepared


def read_prepared(folder: Path, schema: DatasetSchema | None) -> Dataset:
    """A folder that `write_prepared` wrote; SchemaError where it is none, altered, or of another schema."""
    try:
        prepared = PreparedFiles.model_validate_json((folder / DATASET).read_bytes())
        contents = {name: (folder / name).read_bytes() for name in prepared.files}
    except (OSError, ValidationError):
        raise SchemaError(f"{folder}: was not written by `data prepare`; run it, or name a CSV file") from None
    for name, digest in prepared.files.items():
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise SchemaError(f"{folder / name}: is truncated or altered; run `data prepare` again")
    own = DatasetSchema.parse(json.loads(contents[SCHEMA]))
    if schema is not None and not _same_but_for_learned(own, schema):
        raise SchemaError(f"{folder}: was prepared with another schema {own.name!r}; run `data prepare` again")
    frames = {part: pl.read_parquet(contents[f"{part}.parquet"]) for part in Part}
    parts = np.concatenate([np.full(frame.height, str(part)) for part, frame in frames.items()])
    return Dataset(folder, prepared.sha256, own, pl.concat(frames.values()), parts)


def _same_but_for_learned(own: DatasetSchema, given: DatasetSchema) -> bool:
    left_open = [name for name, column in given.columns.items() if column.categories is None]
    learned = {name: own.columns[name].categories or () for name in left_open if name in own.columns}
    return given.with_categories({name: found for name, found in learned.items() if found}) == own


def data_card(dataset: Dataset, prepared: PreparedFiles) -> str:
    """What the data are, for a person, in Markdown."""
    schema = dataset.schema
    lines = [
        f"# Data card: {schema.name}",
        "",
        f"{len(dataset)} rows from `{prepared.source}`, sha256 `{prepared.sha256}`.",
        "",
        "| part | rows | share that says yes |",
        "| --- | --- | --- |",
    ]
    targets = schema.names(*BINARY_ROLES)
    for part in Part:
        frame = dataset.take(part).frame
        rates = ", ".join(f"{name} {_yes_share(frame[name]):.1%}" for name in targets) or "–"
        lines.append(f"| {part} | {frame.height} | {rates} |")
    lines += ["", _how_split(schema), ""]
    lines += ["| column | role | missing | summary |", "| --- | --- | --- | --- |"]
    for name in dataset.frame.columns:
        series = dataset.frame[name]
        role = schema.columns[name].role
        lines.append(f"| {name} | {role} | {series.null_count()} | {_summary(series, role)} |")
    return "\n".join(lines) + "\n"


def _how_split(schema: DatasetSchema) -> str:
    if schema.name_of(Role.ID) is None:
        return "No column is an id: rows are split by a hash of their number, which another file gives to others."
    return "Rows are split by a hash of their id, so a customer is in the same part of every file."


def _yes_share(series: pl.Series) -> float:
    return float(series.sum()) / max(1, series.len())


def _summary(series: pl.Series, role: Role) -> str:
    if role in NUMBER_ROLES:
        low, middle, high = (series.quantile(q, "nearest") or 0.0 for q in (0.0, 0.5, 1.0))
        return f"{low:g} to {high:g}, median {middle:g}"
    if role in BINARY_ROLES:
        return f"yes in {_yes_share(series):.1%}"
    if role in {Role.CATEGORICAL, Role.TREATMENT}:
        counts = series.drop_nulls().value_counts(sort=True).rows()
        return ", ".join(f"{value} {count / series.len():.0%}" for value, count in counts[:6])
    return f"{series.n_unique()} distinct values"
