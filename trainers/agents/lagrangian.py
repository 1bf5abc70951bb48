"""Soft constraints as a game: the policy maximises value less priced costs, the prices follow the violations.

Primal-dual policy optimisation as in PPO-Lagrangian (Ray, Achiam & Amodei 2019, "Benchmarking Safe
Exploration in Deep Reinforcement Learning"). The multipliers follow by one of two rules, `lagrangian.kind`:

- `sgd`: plain gradient ascent on the dual. Adam would move a scalar multiplier by its learning rate
  whatever the violation.
- `pid`: Stooke, Achiam & Abbeel 2020, "Responsive Safety in Reinforcement Learning by PID Lagrangian
  Methods". Gradient ascent is its integral term alone, which lags a quarter of a period behind and so
  swings around the limit; the proportional and derivative terms damp that.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from churnsaver.domain.world import Frozen
from trainers.env.params import CONSTRAINTS, SoftLimits

Floats = NDArray[np.float64]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Gain = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SgdSettings(Frozen):
    """`sgd:` of `lagrangian:`.

    Attributes:
        learning_rate: step of the dual ascent, in dollars per unit of relative violation; small against the
            policy's own steps, so that the policy sees prices that hardly move (two time scales).
    """

    learning_rate: Positive


class PidSettings(Frozen):
    """`pid:` of `lagrangian:`; gains in dollars per unit of relative violation.

    Attributes:
        proportional, integral, derivative: K_P, K_I and K_D.
        smoothing: share of the past in the moving average that K_P and K_D see, for one campaign is noisy.
    """

    proportional: Gain
    integral: Positive
    derivative: Gain
    smoothing: Annotated[float, Field(ge=0, lt=1)]


class LagrangianSettings(Frozen):
    """`lagrangian:` of `ppo.yaml`.

    Attributes:
        kind: the rule that the multipliers follow.
        multiplier_max: the clamp from above; from below it is 0.
        target_fraction: the share of each limit that is aimed at.
        alarm_iterations: constraints that were not met over so many iterations raise the alarm.
    """

    kind: Literal["sgd", "pid"]
    multiplier_max: Positive
    target_fraction: Annotated[float, Field(gt=0, le=1)]
    alarm_iterations: Annotated[int, Field(ge=1)]
    sgd: SgdSettings
    pid: PidSettings


class Rule(Protocol):
    """How multipliers follow violations; `state` is all that it remembers, arrays (constraints,) by name."""

    state: dict[str, Floats]

    def multipliers(self, violation: Floats) -> Floats:
        """The next multipliers (constraints,), in [0, max], after relative violations J / target - 1."""


class SgdAscent:
    """λ ← clip(λ + η v, 0, max)."""

    def __init__(self, settings: SgdSettings, multiplier_max: float) -> None:
        self._settings, self._max = settings, multiplier_max
        self.state = {"multiplier": np.zeros(len(CONSTRAINTS))}

    def multipliers(self, violation: Floats) -> Floats:
        raised = self.state["multiplier"] + self._settings.learning_rate * violation
        clamped = np.clip(raised, 0.0, self._max)
        self.state["multiplier"] = clamped
        return clamped


class PidControl:
    """λ ← clip(K_P v̄ + I + K_D (v̄ - v̄')₊, 0, max), with I ← clip(I + K_I v, 0, max); algorithm 2 of the paper.

    v̄ is the moving average of the violation v and v̄' the one before. The derivative acts only while costs rise,
    so that it never lowers a price because a violation shrinks. The integral is clamped like the price, so that
    it falls as soon as the violation ends however long that lasted (anti-windup).
    """

    def __init__(self, settings: PidSettings, multiplier_max: float) -> None:
        self._settings, self._max = settings, multiplier_max
        unknown = np.full(len(CONSTRAINTS), np.nan)
        self.state = {"integral": np.zeros(len(CONSTRAINTS)), "smoothed": unknown}

    def multipliers(self, violation: Floats) -> Floats:
        gains, before = self._settings, self.state["smoothed"]
        before = np.where(np.isnan(before), violation, before)  # the first violation is no rise
        smoothed = gains.smoothing * before + (1.0 - gains.smoothing) * violation
        integral = np.clip(self.state["integral"] + gains.integral * violation, 0.0, self._max)
        self.state = {"integral": integral, "smoothed": smoothed}
        rising = np.maximum(smoothed - before, 0.0)
        price = gains.proportional * smoothed + integral + gains.derivative * rising
        return np.asarray(np.clip(price, 0.0, self._max), dtype=np.float64)


class Lagrangian:
    """One multiplier λ ≥ 0 for each constraint, in dollars per limit: costs are counted in limits."""

    def __init__(self, limits: SoftLimits, settings: LagrangianSettings) -> None:
        self._target_fraction = settings.target_fraction
        self.limits = np.array([getattr(limits, name) for name in CONSTRAINTS])
        self.multipliers = np.zeros(len(CONSTRAINTS))
        self.rule: Rule = (
            SgdAscent(settings.sgd, settings.multiplier_max)
            if settings.kind == "sgd"
            else PidControl(settings.pid, settings.multiplier_max)
        )

    def in_limits(self, costs: Floats) -> Floats:
        """Costs (…, constraints) as multiples of their targets."""
        return costs / (self.limits * self._target_fraction)

    def update(self, costs_per_month: Floats) -> None:
        """Lets the multipliers follow what a campaign cost, (constraints,)."""
        self.multipliers = self.rule.multipliers(self.in_limits(costs_per_month) - 1.0)

    def combine(self, reward_advantages: Floats, cost_advantages: Floats) -> Floats:
        """A_r - Σ λ_i A_ci: rewards (…), costs in limits (…, constraints).

        OmniSafe's PPOLag also divides by 1 + Σ λ_i, so that prices do not grow the step; here advantages are
        standardised afterwards, which does that and undoes any factor.
        """
        return np.asarray(reward_advantages - cost_advantages @ self.multipliers, dtype=np.float64)

    def named(self) -> dict[str, float]:
        """Multiplier of each constraint."""
        return dict(zip(CONSTRAINTS, self.multipliers.tolist(), strict=True))
