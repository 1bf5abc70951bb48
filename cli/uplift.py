"""`churn-saver train uplift` and `churn-saver eval uplift`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.apps import eval_app, train_app
from cli.common import SEED, CheckpointOutOption, JsonOption, SeedOption, emit, flatten, progress
from cli.model_eval import CheckpointOption, GateOption, ReportOption, Rows, RowsOption
from cli.models import DataOption, QuickOption, SchemaOption
from cli.registry import PublishOption, champion, tell_trained

if TYPE_CHECKING:
    from churnsaver.models.uplift import Learner
    from trainers.data import Dataset
    from trainers.eval.uplift import UpliftReport
    from trainers.eval.uplift_value import Prices

ArmOption = Annotated[
    str | None, typer.Option("--arm", help="Treatment to compare with the control; default: the only one.")
]
OutcomeOption = Annotated[
    str | None, typer.Option("--outcome", help="Another column of the schema as the outcome, with the same yes.")
]


class Choice(StrEnum):
    """Which learner; auto is the one that orders held-out customers best."""

    AUTO = "auto"
    S = "s"
    T = "t"
    X = "x"
    DR = "dr"


LearnerOption = Annotated[Choice, typer.Option("--learner", help="auto: the best in cross-validation.")]


@train_app.command("uplift")
def train(
    data: DataOption,
    out: CheckpointOutOption,
    schema: SchemaOption = None,
    arm: ArmOption = None,
    outcome: OutcomeOption = None,
    learner: LearnerOption = Choice.AUTO,
    quick: QuickOption = False,
    publish: PublishOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Trains an uplift model: by how much a contact changes the probability of the schema's outcome.

    The data are an experiment: the schema names the treatment, its `control` and, where they are known, the
    `proportions` in which it was drawn. `configs/schemas/hillstrom.yaml` is one.
    """
    from trainers.uplift.boosting import FULL, QUICK
    from trainers.uplift.choose import FOLDS
    from trainers.uplift.train import train_uplift

    dataset, learners = _load(data, schema, outcome), _learners(learner)
    with progress() as bar:
        task = bar.add_task("cross-validating", total=FOLDS * len(learners))
        manifest = train_uplift(
            dataset, out, QUICK if quick else FULL, seed, arm=arm, learners=learners, advance=lambda: bar.advance(task)
        )
    tell_trained(manifest, out, publish=publish, as_json=as_json, title="Uplift model")


