"""The networks of PPO: an actor over joint actions, and critics whose outputs follow the returns' scale."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

POPART_RATE = 0.1  # of the running moments, per rollout


def layer(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """Orthogonal weights and zero bias (Andrychowicz et al. 2021, "What matters in on-policy RL?")."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


def mlp(inputs: int, hidden_sizes: Sequence[int], outputs: int, output_gain: float) -> nn.Sequential:
    """Tanh layers with gain √2, then a linear one with `output_gain`."""
    sizes = [inputs, *hidden_sizes]
    hidden: list[nn.Module] = []
    for size, next_size in pairwise(sizes):
        hidden += [layer(size, next_size, math.sqrt(2.0)), nn.Tanh()]
    return nn.Sequential(*hidden, layer(sizes[-1], outputs, output_gain))


def initial_actor(inputs: int, hidden_sizes: Sequence[int], actions: int, contact_rate: float) -> nn.Sequential:
    """An actor that contacts at `contact_rate`, evenly over offers and delays, whatever it sees.

    The last layer's gain of 0.01 makes it nearly blind at first; its bias for "do not contact" is the prior's
    log-odds, as focal loss initialises rare classes (Lin et al. 2017).
    """
    actor = mlp(inputs, hidden_sizes, actions, 0.01)
    with torch.no_grad():
        nn.init.constant_(
            actor[-1].get_parameter("bias")[:1], math.log((1.0 - contact_rate) * (actions - 1) / contact_rate)
        )
    return actor


def masked_log_probs(logits: Tensor, allowed: Tensor) -> Tensor:
    """Log of the masked policy, (n, actions); the dtype's lowest value where `allowed` is False.

    Invalid action masking (Huang & Ontañón 2022): the mask is part of the policy, so the same mask must stand
    here in the rollout and in the update.
    """
    lowest = torch.finfo(logits.dtype).min
    return torch.log_softmax(torch.where(allowed, logits, lowest), dim=-1)


class Critic(nn.Module):
    """State values, one output a head, learned in normalised units.

    PopArt (van Hasselt et al. 2016): when the running mean and deviation of the returns move, the last layer is
    rescaled so that no prediction changes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, inputs: int, hidden_sizes: Sequence[int], heads: int) -> None:
        super().__init__()
        self.body = mlp(inputs, hidden_sizes, heads, 1.0)
        self.register_buffer("mean", torch.zeros(heads))
        self.register_buffer("std", torch.ones(heads))

    def forward(self, observation: Tensor) -> Tensor:
        """Normalised values, (n, heads)."""
        values: Tensor = self.body(observation)
        return values

    def values(self, observation: Tensor) -> Tensor:
        """Values in the returns' own units, (n, heads)."""
        values: Tensor = self(observation) * self.std + self.mean
        return values

    def normalise(self, returns: Tensor) -> Tensor:
        """Returns (n, heads) in the units of `forward`."""
        return (returns - self.mean) / self.std

    @torch.no_grad()
    def follow(self, returns: Tensor) -> None:
        """Moves the running moments towards those of `returns` (n, heads), keeping every prediction."""
        mean = torch.lerp(self.mean, returns.mean(dim=0), POPART_RATE)
        std = torch.lerp(self.std, returns.std(dim=0), POPART_RATE).clamp(min=1e-4)
        last = self.body[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_((self.std / std)[:, None])
        last.bias.mul_(self.std).add_(self.mean - mean).div_(std)
        self.mean.copy_(mean)
        self.std.copy_(std)


class ActorCritic(nn.Module):
    """Actor, reward critic and cost critics, sharing nothing but how the observation is standardised."""

    observation_mean: Tensor
    observation_std: Tensor

    def __init__(
        self, features: int, actions: int, constraints: int, hidden_sizes: Sequence[int], contact_rate: float
    ) -> None:
        super().__init__()
        self.register_buffer("observation_mean", torch.zeros(features))
        self.register_buffer("observation_std", torch.ones(features))
        self.actor = initial_actor(features, hidden_sizes, actions, contact_rate)
        self.reward_critic = Critic(features, hidden_sizes, 1)
        self.cost_critic = Critic(features, hidden_sizes, constraints)

    def standardise(self, observations: NDArray[np.float32]) -> Tensor:
        """Observations (…, features) as the actor and the critics take them."""
        standard: Tensor = (torch.from_numpy(observations) - self.observation_mean) / self.observation_std
        return standard

    def values(self, observation: Tensor) -> Tensor:
        """Reward value and cost values side by side, (n, 1 + constraints)."""
        return torch.cat([self.reward_critic.values(observation), self.cost_critic.values(observation)], dim=-1)

    @torch.no_grad()
    def with_actor(self, actor: nn.Sequential) -> ActorCritic:
        """A copy with `actor` as its actor that takes observations as they are: first layers standardise them."""
        copied = copy.deepcopy(self)
        copied.actor = copy.deepcopy(actor)
        for body in (copied.actor, copied.reward_critic.body, copied.cost_critic.body):
            first = body[0]
            assert isinstance(first, nn.Linear)
            first.weight.div_(self.observation_std)
            first.bias.sub_(first.weight @ self.observation_mean)
        copied.observation_mean.zero_()
        copied.observation_std.fill_(1.0)
        return copied
