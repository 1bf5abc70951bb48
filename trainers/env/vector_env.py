"""The retention campaign as a Gymnasium vector environment: n customers who share one budget."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.world import World
from trainers.env.dynamics import Campaign
from trainers.env.params import DynamicsParams
from trainers.env.population import Population
from trainers.env.response import Bools, Floats
from trainers.env.retention_env import SEED_BOUND, observation_space
from trainers.env.simulate import campaign_budget_cents


class RetentionVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """One campaign over `num_envs` customers, in step with each other.

    Its customers start together and share the campaign's budget (per planned customer, as `env.yaml` has
    it), which is admitted customer by customer within a step, in order, as the ledger does. Whoever leaves
    stays terminated and inert until the campaign ends, when all are truncated: nobody takes a place that
    becomes free, so autoreset is disabled and `reset` starts a whole new campaign.

    `info`: `action_mask` (n, actions) bool; `reasons` (n, actions) as `eligibility.Reason`; after a step also
    `costs` and `expected_costs` (n, constraints), `cash_usd`, `decided`, `contacted`, `refused`, `accepted`,
    `opted_out`, each (n,).
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(self, world: World, params: DynamicsParams, population: Population, num_envs: int) -> None:
        self._world, self._params, self._population = world, params, population
        self.num_envs = num_envs
        self.single_action_space = spaces.Discrete(len(ActionSpace(world)))
        self.single_observation_space = observation_space(world)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._campaign: Campaign | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A new campaign with customers drawn from the population; ValueError where only some are to be reset."""
        super().reset(seed=seed, options=options)
        if options and not np.all(options.get("reset_mask", True)):
            raise ValueError("customers share one campaign; reset all of them, or leave out reset_mask")
        rows = self.np_random.integers(len(self._population), size=self.num_envs)
        budget_cents = campaign_budget_cents(self._world, self.num_envs)
        campaign_seed = int(self.np_random.integers(SEED_BOUND))
        self._campaign = Campaign(self._world, self._params, self._population.take(rows), budget_cents, campaign_seed)
        return self._campaign.situation.observation, self._mask(self._campaign)

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.float32], Floats, Bools, Bools, dict[str, Any]]:
        """One joint action for each customer, (n,)."""
        campaign = self._campaign
        if campaign is None:
            raise gymnasium.error.ResetNeeded("call reset() before the first step()")
        outcome = campaign.step(actions)
        left = ~campaign.active
        info = self._mask(campaign) | {
            "costs": outcome.costs,
            "expected_costs": outcome.expected_costs,
            "cash_usd": outcome.cash_usd,
            "decided": outcome.decided,
            "contacted": outcome.contacted,
            "refused": outcome.refused,
            "accepted": outcome.accepted,
            "opted_out": outcome.opted_out,
        }
        truncated = ~left if campaign.finished else np.zeros_like(left)
        return campaign.situation.observation, outcome.reward_usd, left, truncated, info

    @staticmethod
    def _mask(campaign: Campaign) -> dict[str, Any]:
        return {"action_mask": campaign.situation.allowed, "reasons": campaign.situation.reasons}