@eval_app.command("uplift")
def evaluate(
    data: DataOption,
    schema: SchemaOption = None,
    checkpoint: CheckpointOption = None,
    rows: RowsOption = Rows.TEST,
    repeated_cv: Annotated[
        bool, typer.Option("--repeated-cv", help="Measure the recipe, not a checkpoint: 5 folds × 3 repeats, all rows.")
    ] = False,
    arm: ArmOption = None,
    outcome: OutcomeOption = None,
    learner: LearnerOption = Choice.AUTO,
    peers: Annotated[
        bool, typer.Option("--peers", help="With --repeated-cv: also CausalML's learners and a class transformation.")
    ] = False,
    cost_usd: Annotated[float | None, typer.Option("--cost-usd", min=0, help="What one contact costs.")] = None,
    value_usd: Annotated[float | None, typer.Option("--value-usd", min=0, help="What one outcome earns.")] = None,
    quick: QuickOption = False,
    out: ReportOption = None,
    gate: GateOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Measures Qini, AUUC and uplift at k against a response model, who is harmed, and what contacting earns.

    A checkpoint is measured on the test rows, or on all rows of a file that it never saw. With --cost-usd and
    --value-usd, how many customers to contact is chosen on held-out training rows and valued on those measured.
    """
    from churnsaver.errors import GateFailed
    from trainers.eval.report import write_report
    from trainers.eval.uplift_plots import decile_plot, profit_plot, qini_plot

    dataset, prices = _load(data, schema, outcome), _prices(cost_usd, value_usd)
    if repeated_cv:
        report = _repeated_cv(dataset, arm, learner, prices, with_peers=peers, quick=quick, seed=seed)
    else:
        report = _held_out(dataset, checkpoint, rows, arm, prices, seed)
    result = report.result
    if out is not None:
        plots = [qini_plot(report.curves), decile_plot(result["deciles"])]
        if "curve" in result.get("policy_value", {}):
            plots.append(profit_plot(result["policy_value"]))
        write_report(out, f"Uplift of {result['arm']} on {data.name}", result, plots)
    emit(result if as_json else flatten(result), as_json=as_json, title="Uplift")
    if gate and result["missed"]:
        raise GateFailed("; ".join(result["missed"]))


def _repeated_cv(
    dataset: Dataset,
    arm: str | None,
    learner: Choice,
    prices: Prices | None,
    *,
    with_peers: bool,
    quick: bool,
    seed: int,
) -> UpliftReport:
    from trainers.eval.uplift_cv import FOLDS, REPEATS, repeated_cv
    from trainers.eval.uplift_peers import peers
    from trainers.uplift.boosting import FULL, QUICK
    from trainers.uplift.trial import MIN_FIT_ROWS, compare, require_rows

    comparison = compare(dataset, arm)
    require_rows(comparison, MIN_FIT_ROWS)
    others = peers(dataset.schema.feature_types(), seed) if with_peers else {}
    with progress() as bar:
        task = bar.add_task("cross-validating", total=FOLDS * REPEATS)
        settings = QUICK if quick else FULL
        return repeated_cv(
            comparison, _learners(learner), others, settings, prices, seed, advance=lambda: bar.advance(task)
        )


def _held_out(
    dataset: Dataset, checkpoint: Path | None, rows: Rows, arm: str | None, prices: Prices | None, seed: int
) -> UpliftReport:
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.errors import BadInput
    from churnsaver.models.uplift import UPLIFT, UpliftModel
    from trainers.data import Part
    from trainers.eval.uplift import evaluate_checkpoint
    from trainers.models.seen import require_unseen
    from trainers.uplift.trial import MIN_TEST_ROWS, compare, require_rows

    opened = champion(UPLIFT) if checkpoint is None else open_checkpoint(checkpoint, UPLIFT)
    model = UpliftModel.from_checkpoint(opened)
    if dataset.schema.feature_names != model.schema.feature_names:
        raise BadInput(f"{dataset.source}: schema {dataset.schema.name} has other features than the checkpoint's")
    comparison = compare(dataset, arm or model.spec.arm)
    for name, found, learned in (
        ("arm", comparison.arm, model.spec.arm),
        ("control", comparison.control, model.spec.control),
        ("outcome", comparison.outcome, model.spec.outcome),
    ):
        if found != learned:
            raise BadInput(f"{opened.path}: its {name} is {learned!r}, not {found!r}; train a checkpoint for that")
    chosen = comparison if rows is Rows.ALL else comparison.take(Part.TEST)
    require_unseen(chosen.rows, opened, model.schema)
    require_rows(chosen, MIN_TEST_ROWS)
    return evaluate_checkpoint(model, chosen, prices, seed)


def _load(data: Path, schema: Path | None, outcome: str | None) -> Dataset:
    from churnsaver.domain.schema import Role
    from churnsaver.errors import BadInput
    from churnsaver.settings import load_schema
    from trainers.data import load_dataset
    from trainers.uplift.trial import with_outcome

    described = load_schema(schema) if schema is not None else None
    if described is not None and outcome is not None:
        described = with_outcome(described, outcome)
    dataset = load_dataset(data, described)
    if outcome is not None and dataset.schema.name_of(Role.OUTCOME) != outcome:
        raise BadInput(f"{data}: was prepared with another outcome; name the CSV and its --schema with --outcome")
    return dataset


def _learners(choice: Choice) -> list[Learner]:
    from churnsaver.models.uplift import Learner

    return list(Learner) if choice is Choice.AUTO else [Learner(choice.value)]


def _prices(cost_usd: float | None, value_usd: float | None) -> Prices | None:
    from churnsaver.errors import BadInput
    from trainers.eval.uplift_value import Prices

    if cost_usd is None and value_usd is None:
        return None
    if cost_usd is None or value_usd is None:
        raise BadInput("--cost-usd and --value-usd belong together; give both, or neither")
    return Prices(cost_usd, value_usd)
