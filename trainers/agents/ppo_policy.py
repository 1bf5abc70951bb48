"""PPO with Lagrangian constraints, from top to bottom.

Schulman et al. 2017 with the details that matter (Huang et al. 2022, "The 37 implementation details of PPO"):
GAE, clipped surrogate, entropy bonus, standardised advantages, normalised values, orthogonal initialisation,
Adam with ε = 1e-5, annealed learning rate, clipped gradients, early stop on the KL divergence. Each
iteration plays one whole campaign with customers drawn from the population, then updates multipliers and
networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import Fraction, Frozen, World
from trainers.agents.lagrangian import Lagrangian, LagrangianSettings
from trainers.agents.networks import ActorCritic, masked_log_probs
from trainers.agents.rollout import Batch, play_campaign
from trainers.env.dynamics import Campaign
from trainers.env.params import CONSTRAINTS, DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.simulate import campaign_budget_cents, campaign_months

PositiveInt = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Preset(Frozen):
    """How much is trained: customers in a campaign, and how many campaigns are played."""

    customers: PositiveInt
    iterations: PositiveInt


class Presets(Frozen):
    quick: Preset
    full: Preset


class PpoSettings(Frozen):
    """`configs/ppo.yaml`; what each number means stands there."""

    seed: Annotated[int, Field(ge=0)]
    threads: PositiveInt
    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    initial_contact_rate: Annotated[float, Field(gt=0, lt=1)]
    learning_rate: Positive
    gamma: Fraction
    gae_lambda: Fraction
    clip_epsilon: Positive
    entropy_coefficient: Annotated[float, Field(ge=0)]
    value_coefficient: Positive
    max_grad_norm: Positive
    target_kl: Positive
    epochs: PositiveInt
    minibatches: PositiveInt
    idle_share: Annotated[float, Field(gt=0, le=1)]
    lagrangian: LagrangianSettings
    presets: Presets


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration measured on its own campaign, before its update.

    Attributes:
        reward_usd: mean net value a customer against contacting nobody.
        costs_per_month, multipliers: by constraint.
        entropy: mean of the policy's, in nats.
        approx_kl: how far the update moved the policy.
    """

    number: int
    reward_usd: float
    costs_per_month: dict[str, float]
    multipliers: dict[str, float]
    entropy: float
    approx_kl: float


@dataclass(frozen=True, slots=True)
class TrainedPolicy:
    network: ActorCritic
    multipliers: dict[str, float]
    history: list[Iteration]


