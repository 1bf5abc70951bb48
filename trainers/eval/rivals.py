"""Baselines at equal spend: the dial of each is turned until it costs what the policy costs.

A family is one or several variants of a baseline, each with a dial in [0, 1] whose spend falls as it rises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from churnsaver.domain.world import World
from trainers.agents.baselines import Policy, PropensityPolicy
from trainers.env.params import CONSTRAINTS, DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.eval.play import Play, Setting, play

BISECTIONS = 10


class Variant(Protocol):
    """A baseline with everything fixed but how much it spends."""

    def at(self, dial: float) -> Policy:
        """The policy at this dial, in [0, 1]; 0 spends most."""
        ...


@dataclass(frozen=True, slots=True)
class Rival:
    """A calibrated baseline, whose dial can be turned again."""

    variant: Variant
    dial: float
    policy: Policy


def fit_rivals(world: World, params: DynamicsParams, population: Population, seed: int) -> dict[str, list[Variant]]:
    """The variants of every baseline by its name, fitted on `population`."""
    return {"propensity": [PropensityVariant(world, o.id, rest) for o in world.offers for rest in (168.0, 672.0)]}


@dataclass(frozen=True)
class PropensityVariant:
    world: World
    offer: str
    rest_hours: float

    def at(self, dial: float) -> Policy:
        return PropensityPolicy(self.world, dial, self.offer, self.rest_hours)


def calibrate(variants: Sequence[Variant], setting: Setting, limits: SoftLimits, spend_usd: float, seed: int) -> Rival:
    """The best variant that spends `spend_usd` a customer and month and keeps the soft limits.

    Each variant is valued on the campaign of `seed`; one that costs less whatever the dial stays at its dearest.
    Where none keeps the limits, the best of all is taken.
    """
    tried = [_turned(variant, setting, spend_usd, seed) for variant in variants]
    return max(tried, key=lambda turned: (_keeps(limits, turned[1]), float(turned[1].gain_usd.mean())))[0]


def recalibrate(rival: Rival, setting: Setting, spend_usd: float, seed: int) -> Rival:
    """The same variant, at the dial that spends `spend_usd` a customer and month in another setting."""
    return _turned(rival.variant, setting, spend_usd, seed)[0]


def _turned(variant: Variant, setting: Setting, spend_usd: float, seed: int) -> tuple[Rival, Play]:
    """By bisection: of the dials that were tried, the one that came closest to the spend."""
    low, high = 0.0, 1.0
    tried: list[tuple[Rival, Play]] = []
    for _ in range(BISECTIONS):
        dial = (low + high) / 2.0
        rival = Rival(variant, dial, variant.at(dial))
        tried.append((rival, played := play(setting, rival.policy, [seed], check=False)))
        low, high = (dial, high) if played.spend_usd > spend_usd else (low, dial)
    return min(tried, key=lambda attempt: abs(attempt[1].spend_usd - spend_usd))


def _keeps(limits: SoftLimits, played: Play) -> bool:
    # Spend is equal by construction, so only chance decides on which side of its limit it falls.
    costs: Mapping[str, float] = played.costs_per_month
    return all(costs[name] <= getattr(limits, name) for name in CONSTRAINTS if name != "spend_usd")
