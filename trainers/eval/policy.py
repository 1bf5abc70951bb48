"""`eval policy`: a policy in the arena with its baselines, as a business and under stress, and what that misses.

Policies are judged on customers and campaigns that they have not seen. Which variant of a baseline competes is
chosen on training's customers too; its dial is then turned to the policy's spend on the judging customers, in other
campaigns than those that judge, where only spend is looked at.
Gains are net value against contacting nobody as the dynamics' shaped rewards sum it up: the mean is that of the
money as drawn, which is reported beside it, but whether a customer leaves enters as its probability, so the
interval is several times narrower.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from churnsaver.checkpoints import Gate
from churnsaver.domain.world import HOURS_PER_DAY, World
from churnsaver.models.baselines import BaselinePolicy
from trainers.agents.baselines import BaselineFamily, NeverContact, Policy, Turned, calibrate
from trainers.env.params import CONSTRAINTS, DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.response import Floats
from trainers.eval.arena import Arena, compare
from trainers.eval.business import business_figures, segments
from trainers.eval.metrics import Interval
from trainers.eval.play import Advance, Play, Setting, no_progress, play
from trainers.eval.resample import CustomerBootstrap
from trainers.eval.rivals import rehearsal
from trainers.eval.stress import SCENARIOS, Scenario

PPO, NEVER = "ppo", "never"
AS_TRAINED = "as_trained"
SPEC_FIELDS = {"offer", "threshold", "worth", "pacing"}
# Seeds of the campaigns on which baselines are calibrated, away from those that judge.
CALIBRATION_SEED_OFFSET = 10_000
STRESS_SEED_OFFSET = 20_000
CALIBRATION_CUSTOMERS, CHOICE_CAMPAIGNS, DIAL_CAMPAIGNS, STRESS_REHEARSALS = 2_000, 2, 4, 2
STRESS_CAMPAIGNS = 4
MIN_DECISIONS = 1_000_000
# Customers leave, so about this share of the epochs is decided about.
DECIDED_SHARE = 0.85

QUICK_CUSTOMERS, QUICK_CAMPAIGNS = 1_500, 4
# Few campaigns are noisy, so a cost may be a fifth over its limit in the quick gate; the full one allows nothing.
COST_TOLERANCE = 1.2


@dataclass(frozen=True, slots=True)
class Judging:
    """How much is played.

    Attributes:
        campaigns: by each policy, on the held-out customers.
        stress_campaigns: by each policy, in every stress test.
    """

    campaigns: int
    stress_campaigns: int = STRESS_CAMPAIGNS

    def steps(self, baselines: int) -> int:
        """How often `evaluate_policy` calls `advance`."""
        calibrations, stressed = baselines, 2 + 2 * baselines
        return calibrations + (2 + baselines) * self.campaigns + len(SCENARIOS) * stressed * self.stress_campaigns


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What was measured.

    Attributes:
        result: as it stands in report.json but for the checkpoint's name.
        gains_usd: the policy's gain over each baseline at equal spend, mean of the campaigns, (customers,); by
            scenario, AS_TRAINED first, and baseline.
    """

    result: dict[str, Any]
    gains_usd: dict[str, dict[str, Floats]]


