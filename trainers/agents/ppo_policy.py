"""PPO with Lagrangian constraints, from top to bottom.

Schulman et al. 2017 with the details that matter (Huang et al. 2022, "The 37 implementation details of PPO"):
standardised observations and advantages, normalised values, GAE, clipped surrogate, annealed entropy bonus and
learning rate, orthogonal initialisation, Adam with ε = 1e-5, clipped gradients, early stop on the KL divergence.
Each iteration plays one whole campaign with customers drawn from the population, then updates multipliers and
networks; the actor that is served is an average over the last iterations, settled in campaigns of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import World
from trainers.agents.feasibility import require_feasible, unmet_constraints
from trainers.agents.lagrangian import Lagrangian
from trainers.agents.networks import ActorCritic, masked_log_probs
from trainers.agents.rollout import Batch, CampaignTotals, play_campaign
from trainers.agents.settings import PpoSettings, Preset
from trainers.agents.settle import Validation, settle
from trainers.env.dynamics import Campaign
from trainers.env.params import CONSTRAINTS, DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.simulate import campaign_budget_cents, campaign_months

MIN_OBSERVATION_STD = 0.1  # what hardly varies in one campaign may in the next


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration measured on its own campaign, before its update.

    Attributes:
        reward_usd: mean net value a customer against contacting nobody.
        costs_per_month, multipliers: by constraint.
        entropy: mean of the policy's, in nats.
        approx_kl: how far the update moved the policy.
        explained_variance: share of the returns' variance that the reward critic foresaw, at most 1.
        unmet: constraints that were over their limit for a while, in the eyes of `feasibility.unmet_constraints`.
    """

    number: int
    reward_usd: float
    costs_per_month: dict[str, float]
    multipliers: dict[str, float]
    entropy: float
    approx_kl: float
    explained_variance: float
    unmet: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrainedPolicy:
    """What training hands on.

    Attributes:
        network: its actor takes observations as the environment gives them, and is the one to serve.
        validation: what that actor brought in campaigns that it did not learn from.
    """

    network: ActorCritic
    multipliers: dict[str, float]
    history: list[Iteration]
    validation: Validation


@dataclass(frozen=True, slots=True)
class Learner:
    """All that training changes, and so all that a resumed run must have back.

    Attributes:
        averaged: the actor averaged over its recent iterations.
        rng: of everything random; torch draws nothing once the networks are initialised.
    """

    network: ActorCritic
    averaged: nn.Sequential
    optimizer: torch.optim.Adam
    lagrangian: Lagrangian
    rng: np.random.Generator
    history: list[Iteration]


def train_ppo(
    world: World,
    params: DynamicsParams,
    limits: SoftLimits,
    population: Population,
    settings: PpoSettings,
    preset: Preset,
    seed: int,
    on_iteration: Callable[[Learner], None] = lambda _: None,
    learner: Learner | None = None,
) -> TrainedPolicy:
    """Trains a policy; the same arguments give bitwise the same one on one machine.

    Args:
        on_iteration: called after each iteration, whose figures are the last of the learner's history.
        learner: of a training that was cut off, to go on with.

    Raises:
        SettingsError: the limits or the budget leave nothing to learn.
        BadInput: a reward or a cost of the environment is no number.
    """
    learner = learner or new_learner(world, params, limits, population, settings, preset, seed)
    months = campaign_months(world)
    for number in range(len(learner.history) + 1, preset.iterations + 1):
        remaining = 1.0 - (number - 1) / preset.iterations
        for group in learner.optimizer.param_groups:  # annealing, detail 4 of Huang et al. 2022
            group["lr"] = settings.learning_rate * remaining
        campaign = draw_campaign(world, params, population, preset.customers, learner.rng)
        batch, totals = play_campaign(
            learner.network, campaign, learner.lagrangian, learner.rng, settings.gamma, settings.gae_lambda, months
        )
        learner.lagrangian.update(totals.costs_per_month)
        updated = update(learner, batch, settings, settings.entropy_coefficient * remaining)
        average(learner.averaged, learner.network.actor, settings.averaging)
        learner.history.append(_iteration(totals, updated, learner, limits, settings))
        on_iteration(learner)
    candidates = [learner.network.with_actor(actor) for actor in (learner.averaged, learner.network.actor)]
    actor, validation = settle(
        world,
        params,
        limits,
        population,
        [candidate.actor for candidate in candidates],
        customers=settings.validation_customers,
        target_fraction=settings.lagrangian.target_fraction,
        seed=seed,
    )
    candidates[0].actor = actor
    return TrainedPolicy(candidates[0], learner.lagrangian.named(), learner.history, validation)


