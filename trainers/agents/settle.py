"""From the actors that training ends with to the one that is served.

The last campaigns of training are noisy, so which actor is best and whether it keeps the limits is settled in one
larger campaign of its own, played by all with the same luck. Where none keeps every constraint's target, they are
held back: "do not contact" becomes likelier by the least step that helps. What is reported comes from yet another
campaign.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from churnsaver.domain.actions import NO_CONTACT
from churnsaver.domain.world import World
from trainers.agents.networks import masked_log_probs
from trainers.env.params import CONSTRAINTS, DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.simulate import campaign_months, run_campaign

HOLD_BACK = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # log-odds against contacting


@dataclass(frozen=True, slots=True)
class Validation:
    """What a policy brought in one campaign: mean net value a customer, and costs by constraint."""

    reward_usd: float
    costs_per_month: dict[str, float]

    def share_of_limits(self, limits: SoftLimits) -> float:
        """The largest cost as a share of its limit."""
        return max(cost / float(getattr(limits, name)) for name, cost in self.costs_per_month.items())


@dataclass(frozen=True, slots=True)
class ActorPolicy:
    """An actor as the environment's `Policy`."""

    actor: nn.Module

    @torch.no_grad()
    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(n, actions), 0 where not allowed."""
        log_probs = masked_log_probs(self.actor(torch.from_numpy(observation)), torch.from_numpy(allowed))
        return np.exp(log_probs.numpy().astype(np.float64))


def settle(
    world: World,
    params: DynamicsParams,
    limits: SoftLimits,
    population: Population,
    actors: Sequence[nn.Sequential],
    *,
    customers: int,
    target_fraction: float,
    seed: int,
) -> tuple[nn.Sequential, Validation]:
    """The actor to serve, and what it brought in a campaign that had no part in the choice.

    Args:
        actors: to choose from; each takes observations as they are.
        customers: drawn from the population for each of the two campaigns.
        target_fraction: share of every limit that the choice must keep.
    """
    rng = np.random.default_rng([seed, 2])
    trial, report = (population.take(rng.integers(len(population), size=customers)) for _ in range(2))
    trial_seed, report_seed = rng.integers(2**62, size=2).tolist()
    for hold_back in HOLD_BACK:
        tried = [held_back(actor, hold_back) for actor in actors]
        found = [validate(world, params, trial, actor, trial_seed) for actor in tried]
        shares = [validation.share_of_limits(limits) for validation in found]
        if min(shares) <= target_fraction:
            break
    # Where even the last step did not help, the one that strays least.
    best = max(range(len(tried)), key=lambda i: (shares[i] <= target_fraction, found[i].reward_usd, -shares[i]))
    return tried[best], validate(world, params, report, tried[best], report_seed)


@torch.no_grad()
def held_back(actor: nn.Sequential, log_odds: float) -> nn.Sequential:
    """A copy that is so much less inclined to contact anybody."""
    copied = copy.deepcopy(actor)
    copied[-1].get_parameter("bias")[NO_CONTACT] += log_odds
    return copied


def validate(world: World, params: DynamicsParams, population: Population, actor: nn.Module, seed: int) -> Validation:
    """One campaign over all of `population`."""
    result = run_campaign(world, params, population, ActorPolicy(actor), seed)
    costs = result.costs.mean(axis=0) / campaign_months(world)
    return Validation(float(result.gain_usd.mean()), dict(zip(CONSTRAINTS, costs.tolist(), strict=True)))
