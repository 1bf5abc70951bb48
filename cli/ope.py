"""`eval ope`: what another policy would have earned and cost on what was logged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from churnsaver.errors import BadInput, GateFailed
from cli.apps import eval_app
from cli.common import SEED, JsonOption, SeedOption, emit, flatten
from cli.registry import champion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from churnsaver.domain.world import World
    from trainers.agents.baselines import Policy

RecordsOption = Annotated[
    Path | None,
    typer.Option(help="Folder with decisions/ and outcomes/ as Pub/Sub writes them; default: the local stack's."),
]


@eval_app.command("ope")
def eval_ope(
    *,
    records: RecordsOption = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Policy checkpoint; default: the champion. With --records.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Evaluate this baseline of the checkpoint instead, or never_contact."),
    ] = None,
    campaign: Annotated[str | None, typer.Option("--campaign", help="Only decisions of this campaign.")] = None,
    follow_days: Annotated[int, typer.Option(min=1, help="How long each decision's outcome is followed.")] = 28,
    data: Annotated[Path | None, typer.Option("--data", help="A CSV of logged actions, instead of --records.")] = None,
    schema: Annotated[
        Path | None, typer.Option("--schema", help="Its schema: treatment, propensity and outcome have roles.")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="With --data: uniform, greedy, thompson or an action always taken.")
    ] = "uniform",
    min_effective: Annotated[float, typer.Option(min=2.0, help="Effective decisions below which it refuses.")] = 100.0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.html and report.json.")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 unless value and costs allow a promotion.")] = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Estimate a policy's one-step value and costs from logged decisions: IPS, SNIPS, DM, DR, Switch-DR, DR-OS.

    With --records, a decision's value is in dollars: the margin over the horizon of a customer who is not reported
    as churned within --follow-days, less the accepted offer, the contact and the penalty for an opt-out; its costs
    are spend, contact, fatigue and opt-out, set against the limits of configs/env.yaml per customer and month.
    With --data it is the mean outcome, and the offers' cost where the actions are offers and a revenue is known.

    Where the log is worth fewer than --min-effective decisions of the target's, or lacks its actions, it gives no
    estimate, says why, and exits 1. With --gate the target passes if the lower bound of its gain over the policy
    that logged is 0 or more and each cost's upper bound is within its limit; limits are monthly, so that a log of less
    than a month cannot pass.

    One-step claims only: what weeks under another policy would change is for `eval policy` and `eval experiment`.
    """
    from churnsaver.events.records import records_dir
    from churnsaver.settings import load_serve_settings
    from trainers.eval.ope import ope_plots
    from trainers.eval.report import write_report

    if records is not None and data is not None:
        raise BadInput("give either --records (the gateway's) or --data (a CSV of logged actions)")
    if data is None and (schema is not None or target != "uniform"):
        raise BadInput("--schema and --target go with --data; name the CSV of logged actions")
    if data is not None:
        result = _on_csv(data, schema, target, min_effective, seed)
    else:
        folder = records_dir(load_serve_settings()) if records is None else records
        result = _on_records(folder, checkpoint, baseline, campaign, follow_days, min_effective, seed)
    if out is not None:
        write_report(out, f"Off-policy evaluation of {result['target']}", result, ope_plots(result))
    emit(result if as_json else _for_a_person(result), as_json=as_json, title="Off-policy evaluation")
    if result["refused"]:
        raise GateFailed("; ".join(result["refused"]))
    if gate and result["missed"]:
        raise GateFailed("; ".join(result["missed"]))


def _on_records(
    records: Path,
    checkpoint: Path | None,
    baseline: str | None,
    campaign: str | None,
    follow_days: int,
    min_effective: float,
    seed: int,
) -> dict[str, Any]:
    from churnsaver.settings import load_world
    from trainers.env.params import load_dynamics, load_soft_limits
    from trainers.eval.ope import evaluate_logged, missed_targets
    from trainers.ope.from_records import decided
    from trainers.ope.outcome_model import cross_fit, folds_of
    from trainers.ope.records import read_log

    world = load_world()
    name, policy = _target(checkpoint, baseline, world)
    log = read_log(records, world)
    found = decided(log, policy, world, load_dynamics(), follow_days, campaign)
    logged = found.logged
    models = cross_fit(
        found.features,
        found.actions,
        found.described,
        {"reward": logged.rewards, **logged.costs},
        found.target,
        folds_of(logged.clusters, seed),
    )
    result = evaluate_logged(logged, models, seed, min_effective, found.never)
    limits = load_soft_limits().model_dump()
    head = {
        "target": name,
        "follow_days": follow_days,
        "records": len(log.decisions),
        "left_out": found.left_out,
        "outcomes_without_decision": log.orphans,
        "decisions_per_customer_month": found.per_customer_month,
        "limits_per_customer_month": limits,
        "targets": ", ".join(["the gain over the logging policy", *(f"monthly {name}" for name in limits)]),
    }
    return head | result | {"missed": missed_targets(result, limits, found.per_customer_month)}


def _target(checkpoint: Path | None, baseline: str | None, world: World) -> tuple[str, Policy]:
    """The policy to evaluate, and its name."""
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.models.policy import POLICY_KIND, OnnxPolicy
    from trainers.agents.baselines import NeverContact

    if baseline == "never_contact":
        return baseline, NeverContact()
    opened = champion(POLICY_KIND) if checkpoint is None else open_checkpoint(checkpoint, POLICY_KIND)
    if baseline is None:
        policy = OnnxPolicy.from_checkpoint(opened)
        policy.require_world(world)
        policy.check_golden(opened)
        return opened.version, policy
    from churnsaver.models.baselines import load_baselines

    known = load_baselines(opened, world)
    if baseline not in known:
        raise BadInput(f"--baseline is {baseline!r}; expected one of {', '.join([*known, 'never_contact'])}")
    return f"{baseline} of {opened.version}", known[baseline]


def _on_csv(data: Path, schema: Path | None, target: str, min_effective: float, seed: int) -> dict[str, Any]:
    from churnsaver.settings import load_world
    from trainers.data.load import load_dataset_as
    from trainers.eval.ope import evaluate_logged, missed_targets
    from trainers.ope.from_csv import logged_from_csv

    logged, models = logged_from_csv(load_dataset_as(data, schema), load_world(), target, seed)
    result = evaluate_logged(logged, models, seed, min_effective)
    targets = "the gain over the logging policy; no cost has a limit here"
    return {
        "target": f"{target} on {data.name}",
        "targets": targets,
        **result,
        "scope": f"{result['scope']}; each row is taken as another customer, so where customers come more than once "
        "intervals are too narrow",
        "missed": missed_targets(result, {}, 1.0),
    }


def _for_a_person(result: Mapping[str, Any]) -> dict[str, Any]:
    """Each estimate with its bootstrap interval on one line."""
    shown = flatten({key: value for key, value in result.items() if key not in ("value", "costs", "missed", "scope")})
    for name, estimates in {"value": result.get("value", {}), **result.get("costs", {})}.items():
        for estimator, told in estimates.items():
            shown[f"{name} {estimator}"] = f"{told['value']:.4f} [{told['low']:.4f}, {told['high']:.4f}]"
    missed = {f"missed {i}": sentence for i, sentence in enumerate(result["missed"], start=1)}
    return shown | missed | {"scope": result["scope"]}
