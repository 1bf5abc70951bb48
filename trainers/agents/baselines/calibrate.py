"""Baselines at equal spend: the dial of each is turned until it costs what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from churnsaver.domain.world import HOURS_PER_DAY, HOURS_PER_WEEK, World
from churnsaver.models.baselines import PropensityPolicy
from trainers.env.params import CONSTRAINTS, DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.simulate import campaign_months, run_campaign

BISECTIONS = 10
RESTS_HOURS = (HOURS_PER_WEEK, 28 * HOURS_PER_DAY)


def calibrate_propensity(
    world: World, params: DynamicsParams, limits: SoftLimits, population: Population, spend_usd: float, seed: int
) -> PropensityPolicy:
    """The best propensity policy that spends `spend_usd` a customer and month and keeps the soft limits.

    Each offer with each rest between contacts is calibrated to the spend and valued on `seed`; one that costs
    less whatever the threshold stays at its dearest. Where none keeps the limits, the best of all is taken.
    """
    candidates = []
    for offer, rest_hours in product(world.offers, RESTS_HOURS):
        policy, gain, costs = _bisect(world, params, population, offer.id, rest_hours, spend_usd, seed)
        candidates.append((_keeps(limits, costs), gain, policy))
    return max(candidates, key=lambda candidate: candidate[:2])[2]


def _keeps(limits: SoftLimits, costs: Mapping[str, float]) -> bool:
    # Spend is equal by construction, so only chance decides on which side of its limit it falls.
    return all(costs[name] <= getattr(limits, name) for name in CONSTRAINTS if name != "spend_usd")


def _bisect(
    world: World,
    params: DynamicsParams,
    population: Population,
    offer: str,
    rest_hours: float,
    spend_usd: float,
    seed: int,
) -> tuple[PropensityPolicy, float, dict[str, float]]:
    """The threshold whose spend comes closest to `spend_usd`, with its gain and its costs per month."""
    low, high = 0.0, 1.0
    tried = []
    for _ in range(BISECTIONS):
        policy = PropensityPolicy(world, (low + high) / 2, offer, rest_hours)
        result = run_campaign(world, params, population, policy, seed)
        means = result.costs.mean(axis=0) / campaign_months(world)
        costs = dict(zip(CONSTRAINTS, means.tolist(), strict=True))
        tried.append((abs(costs["spend_usd"] - spend_usd), policy, float(result.gain_usd.mean()), costs))
        if costs["spend_usd"] > spend_usd:
            low = policy.threshold
        else:
            high = policy.threshold
    return min(tried, key=lambda attempt: attempt[0])[1:]