def max_decisions(world: World, customers: int, campaigns: int) -> int:
    """How many decisions are made at most: fewer where customers leave."""
    return customers * campaigns * (world.episode_days * HOURS_PER_DAY // world.epoch_hours)


def enough_campaigns(world: World, customers: int) -> int:
    """How many campaigns make MIN_DECISIONS decisions, with some to spare."""
    return int(np.ceil(MIN_DECISIONS / (DECIDED_SHARE * max_decisions(world, customers, 1))))


def evaluate_policy(
    setting: Setting,
    calibration: Population,
    limits: SoftLimits,
    policy: Policy,
    families: Mapping[str, BaselineFamily],
    judging: Judging,
    *,
    seed: int,
    advance: Advance = no_progress,
) -> PolicyReport:
    """Plays everything that a report tells of.

    Args:
        setting: with the customers who judge.
        calibration: other customers, on whom each baseline's best variant is chosen.
        families: each baseline before it is calibrated, by name.
        advance: is called after each of `judging.steps` steps.
    """
    first = seed + CALIBRATION_SEED_OFFSET
    others = setting.with_customers(_some(calibration, CALIBRATION_CUSTOMERS, seed))
    among_others = rehearsal(others, range(first, first + CHOICE_CAMPAIGNS))
    here = rehearsal(setting, range(first, first + DIAL_CAMPAIGNS))
    spend_among_others_usd, spend_usd = among_others.play(policy).spend_usd, here.play(policy).spend_usd
    rivals = {}
    for name, family in families.items():
        best = calibrate(family, among_others, limits, spend_among_others_usd)
        rivals[name] = here.turn(best.variant, spend_usd)
        advance()
    bootstrap = CustomerBootstrap(len(setting.population), seed)
    plays = _play_all(setting, policy, _policies(rivals), range(seed, seed + judging.campaigns), advance)
    arena = compare(plays, bootstrap)
    stressed = {
        name: _stressed(scenario, setting, policy, rivals, judging.stress_campaigns, seed, advance)
        for name, scenario in SCENARIOS.items()
    }
    report: dict[str, Any] = {
        "customers": len(setting.population),
        "campaigns": judging.campaigns,
        "decisions": plays[PPO].decisions,
        "contacts": plays[PPO].contacts,
        "hard_rule_violations": sum(plays[PPO].violations.values()),
        "violations": plays[PPO].violations,
        "constraints": _constraints(plays[PPO], limits, bootstrap),
        "gain_over": {name: _gains(arena, plays, name) for name in (*rivals, NEVER)},
        "policies": {name: _described(setting, played, plays[NEVER], bootstrap) for name, played in plays.items()},
        "baselines": {name: _spec(rival.policy) for name, rival in rivals.items()},
        "arena": arena.as_dict(),
        "segments": _by_segment(setting, plays, arena, bootstrap),
        "stress": {name: found for name, (found, _) in stressed.items()},
    }
    gains = {AS_TRAINED: _gains_usd(plays, rivals), **{name: gains for name, (_, gains) in stressed.items()}}
    return PolicyReport({**report, "missed": missed_targets(report)}, gains)


def quick_gate(
    world: World,
    params: DynamicsParams,
    limits: SoftLimits,
    population: Population,
    policy: Policy,
    baselines: Mapping[str, Policy],
    *,
    seed: int,
) -> Gate:
    """Whether a freshly trained policy may serve, in seconds: what goes into its manifest.

    It may not break a hard rule, stray far over a soft limit, earn no more than contacting nobody, or be worse
    than a baseline beyond doubt. That it is better than each beyond doubt is what `eval policy --gate` asks.

    Args:
        population: to judge on, held out where there are enough; the campaigns are none of training's.
        baselines: calibrated to the policy's spend, by name.
    """
    sample = Setting(world, params, _some(population, QUICK_CUSTOMERS, seed))
    seeds = range(seed + STRESS_SEED_OFFSET, seed + STRESS_SEED_OFFSET + QUICK_CAMPAIGNS)
    plays = _play_all(sample, policy, baselines, seeds, no_progress)
    arena = compare(plays, CustomerBootstrap(len(sample.population), seed))
    ours, earned = plays[PPO], arena.pair(PPO, NEVER).gain
    broken = ", ".join(f"{count} × {rule}" for rule, count in ours.violations.items() if count)
    demands = [
        (not broken, f"it broke hard rules: {broken}"),
        (earned.low > 0.0, f"it earns {_dollars(earned)} a customer over contacting nobody, not surely more than 0"),
    ]
    for name, value in ours.costs_per_month.items():
        limit = getattr(limits, name)
        said = f"{name} is {value:.4f} a customer-month, over {COST_TOLERANCE:g} × its limit {limit:.4f}"
        demands.append((value <= COST_TOLERANCE * limit, said))
    for name in baselines:
        gain = arena.pair(PPO, name).gain
        demands.append((gain.high >= 0.0, f"it earns {_dollars(gain)} a customer less than the baseline {name}"))
    return Gate.of(*demands)


def missed_targets(report: Mapping[str, Any]) -> list[str]:
    """What TARGETS.md asks and the report does not show, one sentence each."""
    missed = []
    if count := report["hard_rule_violations"]:
        missed.append(f"{count} violations of hard rules, expected none")
    if report["decisions"] < MIN_DECISIONS:
        missed.append(f"{report['decisions']:,} decisions are too few, {MIN_DECISIONS:,} are asked; raise --campaigns")
    missed += [
        f"the gain over {name} at equal spend is not above 0 with confidence: {_said(gain['equal_spend'])}"
        for name, gain in report["gain_over"].items()
        if gain["equal_spend"]["low"] <= 0
    ]
    missed += [
        f"{name} is {cost['value']:.4f} a customer and month, its limit is {cost['limit']:.4f}"
        for name, cost in report["constraints"].items()
        if cost["value"] > cost["limit"]
    ]
    for scenario, found in report["stress"].items():
        if count := found["hard_rule_violations"]:
            missed.append(f"{scenario}: {count} violations of hard rules, expected none")
        missed += [
            f"{scenario}: the gain over {name} at equal spend is not above 0 with confidence: "
            + _said(gain["equal_spend"])
            for name, gain in found["gain_over"].items()
            if found["new_response"] and gain["equal_spend"]["low"] <= 0
        ]
    return missed


# -- how -----------------------------------------------------------------------------------------------


def _some(population: Population, most: int, seed: int) -> Population:
    """At most this many of the customers, at random."""
    rows = np.random.default_rng([seed, 13]).permutation(len(population))[:most]
    return population.take(rows)


def _policies(rivals: Mapping[str, Turned]) -> dict[str, Policy]:
    return {name: rival.policy for name, rival in rivals.items()}


def _play_all(
    setting: Setting, policy: Policy, baselines: Mapping[str, Policy], seeds: Sequence[int], advance: Advance
) -> dict[str, Play]:
    policies: dict[str, Policy] = {PPO: policy, **baselines, NEVER: NeverContact()}
    return {name: play(setting, played, seeds, advance=advance) for name, played in policies.items()}


def _stressed(
    scenario: Scenario,
    setting: Setting,
    policy: Policy,
    rivals: Mapping[str, Turned],
    campaigns: int,
    seed: int,
    advance: Advance,
) -> tuple[dict[str, Any], dict[str, Floats]]:
    """One stress test: baselines as they were deployed, and turned anew to what the policy now spends."""
    stressed, first = scenario.change(setting, seed), seed + CALIBRATION_SEED_OFFSET
    rehearsed = rehearsal(stressed, range(first, first + STRESS_REHEARSALS))
    spend_usd = rehearsed.play(policy).spend_usd
    turned = {name: rehearsed.turn(rival.variant, spend_usd) for name, rival in rivals.items()}
    seeds = range(seed + STRESS_SEED_OFFSET, seed + STRESS_SEED_OFFSET + campaigns)
    bootstrap = CustomerBootstrap(len(setting.population), seed)
    plays = _play_all(stressed, policy, _policies(rivals), seeds, advance)
    equal = {name: play(stressed, rival.policy, seeds, advance=advance) for name, rival in turned.items()}
    ours = plays[PPO]
    deployed, anew = compare(plays, bootstrap), compare({PPO: ours, NEVER: plays[NEVER], **equal}, bootstrap)
    found = {
        "description": scenario.description,
        "new_response": scenario.new_response,
        "decisions": ours.decisions,
        "hard_rule_violations": sum(ours.violations.values()),
        "violations": ours.violations,
        "gain_usd": deployed.pair(PPO, NEVER).gain.as_dict(),
        "costs_per_month": ours.costs_per_month,
        "gain_over": {
            name: {
                "equal_spend": anew.pair(PPO, name).gain.as_dict(),
                "spend_ratio": _spend_ratio(equal[name], ours),
                "as_deployed": deployed.pair(PPO, name).gain.as_dict(),
                "as_deployed_spend_ratio": _spend_ratio(plays[name], ours),
            }
            for name in rivals
        },
    }
    return found, _gains_usd({PPO: ours, **equal}, rivals)


def _gains_usd(plays: Mapping[str, Play], rivals: Iterable[str]) -> dict[str, Floats]:
    """The policy's gain over each baseline, (customers,)."""
    return {name: (plays[PPO].gain_usd - plays[name].gain_usd).mean(axis=0) for name in rivals}


def _constraints(played: Play, limits: SoftLimits, bootstrap: CustomerBootstrap) -> dict[str, dict[str, float]]:
    """Each soft constraint's cost per customer and month with its interval, beside its limit."""
    costs = played.costs.mean(axis=0) / played.months  # (customers, constraints)
    return {
        name: {**bootstrap.mean(costs[:, i]).as_dict(), "limit": getattr(limits, name)}
        for i, name in enumerate(CONSTRAINTS)
    }


def _gains(arena: Arena, plays: Mapping[str, Play], name: str) -> dict[str, Any]:
    pair = arena.pair(PPO, name)
    return {
        "equal_spend": pair.gain.as_dict(),
        "as_drawn": pair.as_drawn.as_dict(),
        "spend_ratio": _spend_ratio(plays[name], plays[PPO]),
    }


def _spend_ratio(theirs: Play, ours: Play) -> float | None:
    """None where the policy spends nothing."""
    return theirs.spend_usd / ours.spend_usd if ours.spend_usd > 0 else None


def _described(setting: Setting, played: Play, never: Play, bootstrap: CustomerBootstrap) -> dict[str, Any]:
    return {
        "business": _as_dicts(business_figures(setting, played, never, bootstrap)),
        "value_usd": float(played.value_usd.mean()),
        "costs_per_month": played.costs_per_month,
        "refused": played.refused,
        "violations": sum(played.violations.values()),
    }


def _by_segment(
    setting: Setting, plays: Mapping[str, Play], arena: Arena, bootstrap: CustomerBootstrap
) -> dict[str, dict[str, Any]]:
    """The policy's business by segment, and its gain over the best baseline there."""
    ours, never = plays[PPO], plays[NEVER]
    best = next(standing.policy for standing in arena.standings if standing.policy not in (PPO, NEVER))
    found: dict[str, dict[str, Any]] = {}
    for kind, parts in segments(setting, ours).items():
        found[kind] = {}
        for part, rows in parts.items():
            found[kind][part] = {
                "share": float(rows.mean()),
                **_as_dicts(business_figures(setting, ours, never, bootstrap, rows)),
                "best_baseline": best,
                "best_baseline_gain_usd": float(plays[best].gain_usd[rows].mean()),
            }
    return found


def _as_dicts(figures: Mapping[str, Interval | None]) -> dict[str, dict[str, float] | None]:
    return {name: figure.as_dict() if figure else None for name, figure in figures.items()}


def _spec(policy: BaselinePolicy) -> dict[str, Any]:
    """What a baseline was turned to: its offer, threshold, price of spend and pacing, as far as it has them."""
    said = policy.spec.model_dump(mode="json", include=SPEC_FIELDS)
    worth, pacing = said.pop("worth", {}), said.pop("pacing")
    return {**said, **worth, **pacing}


def _dollars(interval: Interval) -> str:
    return f"${interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _said(interval: Mapping[str, float]) -> str:
    return _dollars(Interval(interval["value"], interval["low"], interval["high"]))
