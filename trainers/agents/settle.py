"""From the actor that training ends with to the one that is served.

How often a stochastic policy contacts follows the luck of its last campaigns, and every percent of spend matters
to a limit. So the actor's readiness to contact (the bias of "do not contact") and the sharpness of its choices (a
factor on the logits, as a softmax's inverse temperature) are settled in one large campaign of their own: of all
that keep every constraint's target, the pair that earns most. Both are folded into the last layer, so what is
served is a network as before.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from churnsaver.domain.world import World
from trainers.agents.networks import masked_log_probs
from trainers.env.params import CONSTRAINTS, DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.simulate import campaign_months, run_campaign

@dataclass(frozen=True, slots=True)
class Validation:
    """What a policy brought in one campaign: mean net value a customer, and costs by constraint."""

    reward_usd: float
    costs_per_month: dict[str, float]


@dataclass(frozen=True, slots=True)
class ActorPolicy:
    """An actor as the environment's `Policy`."""

    actor: nn.Module

    @torch.no_grad()
    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        log_probs = masked_log_probs(self.actor(torch.from_numpy(observation)), torch.from_numpy(allowed))
        return np.exp(log_probs.numpy().astype(np.float64))


@torch.no_grad()
def adjusted(actor: nn.Sequential, sharpness: float, bias: float) -> nn.Sequential:
    """A copy whose logits are `sharpness` times the actor's, and `bias` higher for not contacting."""
    copied = copy.deepcopy(actor)
    last = copied[-1]
    assert isinstance(last, nn.Linear)
    last.weight.mul_(sharpness)
    last.bias.mul_(sharpness)
    last.bias[0] += bias
    return copied


def validate(
    world: World, params: DynamicsParams, population: Population, actor: nn.Module, seed: int
) -> Validation:
    """One campaign over all of `population`."""
    result = run_campaign(world, params, population, ActorPolicy(actor), seed)
    costs = result.costs.mean(axis=0) / campaign_months(world)
    return Validation(float(result.gain_usd.mean()), dict(zip(CONSTRAINTS, costs.tolist(), strict=True)))
