"""Seeded request bodies: made up as the scorecard's training data was spread, or rows of a CSV."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Any

from churnsaver.domain.schema import MISSING, NUMERIC_ROLES, Column, DatasetSchema, Role, Scalar
from churnsaver.domain.scorecard import Scorecard
from churnsaver.errors import BadInput, SchemaError
from cli.registry import champion

# Zones across the day, so that at any hour some recipients are in their quiet hours and some are not.
ZONES = (
    "America/New_York", "America/Chicago", "America/Los_Angeles", "America/Sao_Paulo", "Europe/London",
    "Europe/Berlin", "Africa/Lagos", "Africa/Nairobi", "Asia/Kolkata", "Asia/Tokyo", "Australia/Sydney",
    "Pacific/Auckland",
)  # fmt: skip
NAMES = ("Ana", "Ben", "Chloé", "Dmitri", "Eun-ji", "Fatima", "Goran", "Hana", "Ines", "João", "Kofi", "Lena")
LOCALES = ("en-US", "en-GB", "en-IN", "en-AU")
CHANNELS = ("email", "sms", "push")
CONSENT_SHARE = 0.9


def load_scorecard() -> Scorecard:
    """The scorecard of the risk model that serves; it says which attributes are valid."""
    return Scorecard.model_validate(champion("risk").read_json("scorecard.json"))


def bodies(scorecard: Scorecard, *, seed: int, run: str, csv_path: Path | None = None) -> Iterator[dict[str, Any]]:
    """Bodies of `/v1/retain` without end, each for another customer.

    Args:
        scorecard: of the risk checkpoint that serves.
        seed: of everything but the ids.
        run: a word in every id. A customer is decided about once an epoch, so a second run with the same
            ids would measure stored answers.
        csv_path: real rows to send, again from the first when they run out; None makes attributes up.

    Raises:
        BadInput: the CSV cannot be read or a row does not follow the schema.
    """
    random = Random(seed)
    rows = cycle(read_rows(csv_path, scorecard.dataset)) if csv_path else None
    for index in count():
        yield body(f"{run}-{index:06d}", next(rows) if rows else made_up(scorecard, random), random)


def body(customer_id: str, attributes: dict[str, Scalar], random: Random) -> dict[str, Any]:
    """One request; the request id follows from the customer's, so that the body is its own retry."""
    order = random.sample(CHANNELS, len(CHANNELS))
    return {
        "request_id": f"r-{customer_id}",
        "campaign": "default",
        "customer": {
            "id": customer_id,
            "first_name": random.choice(NAMES),
            "locale": random.choice(LOCALES),
            "timezone": random.choice(ZONES),
            "channels": {channel: {"consent": random.random() < CONSENT_SHARE} for channel in order},
            "attributes": attributes,
        },
    }


def made_up(scorecard: Scorecard, random: Random) -> dict[str, Scalar]:
    """Attributes of one customer: numbers spread as in training, categories drawn evenly."""
    columns = scorecard.dataset.columns
    return {name: _draw(name, columns[name], scorecard, random) for name in scorecard.dataset.feature_names}


def read_rows(path: Path, schema: DatasetSchema) -> list[dict[str, Scalar]]:
    """The feature columns of a CSV as request attributes; BadInput names file, row and column."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [_typed(row, schema) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); name a CSV file in UTF-8") from None
    if not rows:
        raise BadInput(f"{path}: has no rows below its header; name a CSV with customers")
    for line, row in enumerate(rows, start=2):
        if found := schema.check_row(row):
            raise SchemaError(f"{path}: row {line}, column {found[0].field} {found[0].message}")
    return rows


def returning(new: Iterator[dict[str, Any]], *, after: int, seed: int) -> Iterator[dict[str, Any]]:
    """New customers mixed with the same ones again, for what must not happen twice.

    After each new customer comes one who was sent `after` customers earlier: by a coin, as an exact retry
    (same request id), or under a new request id, as another system asking about the same customer.
    """
    random = Random(seed)
    earlier: deque[dict[str, Any]] = deque()
    for customer in new:
        yield customer
        earlier.append(customer)
        if len(earlier) > after:
            old = earlier.popleft()
            yield old if random.random() < 0.5 else {**old, "request_id": f"{old['request_id']}-again"}


def _draw(name: str, column: Column, scorecard: Scorecard, random: Random) -> Scalar:
    if column.role is Role.CATEGORICAL:
        return random.choice(column.categories or tuple(scorecard.categorical[name]))
    term = scorecard.numeric[name]
    value = random.gauss(term.mean, term.std)
    low = value if column.minimum is None else max(value, column.minimum)
    return round(low if column.maximum is None else min(low, column.maximum), 2)


def _typed(row: dict[str, str], schema: DatasetSchema) -> dict[str, Scalar]:
    return {name: _value(row.get(name), schema.columns[name]) for name in schema.feature_names}


def _value(text: str | None, column: Column) -> Scalar:
    if text in MISSING:
        return None
    if column.role not in NUMERIC_ROLES:
        return text
    try:
        return float(text or "")
    except ValueError:
        return text  # the schema's own check names it
