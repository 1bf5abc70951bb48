"""Soft constraints as a game: the policy maximises value less priced costs, the prices follow the violations.

Primal-dual policy optimisation as in PPO-Lagrangian (Ray, Achiam & Amodei 2019, "Benchmarking Safe
Exploration in Deep Reinforcement Learning"), with plain gradient ascent on the multipliers: Adam would move
a scalar multiplier by its learning rate whatever the violation.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from churnsaver.domain.world import Frozen
from trainers.env.params import CONSTRAINTS, SoftLimits


class LagrangianSettings(Frozen):
    """`lagrangian:` of `ppo.yaml`.

    Attributes:
        learning_rate: step of the dual ascent, per unit of relative violation; small against the policy's
            own steps, so that the policy sees prices that hardly move (two time scales).
        multiplier_max: the clamp from above; from below it is 0.
        target_fraction: the share of each limit that is aimed at.
    """

    learning_rate: Annotated[float, Field(gt=0)]
    multiplier_max: Annotated[float, Field(gt=0)]
    target_fraction: Annotated[float, Field(gt=0, le=1)]


class Lagrangian:
    """One multiplier λ ≥ 0 for each constraint, in dollars per limit: costs are counted in limits."""

    def __init__(self, limits: SoftLimits, settings: LagrangianSettings) -> None:
        self._settings = settings
        self.limits = np.array([getattr(limits, name) for name in CONSTRAINTS])
        self.multipliers = np.zeros(len(CONSTRAINTS))

    def in_limits(self, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Costs (…, constraints) as multiples of their targets."""
        return costs / (self.limits * self._settings.target_fraction)

    def update(self, costs_per_month: NDArray[np.float64]) -> None:
        """Dual ascent: λ ← clip(λ + η (J / target - 1), 0, max), `costs_per_month` J (constraints,)."""
        violation = self.in_limits(costs_per_month) - 1.0
        raised = self.multipliers + self._settings.learning_rate * violation
        self.multipliers = np.clip(raised, 0.0, self._settings.multiplier_max)

    def combine(
        self, reward_advantages: NDArray[np.float64], cost_advantages: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(A_r - Σ λ_i A_ci) / (1 + Σ λ_i): rewards (…), costs in limits (…, constraints). OmniSafe's PPOLag."""
        priced = cost_advantages @ self.multipliers
        return np.asarray((reward_advantages - priced) / (1.0 + self.multipliers.sum()), dtype=np.float64)

    def named(self) -> dict[str, float]:
        """Multiplier of each constraint."""
        return dict(zip(CONSTRAINTS, self.multipliers.tolist(), strict=True))
