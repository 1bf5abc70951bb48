"""A policy against the propensity baseline at equal spend, on common random numbers, and a check of the rules.

The check of the hard rules is written apart from the mask: it goes over the log of contacts one by one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.money import offer_cost_cents
from churnsaver.domain.world import HOURS_PER_DAY, HOURS_PER_WEEK, World
from trainers.agents.baselines import NeverContact, Policy, PropensityPolicy
from trainers.env.dynamics import Situation, StepOutcome
from trainers.env.params import CONSTRAINTS, DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.simulate import CampaignResult, campaign_budget_cents, campaign_months, run_campaign

RESAMPLES = 2_000
CONFIDENCE = 0.95
BISECTIONS = 12
REST_HOURS = 28 * HOURS_PER_DAY
CALIBRATION_SEED_OFFSET = 10_000


@dataclass(slots=True)
class RuleChecker:
    """Counts violations of the hard rules in the contacts of one campaign; see `watch`."""

    world: World
    population: Population
    budget_cents: int
    epoch: int = 0
    decisions: int = 0
    reserved_cents: int = 0
    violations: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _sends: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    _opted_out: set[int] = field(default_factory=set)

    def watch(self, situation: Situation, actions: NDArray[np.int64], outcome: StepOutcome) -> None:
        """Looks at one step: everyone who was contacted, at their own local time."""
        space = ActionSpace(self.world)
        self.decisions += int(outcome.decided.sum())
        for customer in np.flatnonzero(outcome.contacted).tolist():
            action = space[int(actions[customer])]
            # The clock of the customer's own zone: days passed, and the hour at which they are decided about.
            hour = float(situation.contact.local_hour_at_send[customer, 0])
            sent = self.epoch * self.world.epoch_hours + hour + action.delay_hours
            self._check(customer, action.index, sent)
            self._sends[customer].append(sent)
        self._opted_out.update(np.flatnonzero(outcome.opted_out).tolist())
        self.epoch += 1

    def _check(self, customer: int, index: int, sent: float) -> None:
        rules, action = self.world.contact_rules, ActionSpace(self.world)[index]
        assert action.offer is not None
        start, end = rules.quiet_hours.start_hour, rules.quiet_hours.end_hour
        local = sent % HOURS_PER_DAY
        quiet = start <= local < end if start <= end else local >= start or local < end
        apart = [abs(sent - other) for other in self._sends[customer]]
        cost = offer_cost_cents(action.offer, self.population.features.monthly_usd[customer])
        self.reserved_cents += int(cost) + int(self.population.contact_cost_cents[customer])
        for name, broken in (
            ("quiet_hours", quiet),
            ("cooldown", any(hours < rules.cooldown_hours - 1e-6 for hours in apart)),
            ("weekly_cap", sum(hours < HOURS_PER_WEEK - 1e-6 for hours in apart) >= rules.weekly_cap),
            ("consent", not self.population.consent[customer]),
            ("do_not_contact", customer in self._opted_out),
            ("budget", self.reserved_cents > self.budget_cents),
        ):
            self.violations[name] += int(broken)


@dataclass(frozen=True, slots=True)
class Interval:
    value: float
    low: float
    high: float


def paired_interval(differences: NDArray[np.float64], seed: int) -> Interval:
    """Mean of paired differences (customers,) with a percentile bootstrap interval over customers."""
    rng = np.random.default_rng(seed)
    n = len(differences)
    means = np.array([differences[rng.integers(n, size=n)].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(differences.mean()), float(low), float(high))


def spend_per_month(world: World, result: CampaignResult) -> float:
    """Dollars a customer and month."""
    return float(result.costs[:, CONSTRAINTS.index("spend_usd")].mean() / campaign_months(world))


def calibrate_propensity(
    world: World, params: DynamicsParams, population: Population, spend_usd: float, seed: int
) -> PropensityPolicy:
    """The propensity baseline that spends `spend_usd` a customer and month, with the offer that earns it most.

    Calibrated on seeds of its own, so that neither threshold nor offer is chosen on the campaigns that judge.
    """
    best: tuple[float, PropensityPolicy] | None = None
    for offer in world.offers:
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            policy = PropensityPolicy(world, (low + high) / 2, offer.id, REST_HOURS)
            result = run_campaign(world, params, population, policy, seed)
            low, high = (
                (policy.threshold, high) if spend_per_month(world, result) > spend_usd else (low, policy.threshold)
            )
        policy = PropensityPolicy(world, high, offer.id, REST_HOURS)
        value = float(run_campaign(world, params, population, policy, seed).value_usd.mean())
        if best is None or value > best[0]:
            best = value, policy
    assert best is not None
    return best[1]


def evaluate_policy(
    world: World,
    params: DynamicsParams,
    limits: SoftLimits,
    population: Population,
    policy: Policy,
    *,
    campaigns: int,
    seed: int,
) -> dict[str, Any]:
    """Net value against the baselines, costs against their limits, and violations of the hard rules."""
    pilot = run_campaign(world, params, population, policy, seed + CALIBRATION_SEED_OFFSET)
    propensity = calibrate_propensity(
        world, params, population, spend_per_month(world, pilot), seed + CALIBRATION_SEED_OFFSET
    )
    policies: dict[str, Policy] = {"ppo": policy, "propensity": propensity, "never": NeverContact()}
    months, n = campaign_months(world), len(population)
    values = {name: np.zeros(n) for name in policies}
    costs = {name: np.zeros(len(CONSTRAINTS)) for name in policies}
    churned = dict.fromkeys(policies, 0.0)
    violations: dict[str, int] = defaultdict(int)
    decisions = 0
    for campaign in range(campaigns):
        for name, candidate in policies.items():
            checker = RuleChecker(world, population, campaign_budget_cents(world, n))
            result = run_campaign(world, params, population, candidate, seed + campaign, checker.watch)
            values[name] += result.value_usd / campaigns
            costs[name] += result.costs.mean(axis=0) / months / campaigns
            churned[name] += float(result.churned.mean()) / campaigns
            if name == "ppo":
                decisions += checker.decisions
                for rule, count in checker.violations.items():
                    violations[rule] += count
    report: dict[str, Any] = {
        "customers": n,
        "campaigns": campaigns,
        "decisions": decisions,
        "hard_rule_violations": sum(violations.values()),
        "violations_by_rule": dict(violations),
        "propensity_offer": propensity.offer,
        "propensity_threshold": propensity.threshold,
    }
    for name in policies:
        report[f"{name}_value_usd"] = float(values[name].mean())
        report[f"{name}_churned"] = churned[name]
        for constraint, cost in zip(CONSTRAINTS, costs[name].tolist(), strict=True):
            report[f"{name}_{constraint}_per_month"] = cost
    for rival in ("propensity", "never"):
        gain = paired_interval(values["ppo"] - values[rival], seed)
        report[f"gain_over_{rival}_usd"] = gain.value
        report[f"gain_over_{rival}_low_usd"] = gain.low
        report[f"gain_over_{rival}_high_usd"] = gain.high
    report["limits"] = limits.model_dump()
    return report


def missed_targets(report: dict[str, Any]) -> list[str]:
    """What TARGETS asks and the report does not show."""
    missed = []
    if report["hard_rule_violations"]:
        missed.append(f"{report['hard_rule_violations']} violations of hard rules, expected none")
    if report["gain_over_propensity_low_usd"] <= 0:
        missed.append("the gain over the propensity baseline at equal spend is not above 0 with confidence")
    missed += [
        f"{name} is {report[f'ppo_{name}_per_month']:.4f} a customer and month, its limit is {limit:.4f}"
        for name, limit in report["limits"].items()
        if report[f"ppo_{name}_per_month"] > limit
    ]
    return missed
