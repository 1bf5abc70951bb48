"""`churn-saver train risk|accept` and `churn-saver eval risk`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.apps import eval_app, train_app
from cli.common import SEED, JsonOption, OutOption, SeedOption, emit, flatten, progress
from cli.registry import PublishOption, champion, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from churnsaver.checkpoints import Manifest
    from trainers.data import Dataset
    from trainers.eval.risk import RiskReport

DataOption = Annotated[Path, typer.Option("--data", help="A CSV, or a folder that `data prepare` wrote.")]
SchemaOption = Annotated[Path | None, typer.Option("--schema", help="YAML schema; a prepared folder needs none.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="One depth and fewer rounds: seconds, not minutes.")]


@train_app.command()
def risk(
    data: DataOption,
    out: OutOption,
    schema: SchemaOption = None,
    quick: QuickOption = False,
    publish: PublishOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Trains the churn model, its calibration and the gateway's scorecard."""
    from trainers.models.risk import train_risk

    manifest = _train(train_risk, data, schema, out, quick=quick, seed=seed)
    emit(describe(manifest, out, publish=publish), as_json=as_json, title="Risk model")


@train_app.command()
def accept(
    data: DataOption,
    out: OutOption,
    schema: SchemaOption = None,
    quick: QuickOption = False,
    publish: PublishOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Trains the acceptance model on a log of contacts, such as `data simulate` writes.

    `configs/schemas/contacts.yaml` describes one: for each contact the churn risk, monthly charge, tenure, the
    offer that was made, its propensity, and whether it was accepted.
    """
    from trainers.models.accept import train_accept

    manifest = _train(train_accept, data, schema, out, quick=quick, seed=seed)
    emit(describe(manifest, out, publish=publish), as_json=as_json, title="Acceptance model")


def _train(
    train: Callable[..., Manifest], data: Path, schema: Path | None, out: Path, *, quick: bool, seed: int
) -> Manifest:
    from churnsaver.settings import load_world
    from trainers.data import load_dataset_as
    from trainers.models.boost import FULL, QUICK

    settings = QUICK if quick else FULL
    dataset, world = load_dataset_as(data, schema), load_world()
    with progress() as bar:
        task = bar.add_task("cross-validating", total=settings.steps)
        return train(dataset, world, out, settings, seed, advance=lambda: bar.advance(task))


class Rows(StrEnum):
    """Which rows of the data are measured on."""

    TEST = "test"
    ALL = "all"


@eval_app.command("risk")
def eval_risk(
    data: DataOption,
    schema: SchemaOption = None,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="Folder; default: the champion.")] = None,
    rows: Annotated[Rows, typer.Option("--rows", help="all: for a file that training never saw.")] = Rows.TEST,
    repeated_cv: Annotated[
        bool, typer.Option("--repeated-cv", help="Measure the recipe, not a checkpoint: 5 folds × 3 repeats, all rows.")
    ] = False,
    quick: QuickOption = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.html and report.json.")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 where a target is missed.")] = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Measures AUC, Brier score and calibration with intervals, against the scorecard on the same rows."""
    from churnsaver.errors import GateFailed
    from trainers.data import load_dataset_as
    from trainers.eval.report import reliability_plot, write_report

    dataset = load_dataset_as(data, schema)
    report = (
        _repeated_cv(dataset, quick=quick, seed=seed) if repeated_cv else _held_out(dataset, checkpoint, rows, seed)
    )
    if out is not None:
        write_report(out, f"Churn risk on {data.name}", report.result, [reliability_plot(report.reliability)])
    emit(report.result if as_json else flatten(report.result), as_json=as_json, title="Churn risk")
    if gate and report.result["missed"]:
        raise GateFailed("; ".join(report.result["missed"]))


def _repeated_cv(dataset: Dataset, *, quick: bool, seed: int) -> RiskReport:
    from churnsaver.domain.schema import Role
    from churnsaver.settings import load_world
    from trainers.eval.risk import FOLDS, REPEATS, repeated_cv
    from trainers.models.boost import FULL, QUICK
    from trainers.models.checks import require_both_classes

    require_both_classes(dataset, Role.LABEL)
    with progress() as bar:
        task = bar.add_task("cross-validating", total=FOLDS * REPEATS)
        settings = QUICK if quick else FULL
        return repeated_cv(dataset, load_world(), settings, seed, advance=lambda: bar.advance(task))


def _held_out(dataset: Dataset, checkpoint: Path | None, rows: Rows, seed: int) -> RiskReport:
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.domain.schema import Role
    from churnsaver.domain.scorecard import Scorecard
    from churnsaver.errors import BadInput
    from churnsaver.models.trees import RISK, SCORECARD, RiskModel
    from trainers.data import Part
    from trainers.eval.risk import evaluate_checkpoint
    from trainers.models.checks import MIN_TEST_ROWS, require_rows

    opened = champion(RISK) if checkpoint is None else open_checkpoint(checkpoint, RISK)
    model = RiskModel.from_checkpoint(opened)
    if rows is Rows.ALL and dataset.sha256 == opened.manifest.data_sha256:
        raise BadInput(f"{dataset.source}: the checkpoint was trained on this file; measure with --rows test")
    if dataset.schema.feature_names != model.schema.feature_names:
        raise BadInput(f"{dataset.source}: schema {dataset.schema.name} has other features than the checkpoint's")
    scorecard = Scorecard.model_validate(opened.read_json(SCORECARD))
    chosen = dataset if rows is Rows.ALL else dataset.take(Part.TEST)
    require_rows(chosen, Role.LABEL, MIN_TEST_ROWS)
    return evaluate_checkpoint(model, scorecard, chosen, seed)
