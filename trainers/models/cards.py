"""Model cards in Markdown: what a model is for, what it learned from, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.data import Dataset, Part
from trainers.eval.metrics import CONFIDENCE, Interval
from trainers.eval.segments import MIN_SEGMENT_ROWS
from trainers.models.boost import FOLDS, FittedTrees

CARD_FEATURES = 8


def model_card(
    *,
    title: str,
    use: str,
    dataset: Dataset,
    fitted: FittedTrees,
    results: str,
    explanation: Mapping[str, Any],
    limits: str,
) -> str:
    """The card of a tree model.

    Args:
        results, limits: Markdown.
        explanation: what `trainers.eval.explain.explained` found on the test rows.
    """
    rows = ", ".join(f"{len(dataset.take(part))} {part}" for part in Part)
    losses = ", ".join(f"{kind} {loss:.4f}" for kind, loss in fitted.log_losses.items())
    return f"""# {title}

{use}

## Data

`{dataset.source.name}`, schema `{dataset.schema.name}`, sha256 `{dataset.sha256}`; rows: {rows}.

## Model

XGBoost, depth {fitted.parameters["max_depth"]}, {fitted.parameters["colsample_bytree"]:.0%} of the columns a tree, \
{fitted.rounds} rounds (chosen by {FOLDS}-fold cross-validation on the train and valid rows), calibration \
`{fitted.trees.calibration.kind}` (cross-validated log-loss: {losses}). Classes were not reweighted.

## Measured on the test rows

{results}

## What it reads

Mean |SHAP value| on the test rows, in log-odds before calibration: how far a column moves the prediction, up or \
down. It is what the model uses, not what makes customers act.

{_importance_table(explanation["importance"])}
## Calibration by segment

{_segment_table(explanation["segments"])}
## Limits

{limits}

Columns that describe a person's age, sex or family may be in the schema's features; whoever deploys the model \
decides whether they may be used. Figures hold for customers like those of the data: `churn-saver eval drift` says \
whether new ones still are.
"""


def card_table(intervals: Mapping[str, Interval]) -> str:
    """Metrics with their intervals as a Markdown table."""
    head = f"| metric | value | {CONFIDENCE:.0%} interval |\n| --- | --- | --- |\n"
    lines = (f"| {name} | {i.value:.4f} | {i.low:.4f} to {i.high:.4f} |\n" for name, i in intervals.items())
    return head + "".join(lines)


def _importance_table(importance: Mapping[str, float]) -> str:
    lines = (f"| {name} | {value:.3f} |\n" for name, value in list(importance.items())[:CARD_FEATURES])
    return "| column | mean \\|SHAP\\| |\n| --- | --- |\n" + "".join(lines)


def _segment_table(segments: Sequence[Mapping[str, Any]]) -> str:
    if not segments:
        return f"No segment has the {MIN_SEGMENT_ROWS} test rows that measuring one takes.\n"
    head = "| segment | rows | predicted | observed | ECE | sampling floor | holds |\n" + "| --- " * 7 + "|\n"
    lines = (
        f"| {s['feature']}: {s['segment']} | {s['rows']} | {s['predicted']:.3f} | {s['observed']:.3f} | {s['ece']:.3f} "
        f"| {s['ece_floor']['mean']:.3f} ± {s['ece_floor']['sd']:.3f} | {'yes' if s['calibrated'] else 'no'} |\n"
        for s in segments
    )
    return head + "".join(lines)
