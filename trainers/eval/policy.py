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
from trainers.agents.baselines import BaselineFamily, NeverContact, Policy, Turned, calibrate
from trainers.env.params import DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.response import Floats
from trainers.eval.arena import compare
from trainers.eval.play import Advance, Play, Setting, no_progress, play
from trainers.eval.policy_findings import (
    NEVER,
    PPO,
    by_segment,
    constraints,
    cost_over_limit,
    described,
    gain_over,
    spec,
    spend_ratio,
)
from trainers.eval.policy_targets import MIN_DECISIONS, dollars, missed_targets, remarks
from trainers.eval.resample import TwoWayBootstrap
from trainers.eval.rivals import rehearsal
from trainers.eval.stress import SCENARIOS, Scenario

__all__ = ["MIN_DECISIONS", "NEVER", "PPO", "evaluate_policy", "missed_targets", "quick_gate"]

AS_TRAINED = "as_trained"
# Seeds of campaigns: no two seeds of a judgement share any, so that several judgements are independent, and those on
# which baselines are calibrated are away from those that judge.
SEEDS_APART = 100_000
CALIBRATION_SEED_OFFSET = 10_000
STRESS_SEED_OFFSET = 20_000
CALIBRATION_CUSTOMERS, CHOICE_CAMPAIGNS, DIAL_CAMPAIGNS, STRESS_REHEARSALS = 2_000, 4, 4, 2
STRESS_CAMPAIGNS = 4
# Customers leave, so about this share of the epochs is decided about.
DECIDED_SHARE = 0.85

QUICK_CUSTOMERS, QUICK_CAMPAIGNS = 1_500, 4
# Few campaigns are noisy, so a cost may be a fifth over its limit in the quick gate; by the full one it surely is not.
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
    others = setting.with_customers(_some(calibration, CALIBRATION_CUSTOMERS, seed))
    among_others = rehearsal(others, _seeds(seed, CALIBRATION_SEED_OFFSET, CHOICE_CAMPAIGNS))
    here = rehearsal(setting, _seeds(seed, CALIBRATION_SEED_OFFSET, DIAL_CAMPAIGNS))
    spend_among_others_usd, spend_usd = among_others.play(policy).spend_usd, here.play(policy).spend_usd
    rivals = {}
    for name, family in families.items():
        best = calibrate(family, among_others, limits, spend_among_others_usd)
        rivals[name] = here.turn(best.variant, spend_usd)
        advance()
    bootstrap = TwoWayBootstrap(judging.campaigns, len(setting.population), seed)
    plays = _play_all(setting, policy, _policies(rivals), _seeds(seed, 0, judging.campaigns), advance)
    arena = compare(plays, bootstrap)
    stressed = {
        name: _stressed(scenario, setting, limits, plays[PPO].reserved_usd, policy, rivals, judging, seed, advance)
        for name, scenario in SCENARIOS.items()
    }
    report: dict[str, Any] = {
        "customers": len(setting.population),
        "campaigns": judging.campaigns,
        "decisions": plays[PPO].decisions,
        "contacts": plays[PPO].contacts,
        "hard_rule_violations": sum(plays[PPO].violations.values()),
        "violations": plays[PPO].violations,
        "constraints": constraints(plays[PPO], limits, bootstrap),
        "gain_over": {name: gain_over(arena, plays, name) for name in (*rivals, NEVER)},
        "policies": {name: described(setting, played, plays[NEVER], bootstrap) for name, played in plays.items()},
        "baselines": {name: spec(rival.policy) for name, rival in rivals.items()},
        "arena": arena.as_dict(),
        "segments": by_segment(setting, plays, arena, bootstrap),
        "stress": {name: found for name, (found, _) in stressed.items()},
    }
    gains = {AS_TRAINED: _gains_usd(plays, rivals), **{name: gains for name, (_, gains) in stressed.items()}}
    return PolicyReport({**report, "missed": missed_targets(report), "remarks": remarks(report)}, gains)


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
    seeds = _seeds(seed, STRESS_SEED_OFFSET, QUICK_CAMPAIGNS)
    plays = _play_all(sample, policy, baselines, seeds, no_progress)
    arena = compare(plays, TwoWayBootstrap(QUICK_CAMPAIGNS, len(sample.population), seed))
    ours, earned = plays[PPO], arena.pair(PPO, NEVER).gain
    broken = ", ".join(f"{count} × {rule}" for rule, count in ours.violations.items() if count)
    demands = [
        (not broken, f"it broke hard rules: {broken}"),
        (earned.low > 0.0, f"it earns {dollars(earned)} a customer over contacting nobody, not surely more than 0"),
    ]
    for name, value in ours.costs_per_month.items():
        limit = getattr(limits, name)
        said = f"{name} is {value:.4f} a customer-month, over {COST_TOLERANCE:g} × its limit {limit:.4f}"
        demands.append((value <= COST_TOLERANCE * limit, said))
    for name in baselines:
        gain = arena.pair(PPO, name).gain
        demands.append((gain.high >= 0.0, f"it earns {dollars(gain)} a customer less than the baseline {name}"))
    return Gate.of(*demands)


# -- how -----------------------------------------------------------------------------------------------


def _some(population: Population, most: int, seed: int) -> Population:
    """At most this many of the customers, at random."""
    rows = np.random.default_rng([seed, 13]).permutation(len(population))[:most]
    return population.take(rows)


def _seeds(seed: int, offset: int, campaigns: int) -> range:
    first = seed * SEEDS_APART + offset
    return range(first, first + campaigns)


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
    limits: SoftLimits,
    reserved_usd: float,
    policy: Policy,
    rivals: Mapping[str, Turned],
    judging: Judging,
    seed: int,
    advance: Advance,
) -> tuple[dict[str, Any], dict[str, Floats]]:
    """One stress test: baselines as they were deployed, and turned anew to what the policy now spends.

    Args:
        reserved_usd: what the policy books from the budget as trained.
    """
    campaigns = judging.stress_campaigns
    stressed = scenario.change(setting, seed, reserved_usd)
    rehearsed = rehearsal(stressed, _seeds(seed, CALIBRATION_SEED_OFFSET, STRESS_REHEARSALS))
    spend_usd = rehearsed.play(policy).spend_usd
    turned = {name: rehearsed.turn(rival.variant, spend_usd) for name, rival in rivals.items()}
    seeds = _seeds(seed, STRESS_SEED_OFFSET, campaigns)
    bootstrap = TwoWayBootstrap(campaigns, len(setting.population), seed)
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
        "cost_over_limit": cost_over_limit(constraints(ours, limits, bootstrap)),
        "refused": ours.refused,
        "gain_over": {
            name: {
                "equal_spend": anew.pair(PPO, name).gain.as_dict(),
                "spend_ratio": spend_ratio(equal[name], ours),
                "as_deployed": deployed.pair(PPO, name).gain.as_dict(),
                "as_deployed_spend_ratio": spend_ratio(plays[name], ours),
            }
            for name in rivals
        },
    }
    return found, _gains_usd({PPO: ours, **equal}, rivals)


def _gains_usd(plays: Mapping[str, Play], rivals: Iterable[str]) -> dict[str, Floats]:
    """The policy's gain over each baseline, (customers,)."""
    return {name: (plays[PPO].gain_usd - plays[name].gain_usd).mean(axis=0) for name in rivals}
