"""Actor and critics: two tanh layers each, orthogonally initialised."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from churnsaver.domain.actions import NO_CONTACT


INITIAL_ODDS_OF_NO_CONTACT = 12.0


def _layer(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """Orthogonal weights and zero bias (Engstrom et al. 2020; Huang et al. 2022, detail 2)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(inputs: int, hidden: int, outputs: int, last_gain: float) -> nn.Sequential:
    """Linear, tanh, linear, tanh, linear."""
    root2 = math.sqrt(2.0)
    return nn.Sequential(
        _layer(inputs, hidden, root2),
        nn.Tanh(),
        _layer(hidden, hidden, root2),
        nn.Tanh(),
        _layer(hidden, outputs, last_gain),
    )


class ActorCritic(nn.Module):
    """A policy over joint actions, a critic of the reward and one of each cost, sharing nothing.

    Args:
        features: columns of an observation.
        actions: joint actions.
        costs: soft constraints.
    """

    def __init__(self, features: int, actions: int, costs: int, hidden: int) -> None:
        super().__init__()
        self.actor = mlp(features, hidden, actions, last_gain=0.01)  # alike for every customer at the start
        # A uniform policy would contact nearly everybody every day. It starts from contacting few instead,
        # so that the first campaigns are ones whose constraints mean something.
        with torch.no_grad():
            self.actor[-1].bias[NO_CONTACT] = math.log(INITIAL_ODDS_OF_NO_CONTACT * (actions - 1))
        self.critics = nn.ModuleList(mlp(features, hidden, 1, last_gain=1.0) for _ in range(1 + costs))

    def log_probs(self, observation: Tensor, allowed: Tensor) -> Tensor:
        """Log-probabilities of the masked policy, (batch, actions); −inf where `allowed` is False.

        The mask is law 1's: the very same in rollouts and in updates (Huang & Ontañón 2020).
        """
        logits = self.actor(observation).masked_fill(~allowed, -torch.inf)
        return torch.log_softmax(logits, dim=-1)

    def values(self, observation: Tensor) -> Tensor:
        """Value of the reward, then of each cost, in normalised units, (batch, 1 + costs)."""
        return torch.cat([critic(observation) for critic in self.critics], dim=-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy of each row of masked log-probabilities, (batch,)."""
    # 0 · log 0 is 0; the inner clamp keeps the gradient of −inf out of it.
    return -(log_probs.exp() * log_probs.clamp(min=-30.0)).sum(dim=-1)
