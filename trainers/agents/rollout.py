"""One campaign played by the actor, as a batch for PPO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from churnsaver.domain.actions import NO_CONTACT
from trainers.agents.lagrangian import Lagrangian
from trainers.agents.networks import ActorCritic, masked_log_probs
from trainers.env.checks import require_finite
from trainers.env.dynamics import Campaign
from trainers.env.response import Bools, Floats
from trainers.env.simulate import draw_actions
from trainers.env.step import Situation


@dataclass(frozen=True, slots=True)
class Batch:
    """Decisions of one campaign about customers who could be reached, k in all.

    Attributes:
        observations: (k, features), standardised; allowed: (k, actions), the mask of the rollout; actions: (k,).
        log_probs: (k,) of the actions when they were drawn.
        advantages: (k, 1 + constraints), reward in dollars first, then costs in limits.
        returns: (k, 1 + constraints), the critics' targets.
    """

    observations: torch.Tensor
    allowed: torch.Tensor
    actions: torch.Tensor
    log_probs: torch.Tensor
    advantages: Floats
    returns: torch.Tensor


@dataclass(frozen=True, slots=True)
class CampaignTotals:
    """Means over the campaign's customers: shaped reward in dollars, and each cost per customer-month."""

    reward_usd: float
    costs_per_month: Floats


def generalized_advantages(
    rewards: Floats, values: Floats, continues: Bools, gamma: float, gae_lambda: float
) -> Floats:
    """GAE (Schulman et al. 2016), all heads at once.

    Args:
        rewards: (steps, n, heads).
        values: (steps + 1, n, heads); the last row bootstraps. The end of a campaign is treated as a time-out (Pardo et
            al. 2018, "Time limits in reinforcement learning"): campaigns roll in production and no observation shows
            a clock, so a value of 0 there would be noise that the critics cannot foresee. See ADR 0014.
        continues: (steps, n), whether anything can still be done about the customer after the step.

    Returns:
        (steps, n, heads).
    """
    advantages = np.zeros_like(rewards)
    running = np.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        on = continues[t, :, None]
        delta = rewards[t] + gamma * on * values[t + 1] - values[t]
        running = delta + gamma * gae_lambda * on * running
        advantages[t] = running
    return advantages


def reachable(situation: Situation) -> Bools:
    """Whether a contact with each customer can still be allowed, now or later, (n,).

    Whoever cannot be reached is worth what nobody can change, so the shaped return from there on is 0.
    """
    return situation.contact.consent & ~situation.contact.do_not_contact


def play_campaign(
    network: ActorCritic,
    campaign: Campaign,
    lagrangian: Lagrangian,
    rng: np.random.Generator,
    gamma: float,
    gae_lambda: float,
    months: float,
) -> tuple[Batch, CampaignTotals]:
    """Plays `campaign`, `months` long, to its end with the actor's own draws, and estimates advantages.

    Rewards and costs are those expected over acceptance and opt-out: the same means as drawn ones, far less noise.

    Raises:
        BadInput: a reward or a cost is NaN or infinite; the customer and the epoch are named.
    """
    situations = [campaign.situation]
    observations: list[torch.Tensor] = []
    reach: list[Bools] = []
    actions: list[NDArray[np.int64]] = []
    log_probs: list[NDArray[np.float32]] = []
    rewards: list[Floats] = []
    costs: list[Floats] = []
    while not campaign.finished:
        observations.append(network.standardise(situations[-1].observation))
        reach.append(reachable(situations[-1]))
        drawn, drawn_log_probs = _draw(network.actor, observations[-1], situations[-1].allowed, reach[-1], rng)
        outcome = campaign.step(drawn)
        require_finite(len(actions), reward_usd=outcome.reward_usd, expected_costs=outcome.expected_costs.sum(axis=1))
        actions.append(drawn)
        log_probs.append(drawn_log_probs)
        rewards.append(outcome.reward_usd)
        costs.append(outcome.expected_costs)
        situations.append(campaign.situation)
    observations.append(network.standardise(situations[-1].observation))
    reach.append(reachable(situations[-1]))
    cost = np.stack(costs)  # (steps, n, constraints)
    totals = CampaignTotals(float(np.sum(rewards, axis=0).mean()), cost.sum(axis=0).mean(axis=0) / months)

    observed, within = torch.stack(observations), np.stack(reach)  # (steps + 1, n, features), (steps + 1, n)
    heads = np.concatenate([np.stack(rewards)[:, :, None], lagrangian.in_limits(cost)], axis=2)
    values = np.zeros((*within.shape, heads.shape[2]))  # who is out of reach is worth what nobody can change
    with torch.no_grad():
        values[within] = network.values(observed[torch.from_numpy(within)]).numpy()
    advantages = generalized_advantages(heads, values, within[1:], gamma, gae_lambda)

    keep = within[:-1]
    return Batch(
        observations=observed[:-1][torch.from_numpy(keep)],
        allowed=torch.from_numpy(np.stack([situation.allowed for situation in situations[:-1]])[keep]),
        actions=torch.from_numpy(np.stack(actions)[keep]),
        log_probs=torch.from_numpy(np.stack(log_probs)[keep]),
        advantages=advantages[keep],
        returns=torch.from_numpy((advantages + values[:-1])[keep].astype(np.float32)),
    ), totals


@torch.no_grad()
def _draw(
    actor: nn.Module, observation: torch.Tensor, allowed: Bools, reach: Bools, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """An action for each customer and its log-probability, (n,) each; only who is within `reach` costs a forward."""
    rows, uniforms = np.flatnonzero(reach), rng.random(len(reach))
    logits = actor(observation[torch.from_numpy(rows)])
    row_log_probs = masked_log_probs(logits, torch.from_numpy(allowed[rows])).numpy()
    drawn = np.full(len(reach), NO_CONTACT, dtype=np.int64)
    drawn[rows] = draw_actions(np.exp(row_log_probs.astype(np.float64)), uniforms[rows])
    log_probs = np.zeros(len(reach), dtype=np.float32)
    log_probs[rows] = row_log_probs[np.arange(len(rows)), drawn[rows]]
    return drawn, log_probs
