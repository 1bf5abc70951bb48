"""Runs a policy through one campaign and adds up what it brought."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.world import HOURS_PER_DAY, HOURS_PER_MONTH, World
from churnsaver.models.baselines import Policy
from trainers.env.checks import DEFAULT_CAMPAIGN
from trainers.env.dynamics import Campaign, Clock
from trainers.env.params import CONSTRAINTS, DynamicsParams
from trainers.env.population import Population
from trainers.env.step import Situation, StepOutcome

Watcher = Callable[[Situation, NDArray[np.int64], StepOutcome], None]


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """Totals of one campaign, each (n,) but costs.

    Attributes:
        value_usd: margin earned and still expected at the end, less spend and penalties, as drawn.
        gain_usd: net value against contacting nobody in the same season, the sum of the shaped rewards; over many
            campaigns its mean is that of `value_usd` less what contacting nobody brings, with far less noise and
            to within cents a customer. Between two policies the difference of the means is exact.
        costs: (n, constraints), sums over the campaign in the order of `params.CONSTRAINTS`.
        churned: left before the end.
        refused: how many wanted actions were not admitted.
        decisions: how many decisions were made about the customer.
        segment: the latent segment of response, an index into `params.SEGMENTS`.
    """

    value_usd: NDArray[np.float64]
    gain_usd: NDArray[np.float64]
    costs: NDArray[np.float64]
    churned: NDArray[np.bool_]
    refused: NDArray[np.int64]
    decisions: NDArray[np.int64]
    segment: NDArray[np.int64]


def campaign_months(world: World) -> float:
    """Length of a campaign in months."""
    return world.episode_days * HOURS_PER_DAY / HOURS_PER_MONTH


def campaign_budget_cents(world: World, customers: int) -> int:
    """The default campaign's budget per planned customer, for this many customers, in cents."""
    campaign = world.campaigns[DEFAULT_CAMPAIGN]
    return campaign.budget_cents * customers // campaign.customers


def draw_actions(probabilities: NDArray[np.float64], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """One action a row, (n,), by inverting the cumulative probabilities at `uniforms` (n,) in [0, 1).

    The last action with any probability catches what rounding leaves of 1, so none with zero is drawn.
    """
    cumulative = np.cumsum(probabilities, axis=1)
    return np.asarray((uniforms[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1), dtype=np.int64)


def run_campaign(
    world: World,
    params: DynamicsParams,
    population: Population,
    policy: Policy,
    seed: int,
    watch: Watcher | None = None,
    clock: Clock | None = None,
) -> CampaignResult:
    """One whole campaign over `population`; the same seed means the same luck for any policy.

    Args:
        watch: called after every step with what was seen, the wanted actions and what they brought.
        clock: says the customers' local hours; None: as many hours pass on them as by anyone's watch.
    """
    n = len(population)
    campaign = Campaign(world, params, population, campaign_budget_cents(world, n), seed, clock)
    draws = np.random.default_rng([seed, 1])
    value, gain, costs = np.zeros(n), np.zeros(n), np.zeros((n, len(CONSTRAINTS)))
    refused, decisions = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    while not campaign.finished:
        situation = campaign.situation
        probabilities = policy.probabilities(situation.observation, situation.allowed)
        actions = draw_actions(probabilities, draws.random(n))
        outcome = campaign.step(actions)
        value += outcome.cash_usd
        gain += outcome.reward_usd
        costs += outcome.costs
        refused += outcome.refused
        decisions += outcome.decided
        if watch is not None:
            watch(situation, actions, outcome)
    value += campaign.stay_values_usd()
    return CampaignResult(value, gain, costs, ~campaign.active, refused, decisions, campaign.segment)
