"""Baselines at equal spend: the dial of each is turned until it costs what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from churnsaver.domain.world import World
from churnsaver.models.baselines import BaselinePolicy
from trainers.agents.baselines.families import BaselineFamily, Variant
from trainers.env.params import CONSTRAINTS, DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.simulate import campaign_months, run_campaign

TOLERANCE = 0.01  # of the spend
# Variants are compared on fewer customers than the best of them is calibrated on.
SEARCH_CUSTOMERS, SEARCH_TURNS = 500, 5
CUSTOMERS, TURNS = 2_000, 8


@dataclass(frozen=True, slots=True)
class Trial:
    """What a policy cost and brought in one campaign, a customer: costs by constraint and month."""

    policy: BaselinePolicy
    gain_usd: float
    costs: dict[str, float]

    @property
    def spend_usd(self) -> float:
        return self.costs["spend_usd"]

    def keeps(self, limits: SoftLimits) -> bool:
        """Whether it keeps the soft limits other than that of spend, which is equal by construction."""
        return all(self.costs[name] <= getattr(limits, name) for name in CONSTRAINTS if name != "spend_usd")


@dataclass(frozen=True, slots=True)
class Calibration:
    """Campaigns on one population under one seed, in which every policy meets the same luck."""

    world: World
    params: DynamicsParams
    population: Population
    seed: int

    def first(self, customers: int) -> Calibration:
        """The same with a random few of the customers; with all where there are no more."""
        order = np.random.default_rng([self.seed, 6]).permutation(len(self.population))
        return Calibration(self.world, self.params, self.population.take(order[:customers]), self.seed)

    def play(self, policy: BaselinePolicy) -> Trial:
        """One campaign."""
        result = run_campaign(self.world, self.params, self.population, policy, self.seed)
        per_month = result.costs.mean(axis=0) / campaign_months(self.world)
        costs = dict(zip(CONSTRAINTS, per_month.tolist(), strict=True))
        return Trial(policy, float(result.gain_usd.mean()), costs)

    def turn(self, variant: Variant, spend_usd: float, turns: int) -> Trial:
        """The trial whose spend comes closest to `spend_usd`, a customer and month; the dearest if none is as dear.

        False position, kept a tenth away from both ends, since spend moves in steps.
        """
        low, high, turned = 0.0, 1.0, [self.play(variant.at(0.0))]
        dearer, cheaper = turned[0].spend_usd, 0.0
        while len(turned) < turns and dearer > spend_usd:
            share = (dearer - spend_usd) / max(dearer - cheaper, 1e-12)
            dial = low + (high - low) * min(max(share, 0.1), 0.9)
            turned.append(self.play(variant.at(dial)))
            spent = turned[-1].spend_usd
            if abs(spent - spend_usd) <= TOLERANCE * spend_usd:
                break
            if spent > spend_usd:
                low, dearer = dial, spent
            else:
                high, cheaper = dial, spent
        return min(turned, key=lambda trial: abs(trial.spend_usd - spend_usd))


def calibrate(
    family: BaselineFamily,
    world: World,
    params: DynamicsParams,
    limits: SoftLimits,
    population: Population,
    spend_usd: float,
    seed: int,
) -> BaselinePolicy:
    """The family's best policy that spends `spend_usd` a customer and month and keeps the soft limits."""
    whole = Calibration(world, params, population, seed)
    best = best_variant(family, whole, limits, spend_usd)
    return whole.first(CUSTOMERS).turn(best, spend_usd, TURNS).policy


def best_variant(family: BaselineFamily, calibration: Calibration, limits: SoftLimits, spend_usd: float) -> Variant:
    """Each variant is turned to the spend and valued; one that costs less whatever the dial stays at its dearest.

    Where none keeps the limits, the best of all is taken.
    """
    few = calibration.first(SEARCH_CUSTOMERS)

    def worth(variant: Variant) -> tuple[bool, float]:
        trial = few.turn(variant, spend_usd, SEARCH_TURNS)
        return trial.keeps(limits), trial.gain_usd

    return max(family.variants, key=worth)
