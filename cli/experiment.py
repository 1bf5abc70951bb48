"""`eval experiment`: what the arms of a live experiment earned."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from churnsaver.errors import BadInput, GateFailed
from cli.apps import eval_app
from cli.common import SEED, JsonOption, SeedOption, emit
from cli.registry import champion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from churnsaver.domain.schema import Scalar


@eval_app.command("experiment")
def eval_experiment(
    *,
    records: Annotated[
        Path | None,
        typer.Option(help="Folder with decisions/ and outcomes/ as Pub/Sub writes them; default: the local stack's."),
    ] = None,
    risk: Annotated[
        Path | None, typer.Option("--risk", help="Risk checkpoint that reads every arm's customers; default: champion.")
    ] = None,
    follow_days: Annotated[
        int | None, typer.Option(min=1, help="How long each customer is followed; default: a campaign's length.")
    ] = None,
    campaign: Annotated[str | None, typer.Option("--campaign", help="Only decisions of this campaign.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option("--since", help="Only customers who came in from then on, UTC; such as 2026-01-31."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--until", help="Only customers who came in before then, UTC; they are followed on."),
    ] = None,
    alpha: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Intervals hold at every look but for this.")] = 0.05,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.html and report.json.")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 on an alarm, or where an arm is not shown to earn.")] = (
        False
    ),
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Compare the arms of a live experiment with its holdout, however often you look.

    Intention to treat, a customer and campaign: the arm that was drawn counts. Incremental churn and net value come
    with confidence sequences (Waudby-Smith et al. 2021), so that looking daily and stopping early is allowed;
    arms' sizes are tested sequentially against their shares (Lindon & Malek 2022), and where they fail, effects are
    withheld; choose a period of one design by --since and --until. Also: segments and offers in
    which contact raised churn, and whether arms starved each other of a shared budget.

    Nothing here is drawn at random; --seed is taken for uniformity. Callers report churn: no report is staying.
    """
    from churnsaver.events.records import records_dir
    from churnsaver.settings import load_serve_settings, load_world
    from trainers.env.params import load_dynamics
    from trainers.eval.experiment import evaluate_experiment
    from trainers.eval.experiment_plots import experiment_plots
    from trainers.eval.report import write_report
    from trainers.ope.records import read_log

    del seed
    world = load_world()
    folder = records_dir(load_serve_settings()) if records is None else records
    log = read_log(folder, world).entered(campaign, _in_utc(since), _in_utc(until))
    result = evaluate_experiment(log, world, load_dynamics(), _scored(risk), follow_days or world.episode_days, alpha)
    if out is not None:
        write_report(out, f"Experiment in {folder.name}", result, experiment_plots(result))
    emit(result if as_json else _for_a_person(result), as_json=as_json, title="Experiment")
    if gate and result["missed"]:
        raise GateFailed("; ".join(result["missed"]))


def _in_utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC)


def _scored(
    risk: Path | None,
) -> Callable[[Sequence[Mapping[str, Scalar]]], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Risk and monthly charge by one checkpoint: arms' own risks are by different models."""
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.models.trees import RISK, RiskModel

    model = RiskModel.from_checkpoint(champion(RISK) if risk is None else open_checkpoint(risk, RISK))

    def scored(rows: Sequence[Mapping[str, Scalar]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        for row in rows:
            if errors := model.schema.check_row(row):
                raise BadInput(
                    f"records: features.{errors[0].field} {errors[0].message}; name the risk checkpoint of these "
                    "customers' schema with --risk"
                )
        return model.risk(list(rows)), np.array([model.schema.monthly_usd(row) for row in rows])

    return scored


def _for_a_person(result: Mapping[str, Any]) -> dict[str, Any]:
    """The lines that answer what was asked."""
    shown: dict[str, Any] = {key: result[key] for key in ("customers", "followed_customers", "follow_days", "alpha")}
    for arm, told in result["arms"].items():
        reported = f"an outcome reported of {told['reported']:.0%}"
        done = f"{told['contacts']} contacts, {told['opt_outs']} opt-outs"
        shown[arm] = f"{told['followed']} followed, {done}, {reported}"
    for arm, found in result["against_holdout"].items():
        for what in ("incremental_churn", "incremental_net_value_usd"):
            told = found[what]
            shown[f"{arm}: {what}"] = (
                told["why"] if told["low"] is None else f"{told['value']:.4f} [{told['low']:.4f}, {told['high']:.4f}]"
            )
    if withheld := result.get("withheld"):
        shown["effects"] = withheld
    shown["sample ratio p"] = result["sample_ratio"]["p_value"]
    if not withheld:
        woken = ", ".join(result["sleeping_dogs"]["woken"])
        shown["contact raised churn"] = woken or "in no segment, as far as is known"
    shown["outcomes without decision"] = result["orphans"]["outcomes_without_decision"]
    return shown | {f"missed {i}": sentence for i, sentence in enumerate(result["missed"], start=1)}
