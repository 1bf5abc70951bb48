"""`churn-saver eval risk|accept|drift`: the tree models, and the data that they are asked about."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.apps import eval_app
from cli.common import SEED, JsonOption, SeedOption, emit, flatten, progress
from cli.models import DataOption, QuickOption, SchemaOption
from cli.registry import champion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from churnsaver.checkpoints import Checkpoint
    from churnsaver.domain.schema import DatasetSchema, Role
    from trainers.data import Dataset
    from trainers.eval.model_report import ModelReport

CheckpointOption = Annotated[Path | None, typer.Option("--checkpoint", help="Folder; default: the champion.")]
ReportOption = Annotated[Path | None, typer.Option("--out", help="Folder for report.html and report.json.")]
GateOption = Annotated[bool, typer.Option("--gate", help="Exit 1 where a target is missed.")]


class Rows(StrEnum):
    """Which rows of the data are measured on."""

    TEST = "test"
    ALL = "all"


RowsOption = Annotated[
    Rows, typer.Option("--rows", help="all: for a file that training never saw; known rows are refused.")
]


@eval_app.command("risk")
def eval_risk(
    data: DataOption,
    schema: SchemaOption = None,
    checkpoint: CheckpointOption = None,
    rows: RowsOption = Rows.TEST,
    repeated_cv: Annotated[
        bool, typer.Option("--repeated-cv", help="Measure the recipe, not a checkpoint: 5 folds × 3 repeats, all rows.")
    ] = False,
    quick: QuickOption = False,
    out: ReportOption = None,
    gate: GateOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Measures AUC, Brier score and calibration, also by segment, with intervals, against other models.

    A checkpoint is measured against its scorecard on the same rows; --out adds reasons.csv, what moved each
    customer's risk most. With --repeated-cv the recipe is measured against a tuned XGBoost and logistic regression.
    """
    from trainers.data import load_dataset_as

    dataset = load_dataset_as(data, schema)
    report = (
        _repeated_cv(dataset, quick=quick, seed=seed) if repeated_cv else _risk(dataset, checkpoint, rows, seed, out)
    )
    _tell(f"Churn risk on {data.name}", report.result, report.plots, out, gate=gate, as_json=as_json)


@eval_app.command("accept")
def eval_accept(
    data: DataOption,
    schema: SchemaOption = None,
    checkpoint: CheckpointOption = None,
    rows: RowsOption = Rows.TEST,
    out: ReportOption = None,
    gate: GateOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Measures the acceptance model on logged contacts, as a whole and by offer, against each offer's own rate."""
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.domain.schema import Role
    from churnsaver.models.trees import ACCEPTANCE, AcceptanceModel
    from churnsaver.settings import load_world
    from trainers.data import load_dataset_as
    from trainers.eval.accept import evaluate_acceptance

    dataset = load_dataset_as(data, schema)
    opened = champion(ACCEPTANCE) if checkpoint is None else open_checkpoint(checkpoint, ACCEPTANCE)
    model = AcceptanceModel.from_checkpoint(opened, load_world())
    chosen = _chosen(dataset, opened, model.schema, rows, Role.OUTCOME)
    report = evaluate_acceptance(model, chosen, seed)
    _tell(f"Acceptance on {data.name}", report.result, report.plots, out, gate=gate, as_json=as_json)


@eval_app.command("drift")
def eval_drift(
    data: Annotated[Path, typer.Option("--data", help="The new rows: a CSV, or a folder that `data prepare` wrote.")],
    reference: Annotated[Path, typer.Option("--reference", help="The old rows, which the model learned from.")],
    schema: SchemaOption = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Risk checkpoint, whose predictions are compared, too.")
    ] = None,
    out: ReportOption = None,
    gate: GateOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Compares two data sets: stability index, two-sample tests, missing and unseen values, predicted risk.

    Labels are neither needed nor read. A column has drifted where the tests reject after correction for their
    number and the stability index reaches 0.1; --gate exits 1 where one has.
    """
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.models.trees import RISK, RiskModel
    from churnsaver.settings import load_schema
    from trainers.data.customers import read_features
    from trainers.eval.drift import drift_plots, drift_result, measure_drift, with_risk

    model = RiskModel.from_checkpoint(open_checkpoint(checkpoint, RISK)) if checkpoint else None
    known = load_schema(schema) if schema else model.schema if model else None
    old, new = read_features(reference, known), read_features(data, known)
    if model is not None:
        old, new = with_risk(old, model), with_risk(new, model)
    columns = measure_drift(old, new)
    result = drift_result(columns, old, new, seed)
    title = f"Drift of {data.name} from {reference.name}"
    _tell(title, result, lambda: drift_plots(columns, old, new), out, gate=gate, as_json=as_json)


def _repeated_cv(dataset: Dataset, *, quick: bool, seed: int) -> ModelReport:
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


def _risk(dataset: Dataset, checkpoint: Path | None, rows: Rows, seed: int, out: Path | None) -> ModelReport:
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.domain.schema import Role
    from churnsaver.domain.scorecard import Scorecard
    from churnsaver.models.trees import RISK, SCORECARD, RiskModel
    from trainers.eval.model_report import write_reasons
    from trainers.eval.risk import evaluate_checkpoint

    opened = champion(RISK) if checkpoint is None else open_checkpoint(checkpoint, RISK)
    model = RiskModel.from_checkpoint(opened)
    scorecard = Scorecard.model_validate(opened.read_json(SCORECARD))
    chosen = _chosen(dataset, opened, model.schema, rows, Role.LABEL)
    report = evaluate_checkpoint(model, scorecard, chosen, seed)
    if out is not None:
        write_reasons(out, model, chosen)
    return report


def _chosen(dataset: Dataset, opened: Checkpoint, schema: DatasetSchema, rows: Rows, role: Role) -> Dataset:
    """The rows to measure on; BadInput where the checkpoint was trained on them or reads other features."""
    from churnsaver.errors import BadInput
    from trainers.data import Part
    from trainers.models.checks import MIN_TEST_ROWS, require_rows
    from trainers.models.seen import require_unseen

    theirs, own = ({name: s.columns[name].role for name in s.feature_names} for s in (schema, dataset.schema))
    if theirs != own:
        differing = sorted({name for name, _ in theirs.items() ^ own.items()})
        raise BadInput(
            f"{dataset.source}: schema {dataset.schema.name} has other features than the checkpoint's "
            f"({', '.join(differing[:5])}); measure with the schema that it was trained with"
        )
    chosen = dataset if rows is Rows.ALL else dataset.take(Part.TEST)
    require_unseen(chosen, opened, schema)
    require_rows(chosen, role, MIN_TEST_ROWS)
    return chosen


def _tell(
    title: str,
    result: Mapping[str, Any],
    plots: Callable[[], Sequence[str]],
    out: Path | None,
    *,
    gate: bool,
    as_json: bool,
) -> None:
    """Writes the report, prints the result and holds it to its targets."""
    from churnsaver.errors import GateFailed
    from trainers.eval.report import write_report

    if out is not None:
        write_report(out, title, result, plots())
    emit(result if as_json else flatten(result), as_json=as_json, title=title)
    if gate and result["missed"]:
        raise GateFailed("; ".join(result["missed"]))