def train_ppo(
    world: World,
    params: DynamicsParams,
    limits: SoftLimits,
    population: Population,
    settings: PpoSettings,
    preset: Preset,
    seed: int,
    on_iteration: Callable[[Iteration], None] = lambda _: None,
) -> TrainedPolicy:
    """Trains a policy; the same arguments give bitwise the same one on one machine."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    n_features, n_actions = len(observation_names(world)), len(ActionSpace(world))
    network = ActorCritic(n_features, n_actions, len(CONSTRAINTS), settings.hidden_sizes, settings.initial_contact_rate)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=1e-5)
    anneal = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, total_iters=preset.iterations)
    lagrangian = Lagrangian(limits, settings.lagrangian)
    budget_cents, months = campaign_budget_cents(world, preset.customers), campaign_months(world)
    history: list[Iteration] = []

    for number in range(1, preset.iterations + 1):
        customers = population.take(rng.integers(len(population), size=preset.customers))
        campaign = Campaign(world, params, customers, budget_cents, int(rng.integers(2**62)))
        batch, totals = play_campaign(network, campaign, lagrangian, rng, settings.gamma, settings.gae_lambda, months)
        lagrangian.update(totals.costs_per_month)
        entropy_coefficient = settings.entropy_coefficient * (1.0 - (number - 1) / preset.iterations)
        entropy, approx_kl = update(network, optimizer, batch, lagrangian, settings, entropy_coefficient, rng)
        anneal.step()
        costs = dict(zip(CONSTRAINTS, totals.costs_per_month.tolist(), strict=True))
        history.append(Iteration(number, totals.reward_usd, costs, lagrangian.named(), entropy, approx_kl))
        on_iteration(history[-1])
    return TrainedPolicy(network, lagrangian.named(), history)


def update(
    network: ActorCritic,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    lagrangian: Lagrangian,
    settings: PpoSettings,
    entropy_coefficient: float,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Some epochs of clipped updates on one campaign; mean entropy and approximate KL of the last epoch."""
    combined = lagrangian.combine(batch.advantages[:, 0], batch.advantages[:, 1:])
    combined = (combined - combined.mean()) / (combined.std() + 1e-8)
    advantages = torch.from_numpy(combined.astype(np.float32))
    network.reward_critic.follow(batch.returns[:, :1])
    network.cost_critic.follow(batch.returns[:, 1:])
    kept, weights = thin_idle(batch.actions.numpy(), settings.idle_share, rng)
    entropies, divergences = [0.0], [0.0]
    for _ in range(settings.epochs):
        entropies, divergences = [], []
        order = torch.from_numpy(rng.permutation(kept))
        for rows in order.chunk(settings.minibatches):
            loss, entropy, approx_kl = _loss(network, batch, advantages, weights, rows, settings, entropy_coefficient)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
            optimizer.step()
            entropies.append(entropy)
            divergences.append(approx_kl)
        if np.mean(divergences) > settings.target_kl:
            break
    return float(np.mean(entropies)), float(np.mean(divergences))


def thin_idle(
    actions: NDArray[np.int64], idle_share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Tensor]:
    """Rows to learn from, and the weight of every row (k,): few decisions contact, and most others teach little.

    All contacts are kept, and an idle decision with probability `idle_share` and weight 1 / `idle_share`
    (importance sampling), so that a mean over the kept rows estimates the mean over all.
    """
    idle = actions == NO_CONTACT
    kept = np.flatnonzero(~idle | (rng.random(len(actions)) < idle_share))
    weights = np.where(idle, 1.0 / idle_share, 1.0)
    return kept, torch.from_numpy((weights / weights[kept].mean()).astype(np.float32))


def _loss(
    network: ActorCritic,
    batch: Batch,
    advantages: Tensor,
    weights: Tensor,
    rows: Tensor,
    settings: PpoSettings,
    entropy_coefficient: float,
) -> tuple[Tensor, float, float]:
    """The loss of one minibatch, with its entropy and approximate KL."""
    observations, actions, weight = batch.observations[rows], batch.actions[rows], weights[rows]
    # The mask of the rollout, not a new one: the ratio compares the same two policies.
    log_probs = masked_log_probs(network.actor(observations), batch.allowed[rows])
    log_ratio = log_probs.gather(1, actions[:, None]).squeeze(1) - batch.log_probs[rows]
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - settings.clip_epsilon, 1.0 + settings.clip_epsilon)
    surrogate = (weight * torch.min(ratio * advantages[rows], clipped * advantages[rows])).mean()
    entropy = -(weight * (log_probs.exp() * log_probs).sum(dim=1)).mean()

    targets = batch.returns[rows]
    reward_error = network.reward_critic(observations) - network.reward_critic.normalise(targets[:, :1])
    cost_error = network.cost_critic(observations) - network.cost_critic.normalise(targets[:, 1:])
    value_loss = (weight[:, None] * reward_error.square()).mean() + (weight[:, None] * cost_error.square()).mean()

    loss = -surrogate - entropy_coefficient * entropy + settings.value_coefficient * value_loss
    # Schulman's low-variance estimator, http://joschu.net/blog/kl-approx.html
    approx_kl = (weight * ((ratio - 1.0) - log_ratio)).mean().item()
    return loss, entropy.item(), approx_kl
