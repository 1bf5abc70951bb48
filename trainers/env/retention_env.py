"""The retention campaign as a Gymnasium environment, for one customer.

The same dynamics as `vector_env.RetentionVectorEnv`, with one customer who has the whole campaign's budget
to draw on: what the other customers would take from it is not played.
"""

from __future__ import annotations

from typing import Any, Self

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.eligibility import Reason
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import World
from churnsaver.settings import DEFAULT_SEED, load_world
from trainers.env.checks import DEFAULT_CAMPAIGN
from trainers.env.dynamics import Campaign
from trainers.env.params import CONSTRAINTS, DynamicsParams, load_dynamics
from trainers.env.population import SYNTHETIC_CUSTOMERS, Population, synthetic_population

# `observe` keeps every column within about [-1, 1]; the space allows for what "about" leaves out.
OBSERVATION_BOUND = 10.0
SEED_BOUND = 2**62
SLUGS = [reason.slug for reason in Reason]


def observation_space(world: World) -> spaces.Box[np.float32]:
    """The policy's input of one customer, (features,) float32."""
    return spaces.Box(-OBSERVATION_BOUND, OBSERVATION_BOUND, (len(observation_names(world)),), np.float32)


class RetentionEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One customer, one decision an epoch, until they leave (terminated) or the campaign ends (truncated).

    Action: the index of a joint action of `churnsaver.domain.actions`. One that the mask does not allow is
    refused as the ledger would: nobody is contacted, and `info["refused"]` says so.

    Reward: dollars, shaped as `trainers.env.dynamics` says; over an episode it sums to the net value against
    never contacting the customer.

    `info`: `action_mask` (actions,) int8, which `action_space.sample(mask=…)` takes; `reasons`, why each action
    is masked; after a step also `costs` by constraint, `refused`, `accepted` and `opted_out`.

    Args:
        population: each episode's customer is drawn from it.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(self, world: World, params: DynamicsParams, population: Population) -> None:
        self._world, self._params, self._population = world, params, population
        self.action_space = spaces.Discrete(len(ActionSpace(world)))
        self.observation_space = observation_space(world)
        self._campaign: Campaign | None = None

    @classmethod
    def from_settings(cls) -> Self:
        """The world of `configs/env.yaml` with made-up customers."""
        world, params = load_world(), load_dynamics()
        return cls(world, params, synthetic_population(world, params, SYNTHETIC_CUSTOMERS, DEFAULT_SEED))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Another customer at the start of a campaign."""
        super().reset(seed=seed, options=options)
        customer = self._population.take(self.np_random.integers(len(self._population), size=1))
        budget_cents = self._world.campaigns[DEFAULT_CAMPAIGN].budget_cents
        campaign_seed = int(self.np_random.integers(SEED_BOUND))
        self._campaign = Campaign(self._world, self._params, customer, budget_cents, campaign_seed)
        return self._campaign.situation.observation[0], self._mask(self._campaign)

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Takes one joint action and waits for the next epoch."""
        campaign = self._campaign
        if campaign is None:
            raise gymnasium.error.ResetNeeded("call reset() before the first step()")
        outcome = campaign.step(np.array([action], dtype=np.int64))
        info = self._mask(campaign) | {
            "costs": dict(zip(CONSTRAINTS, outcome.costs[0].tolist(), strict=True)),
            "refused": bool(outcome.refused[0]),
            "accepted": bool(outcome.accepted[0]),
            "opted_out": bool(outcome.opted_out[0]),
        }
        left = not campaign.active[0]
        reward = float(outcome.reward_usd[0])
        return campaign.situation.observation[0], reward, left, campaign.finished and not left, info

    @staticmethod
    def _mask(campaign: Campaign) -> dict[str, Any]:
        return {
            "action_mask": campaign.situation.allowed[0].astype(np.int8),
            "reasons": [SLUGS[reason] for reason in campaign.situation.reasons[0].tolist()],
        }
