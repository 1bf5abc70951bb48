"""One campaign played by the actor, as a batch for PPO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from churnsaver.errors import BadInput
from trainers.agents.lagrangian import Lagrangian
from trainers.agents.networks import ActorCritic, masked_log_probs
from trainers.env.dynamics import Bools, Campaign, Situation, StepOutcome
from trainers.env.response import Floats
from trainers.env.simulate import draw_actions


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
    refused: int


def generalized_advantages(
    rewards: Floats, values: Floats, continues: Bools, gamma: float, gae_lambda: float
) -> Floats:
    """GAE (Schulman et al. 2016), all heads at once.

    Args:
        rewards: (steps, n, heads).
        values: (steps + 1, n, heads); the last row bootstraps, for the campaign's end cuts an ongoing process
            (Pardo et al. 2018, "Time limits in reinforcement learning").
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
    """Plays `campaign`, `months` long, to its end with the actor's own draws, and estimates advantages."""
    situations = [campaign.situation]
    observations, actions, log_probs, rewards, costs, refused = [], [], [], [], [], 0
    while not campaign.finished:
        observation = network.standardise(situations[-1].observation)
        drawn, drawn_log_probs = _draw(network.actor, observation, situations[-1].allowed, rng)
        outcome = campaign.step(drawn)
        _require_numbers(situations[-1], outcome, len(actions))
        actions.append(drawn)
        log_probs.append(drawn_log_probs)
        rewards.append(outcome.reward_usd)
        costs.append(outcome.costs)
        refused += int(outcome.refused.sum())
        situations.append(campaign.situation)
        observations.append(observation)
    observations.append(network.standardise(situations[-1].observation))
    cost = np.stack(costs)  # (steps, n, constraints)
    totals = CampaignTotals(float(np.sum(rewards, axis=0).mean()), cost.sum(axis=0).mean(axis=0) / months, refused)

    observed = torch.stack(observations)  # (steps + 1, n, features)
    with torch.no_grad():
        values = network.values(observed).numpy().astype(np.float64)
    heads = np.concatenate([np.stack(rewards)[:, :, None], lagrangian.in_limits(cost)], axis=2)
    reach = np.stack([reachable(situation) for situation in situations])  # (steps + 1, n)
    advantages = generalized_advantages(heads, values, reach[1:], gamma, gae_lambda)

    keep = reach[:-1]
    return Batch(
        observations=observed[:-1][torch.from_numpy(keep)],
        allowed=torch.from_numpy(np.stack([situation.allowed for situation in situations[:-1]])[keep]),
        actions=torch.from_numpy(np.stack(actions)[keep]),
        log_probs=torch.from_numpy(np.stack(log_probs)[keep]),
        advantages=advantages[keep],
        returns=torch.from_numpy((advantages + values[:-1])[keep].astype(np.float32)),
    ), totals


def _require_numbers(situation: Situation, outcome: StepOutcome, step: int) -> None:
    """BadInput where a reward, a cost or what was observed is NaN or infinite: nothing can be learned from it."""
    columns = (outcome.reward_usd[:, None], outcome.costs, situation.observation)
    fine = np.logical_and.reduce([np.isfinite(column).all(axis=1) for column in columns])
    if fine.all():
        return
    row = int(np.argmin(fine))
    raise BadInput(
        f"step {step} of a training campaign: the reward, a cost or the observation of {int((~fine).sum())} customers "
        f"is no number; the first pays {situation.contact.monthly_usd[row]:g} USD a month and earned "
        f"{outcome.reward_usd[row]:g} USD; check monthly charge, tenure and the models' scores of such customers, and "
        "dynamics: of env.yaml"
    )


@torch.no_grad()
def _draw(
    actor: nn.Module, observation: torch.Tensor, allowed: Bools, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """An action for each customer and its log-probability, (n,) each."""
    log_probs = masked_log_probs(actor(observation), torch.from_numpy(allowed)).numpy()
    drawn = draw_actions(np.exp(log_probs.astype(np.float64)), rng.random(len(log_probs)))
    return drawn, log_probs[np.arange(len(drawn)), drawn]
