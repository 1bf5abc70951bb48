"""`eval policy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from churnsaver.errors import BadInput, GateFailed
from cli.apps import eval_app
from cli.common import SEED, JsonOption, SeedOption, emit, progress, stderr
from cli.policy import AcceptOption, DataOption, RiskOption, SchemaOption, models
from cli.registry import champion

if TYPE_CHECKING:
    from churnsaver.checkpoints import Checkpoint
    from churnsaver.domain.world import World
    from trainers.data import Dataset
    from trainers.env.population import Population

UNSEEN = (
    "give the file that it was trained on, whose test part it never saw, with an id column that keeps customers in "
    "their part, or other customers"
)


@eval_app.command("policy")
def eval_policy(
    *,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Policy checkpoint; default: the champion.")
    ] = None,
    data: DataOption,
    schema: SchemaOption = None,
    risk: RiskOption = None,
    accept: AcceptOption = None,
    campaigns: Annotated[
        int | None,
        typer.Option("--campaigns", min=1, help="Campaigns that each policy plays; default: 1,000,000 decisions."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.html and report.json.")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 where a target is missed.")] = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Play the policy against its three baselines, on customers it was not trained on, as trained and under stress.

    The same luck for all (common random numbers), equal spend; hard rules are checked contact by contact. The
    report names the checkpoint, so that `promote policy --evaluation report.json` can ask it, and all that it was
    judged under. Intervals are over customers and campaigns at once.
    """
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.models.policy import POLICY_KIND, OnnxPolicy
    from churnsaver.models.trees import RiskModel
    from churnsaver.settings import load_world
    from trainers.agents.baselines import fit_baselines
    from trainers.data import Part
    from trainers.data.load import load_dataset_as
    from trainers.env.params import load_dynamics, load_soft_limits
    from trainers.eval.judged_under import judged_under, other_dynamics, other_limits, other_models, unchecked
    from trainers.eval.play import Setting
    from trainers.eval.policy import Judging, enough_campaigns, evaluate_policy
    from trainers.eval.policy_report import policy_sections
    from trainers.eval.report import require_writable, write_report
    from trainers.models.seen import require_unseen

    world, params, limits = load_world(), load_dynamics(), load_soft_limits()
    opened = champion(POLICY_KIND) if checkpoint is None else open_checkpoint(checkpoint, POLICY_KIND)
    policy = OnnxPolicy.from_checkpoint(opened)
    policy.require_world(world)
    policy.check_golden(opened)
    dataset = load_dataset_as(data, schema)
    scorers = models(risk, accept)
    fitting, judging_customers = populations(dataset, scorers, seed)
    require_unseen(dataset.take(Part.TEST), opened, RiskModel.from_checkpoint(scorers[0]).schema, UNSEEN)
    setting = Setting(world, params, judging_customers)
    judging = Judging(campaigns or enough_campaigns(world, len(judging_customers)))
    if gate:
        _require_enough(world, len(judging_customers), judging.campaigns)
    if out is not None:
        require_writable(out)
    changed = [*other_limits(policy.limits, limits), *other_dynamics(opened, params)]
    warnings = [*other_models(opened, scorers), *changed, *unchecked(opened)]
    for warning in warnings:
        stderr.print(f"warning: {warning}", soft_wrap=True)
    with progress() as bar:
        task = bar.add_task("fitting the baselines", total=None)
        families = fit_baselines(world, params, fitting, seed)
        bar.update(task, description="playing campaigns", total=judging.steps(len(families)))
        found = evaluate_policy(
            setting,
            fitting,
            limits,
            policy,
            families,
            judging,
            seed=seed,
            advance=lambda: bar.advance(task),
        )
    report = {
        "checkpoint": {"kind": POLICY_KIND, "version": opened.version, "sha256": opened.sha256},
        "data": {"name": data.name, "sha256": dataset.sha256},
        "judged_under": judged_under(world, params, limits, scorers),
        "warnings": warnings,
        "seed": seed,
        **found.result,
        "missed": [*found.result["missed"], *changed],
    }
    if out is not None:
        write_report(out, f"Policy {opened.version} on {data.name}", report, [], policy_sections(report))
    emit(report if as_json else _in_short(report), as_json=as_json, title="Policy")
    if report["missed"] and gate:
        raise GateFailed("; ".join(report["missed"]))


def populations(dataset: Dataset, scorers: tuple[Checkpoint, Checkpoint], seed: int) -> tuple[Population, Population]:
    """The customers whom training may see, on whom baselines are fitted and calibrated, and the held-out ones.

    Args:
        scorers: the risk and acceptance checkpoints.
    """
    from churnsaver.settings import load_world
    from trainers.agents.train import score_population
    from trainers.data import Part
    from trainers.env.params import load_dynamics
    from trainers.models.checks import MIN_TEST_ROWS

    world, params = load_world(), load_dynamics()
    seen, held_out = dataset.take(Part.TRAIN, Part.VALID), dataset.take(Part.TEST)
    for rows, part in ((held_out, "test"), (seen, "training and validation")):
        if len(rows) < MIN_TEST_ROWS:
            raise BadInput(
                f"{dataset.source}: has {len(rows)} customers in its {part} part, at least {MIN_TEST_ROWS} are "
                "needed; give more customers, or prepare them again with all parts"
            )
    return (
        score_population(seen, world, params, *scorers, seed)[0],
        score_population(held_out, world, params, *scorers, seed)[0],
    )


def _require_enough(world: World, customers: int, campaigns: int) -> None:
    """BadInput where the gate cannot be passed whatever the policy does."""
    from trainers.eval.policy import MIN_DECISIONS, enough_campaigns, max_decisions

    if (most := max_decisions(world, customers, campaigns)) < MIN_DECISIONS:
        raise BadInput(
            f"--campaigns {campaigns}: {customers:,} customers make at most {most:,} decisions in them and --gate asks "
            f"{MIN_DECISIONS:,}; give --campaigns {enough_campaigns(world, customers)} or leave it out"
        )


def _in_short(report: dict[str, Any]) -> dict[str, Any]:
    """What a person wants to see first; everything else is in the report."""
    from trainers.eval.report import interval_text

    short: dict[str, Any] = {
        "checkpoint": report["checkpoint"]["version"],
        "customers, campaigns": f"{report['customers']:,}, {report['campaigns']}",
        "decisions, contacts": f"{report['decisions']:,}, {report['contacts']:,}",
        "violations of hard rules": report["hard_rule_violations"],
    }
    for name, gain in report["gain_over"].items():
        short[f"gain over {name}, $ a customer"] = interval_text(gain["equal_spend"])
    for name, found in report["stress"].items():
        gains = ", ".join(
            f"{rival} {interval_text(gain['equal_spend'])} at {_ratio(gain['spend_ratio'])} of its spend"
            for rival, gain in found["gain_over"].items()
        )
        short[f"{name}: violations"] = found["hard_rule_violations"]
        short[f"{name}: gain over"] = gains
        short[f"{name}: gain over never"] = interval_text(found["gain_usd"])
        shares = ", ".join(f"{cost} {share['value']:.2f}" for cost, share in found["cost_over_limit"].items())
        short[f"{name}: costs over their limits"] = shares
    for name, cost in report["constraints"].items():
        short[f"{name} a customer-month"] = f"{interval_text(cost)}, limit {cost['limit']:g}"
    short["remarks"] = "; ".join([*report["warnings"], *report["remarks"]]) or "none"
    return {**short, "missed": "; ".join(report["missed"]) or "nothing"}


def _ratio(value: float | None) -> str:
    return "no share" if value is None else f"{value:.2f}"