def new_learner(
    world: World,
    params: DynamicsParams,
    limits: SoftLimits,
    population: Population,
    settings: PpoSettings,
    preset: Preset,
    seed: int,
) -> Learner:
    """A learner that has learned nothing but how observations are spread, from one campaign of its own.

    Raises:
        SettingsError: the limits or the budget leave nothing to learn.
    """
    require_feasible(world, params, limits, preset.customers)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    n_features, n_actions = len(observation_names(world)), len(ActionSpace(world))
    network = ActorCritic(n_features, n_actions, len(CONSTRAINTS), settings.hidden_sizes, settings.initial_contact_rate)
    lagrangian = Lagrangian(limits, settings.lagrangian)
    campaign = draw_campaign(world, params, population, preset.customers, rng)
    batch, _ = play_campaign(
        network, campaign, lagrangian, rng, settings.gamma, settings.gae_lambda, campaign_months(world)
    )
    network.observation_mean.copy_(batch.observations.mean(dim=0))
    network.observation_std.copy_(batch.observations.std(dim=0).clamp(min=MIN_OBSERVATION_STD))
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=1e-5, fused=True)
    return Learner(network, copy.deepcopy(network.actor), optimizer, lagrangian, rng, [])


def draw_campaign(
    world: World, params: DynamicsParams, population: Population, customers: int, rng: np.random.Generator
) -> Campaign:
    """A new campaign over customers drawn from the population, with the budget of so many."""
    drawn = population.take(rng.integers(len(population), size=customers))
    return Campaign(world, params, drawn, campaign_budget_cents(world, customers), int(rng.integers(2**62)))


@dataclass(frozen=True, slots=True)
class Updated:
    """Means over the last epoch of an update, and how well the critic had foreseen the returns."""

    entropy: float
    approx_kl: float
    explained_variance: float


def update(learner: Learner, batch: Batch, settings: PpoSettings, entropy_coefficient: float) -> Updated:
    """Some epochs of clipped updates on one campaign."""
    network, rng = learner.network, learner.rng
    combined = learner.lagrangian.combine(batch.advantages[:, 0], batch.advantages[:, 1:])
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
            learner.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
            learner.optimizer.step()
            entropies.append(entropy)
            divergences.append(approx_kl)
        if np.mean(divergences) > settings.target_kl:
            break
    # 1 - Var(returns - values) / Var(returns); a return less its value is its advantage.
    unexplained = float(batch.advantages[:, 0].var()) / max(float(batch.returns[:, 0].var()), 1e-12)
    return Updated(float(np.mean(entropies)), float(np.mean(divergences)), 1.0 - unexplained)


def _iteration(
    totals: CampaignTotals, updated: Updated, learner: Learner, limits: SoftLimits, settings: PpoSettings
) -> Iteration:
    costs = dict(zip(CONSTRAINTS, totals.costs_per_month.tolist(), strict=True))
    recent = [*(past.costs_per_month for past in learner.history), costs]
    return Iteration(
        number=len(recent),
        reward_usd=totals.reward_usd,
        costs_per_month=costs,
        multipliers=learner.lagrangian.named(),
        unmet=unmet_constraints(recent, limits, settings.lagrangian.alarm_iterations),
        **asdict(updated),
    )


@torch.no_grad()
def average(averaged: nn.Sequential, actor: nn.Sequential, decay: float) -> None:
    """Polyak averaging: averaged ← decay · averaged + (1 - decay) · actor.

    The last iterate of a game between a policy and its prices circles around the solution; its average is
    nearer (Polyak & Juditsky 1992; for games, Freund & Schapire 1999).
    """
    for mean, weight in zip(averaged.parameters(), actor.parameters(), strict=True):
        mean.lerp_(weight, 1.0 - decay)


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
    observations, actions = batch.observations.index_select(0, rows), batch.actions[rows]
    weight, advantage = weights[rows], advantages[rows]
    # The mask of the rollout, not a new one: the ratio compares the same two policies.
    log_probs = masked_log_probs(network.actor(observations), batch.allowed.index_select(0, rows))
    log_ratio = log_probs.gather(1, actions[:, None]).squeeze(1) - batch.log_probs[rows]
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - settings.clip_epsilon, 1.0 + settings.clip_epsilon)
    surrogate = (weight * torch.min(ratio * advantage, clipped * advantage)).mean()
    entropy = -(weight * (log_probs.exp() * log_probs).sum(dim=1)).mean()

    targets = batch.returns.index_select(0, rows)
    reward_error = network.reward_critic(observations) - network.reward_critic.normalise(targets[:, :1])
    cost_error = network.cost_critic(observations) - network.cost_critic.normalise(targets[:, 1:])
    value_loss = (weight[:, None] * reward_error.square()).mean() + (weight[:, None] * cost_error.square()).mean()

    loss = -surrogate - entropy_coefficient * entropy + settings.value_coefficient * value_loss
    # Schulman's low-variance estimator, http://joschu.net/blog/kl-approx.html
    approx_kl = (weight * ((ratio - 1.0) - log_ratio)).mean().item()
    return loss, entropy.item(), approx_kl
