"""Policies at play: whole campaigns on common random numbers, every contact checked against the hard rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.eligibility import ContactState
from churnsaver.domain.money import offer_costs_cents
from churnsaver.domain.observation import HISTORY, CustomerFeatures, observation_names, observe
from churnsaver.domain.world import HOURS_PER_DAY, HOURS_PER_MONTH, World
from trainers.agents.baselines import Policy
from trainers.env.params import CONSTRAINTS, DynamicsParams
from trainers.env.population import Population
from trainers.env.response import Floats, Ints
from trainers.env.simulate import CampaignResult, campaign_budget_cents, campaign_months, run_campaign
from trainers.env.step import Situation, StepOutcome
from trainers.eval.hard_rules import RULES, RuleChecker
from trainers.eval.zones import ZoneSchedule

Bools = NDArray[np.bool_]
Advance = Callable[[], None]


def no_progress() -> None:
    """For those who do not wait."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where policies are played: the truth, and what of it they see.

    Attributes:
        population: the customers as they are.
        seen: what policies see of the customers where that is not the truth.
        zones_change: each customer's time zone is another one every epoch, as `zones` has it.
    """

    world: World
    params: DynamicsParams
    population: Population
    seen: CustomerFeatures | None = None
    zones_change: bool = False

    def with_customers(self, population: Population) -> Setting:
        return replace(self, population=population)


@dataclass(frozen=True, slots=True)
class Play:
    """What a policy brought, each array (campaigns, customers) and more where said.

    Attributes:
        gain_usd, value_usd, churned, segment: as `CampaignResult` has them.
        costs: (campaigns, customers, constraints), sums over a campaign.
        accepted: offers accepted.
        discount_usd: monthly, of accepted offers that still run when the campaign ends.
        months: length of a campaign.
        reserved_usd: booked from the budget a customer and campaign: offers made, accepted or not, and contacts.
        violations: of the hard rules, by rule.
    """

    gain_usd: Floats
    value_usd: Floats
    costs: Floats
    churned: Bools
    accepted: Ints
    opted_out: Bools
    discount_usd: Floats
    segment: Ints
    months: float
    reserved_usd: float
    refused: int
    decisions: int
    contacts: int
    violations: dict[str, int]

    @property
    def costs_per_month(self) -> dict[str, float]:
        """Each constraint's cost per customer of the campaign and month."""
        return dict(zip(CONSTRAINTS, (self.costs.mean(axis=(0, 1)) / self.months).tolist(), strict=True))

    @property
    def spend_usd(self) -> float:
        """Per customer and month."""
        return self.costs_per_month["spend_usd"]


def play(
    setting: Setting, policy: Policy, seeds: Sequence[int], *, check: bool = True, advance: Advance = no_progress
) -> Play:
    """Plays one campaign for each seed; `advance` is called after each.

    Args:
        check: watch every contact for violations of hard rules; without it there are none to be found.
    """
    policy = policy if setting.seen is None else _SeesOtherwise(policy, setting.world, setting.seen)
    campaigns = []
    for seed in seeds:
        campaigns.append(_campaign(setting, policy, seed, check=check))
        advance()
    results, tallies, checkers = zip(*campaigns, strict=True)
    return Play(
        gain_usd=np.stack([result.gain_usd for result in results]),
        value_usd=np.stack([result.value_usd for result in results]),
        costs=np.stack([result.costs for result in results]),
        churned=np.stack([result.churned for result in results]),
        accepted=np.stack([tally.accepted for tally in tallies]),
        opted_out=np.stack([tally.opted_out for tally in tallies]),
        discount_usd=np.stack([tally.discount_usd for tally in tallies]),
        segment=np.stack([result.segment for result in results]),
        months=campaign_months(setting.world),
        reserved_usd=sum(tally.reserved_cents for tally in tallies) / 100.0 / len(seeds) / len(setting.population),
        refused=sum(int(result.refused.sum()) for result in results),
        decisions=sum(int(result.decisions.sum()) for result in results),
        contacts=sum(tally.contacts for tally in tallies),
        violations={rule: sum(checker.violations[rule] for checker in checkers) for rule in RULES},
    )


def _campaign(
    setting: Setting, policy: Policy, seed: int, *, check: bool
) -> tuple[CampaignResult, _Tally, RuleChecker]:
    world, population = setting.world, setting.population
    zones = ZoneSchedule(world, len(population), seed) if setting.zones_change else None
    checker = RuleChecker(world, population, campaign_budget_cents(world, len(population)), zones)
    tally = _Tally(world, population)

    def watch(situation: Situation, actions: Ints, outcome: StepOutcome) -> None:
        tally.watch(actions, outcome)
        if check:
            checker.watch(situation, actions, outcome)

    result = run_campaign(world, setting.params, population, policy, seed, watch, zones)
    return result, tally, checker


class _Tally:
    """Counts of one campaign that the totals of `run_campaign` do not hold."""

    def __init__(self, world: World, population: Population) -> None:
        n, delays = len(population), len(world.delays_hours)
        self.accepted, self.opted_out = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        self.discount_usd, self.contacts, self.reserved_cents = np.zeros(n), 0, 0
        self._monthly_usd = population.features.monthly_usd
        # By joint action: the share of the bill that is given, and for how many days; no contact gives none.
        self._fraction = np.array([0.0, *np.repeat([offer.discount_fraction for offer in world.offers], delays)])
        months = np.array([0.0, *np.repeat([offer.months for offer in world.offers], delays)])
        self._days = months * HOURS_PER_MONTH / HOURS_PER_DAY
        offers = offer_costs_cents(world, self._monthly_usd) + population.contact_cost_cents[:, None]
        self._reservation_cents, self._delays = offers, delays  # (n, offers)
        self._epoch_days, self._days_left = world.epoch_hours / HOURS_PER_DAY, float(world.episode_days)

    def watch(self, actions: Ints, outcome: StepOutcome) -> None:
        self.accepted += outcome.accepted
        self.opted_out |= outcome.opted_out
        who = np.flatnonzero(outcome.contacted)
        self.contacts += len(who)
        self.reserved_cents += int(self._reservation_cents[who, (actions[who] - 1) // self._delays].sum())
        outlasts = outcome.accepted & (self._days[actions] > self._days_left)
        self.discount_usd += np.where(outlasts, self._fraction[actions] * self._monthly_usd, 0.0)
        self._days_left -= self._epoch_days


class _SeesOtherwise:
    """A policy that is shown other features of the customers than they have."""

    def __init__(self, policy: Policy, world: World, seen: CustomerFeatures) -> None:
        n, names = len(seen.risk), observation_names(world)
        nothing = ContactState(
            consent=np.ones(n, dtype=bool),
            do_not_contact=np.zeros(n, dtype=bool),
            hours_since_contact=np.full((n, HISTORY), np.inf),
            local_hour_at_send=np.zeros((n, len(world.delays_hours))),
            monthly_usd=seen.monthly_usd,
            contact_cost_cents=np.zeros(n, dtype=np.int64),
            budget_left_cents=np.zeros(n, dtype=np.int64),
        )
        of_customer = ["risk", "log_monthly_usd", "log_tenure_months"]
        of_customer += [f"acceptance_{offer.id}" for offer in world.offers]
        self._columns = [names.index(name) for name in of_customer]
        self._shown = observe(world, seen, nothing, np.ones(n))[:, self._columns]
        self._policy = policy

    def probabilities(self, observation: NDArray[np.float32], allowed: Bools) -> Floats:
        shown = observation.copy()
        shown[:, self._columns] = self._shown
        return self._policy.probabilities(shown, allowed)
