"""Model cards in Markdown: what a model is for, what it learned from, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping

from trainers.data import Dataset, Part
from trainers.eval.metrics import CONFIDENCE, Interval
from trainers.models.boost import FOLDS, FittedTrees


def model_card(*, title: str, use: str, dataset: Dataset, fitted: FittedTrees, results: str) -> str:
    """The card of a tree model; `results` is Markdown."""
    rows = ", ".join(f"{len(dataset.take(part))} {part}" for part in Part)
    losses = ", ".join(f"{kind} {loss:.4f}" for kind, loss in fitted.log_losses.items())
    return f"""# {title}

{use}

## Data

`{dataset.source.name}`, schema `{dataset.schema.name}`, sha256 `{dataset.sha256}`; rows: {rows}.

## Model

XGBoost, depth {fitted.parameters["max_depth"]}, {fitted.rounds} rounds (chosen by {FOLDS}-fold cross-validation on \
the train and valid rows), calibration `{fitted.trees.calibration.kind}` (cross-validated log-loss: {losses}). \
Classes were not reweighted.

## Measured on the test rows

{results}

## Limits

Columns that describe a person's age, sex or family may be in the schema's features; whoever deploys the model \
decides whether they may be used. Figures hold for customers like those of the data.
"""


def card_table(intervals: Mapping[str, Interval]) -> str:
    """Metrics with their intervals as a Markdown table."""
    head = f"| metric | value | {CONFIDENCE:.0%} interval |\n| --- | --- | --- |\n"
    lines = (f"| {name} | {i.value:.4f} | {i.low:.4f} to {i.high:.4f} |\n" for name, i in intervals.items())
    return head + "".join(lines)
