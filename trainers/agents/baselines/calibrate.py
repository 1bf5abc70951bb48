"""Baselines at equal spend: the dial of each is turned until it costs what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from churnsaver.domain.world import World
from churnsaver.models.baselines import BaselinePolicy, Policy
from trainers.agents.baselines.families import BaselineFamily, Variant
from trainers.env.params import CONSTRAINTS, DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.simulate import campaign_months, run_campaign

TOLERANCE = 0.01  # of the spend
MIN_SPEND_USD = 1e-9
# Variants are compared on fewer customers than the best of them is calibrated on.
SEARCH_CUSTOMERS, SEARCH_TURNS = 500, 4
CUSTOMERS, TURNS = 2_000, 8


@dataclass(frozen=True, slots=True)
class Trial:
    """What a policy brought and cost in one campaign, a customer: costs by constraint and month."""

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
        """The same with a random few of the customers; with all, as they are, where there are no more."""
        n = len(self.population)
        if n <= customers:
            return self
        few = np.random.default_rng([self.seed, 6]).permutation(n)[:customers]
        return Calibration(self.world, self.params, self.population.take(few), self.seed)

    def play(self, policy: Policy) -> Trial:
        """One campaign."""
        result = run_campaign(self.world, self.params, self.population, policy, self.seed)
        per_month = result.costs.mean(axis=0) / campaign_months(self.world)
        return Trial(float(result.gain_usd.mean()), dict(zip(CONSTRAINTS, per_month.tolist(), strict=True)))

    def turn(self, variant: Variant, spend_usd: float, turns: int) -> tuple[float, Trial]:
        """The dial whose spend comes closest to `spend_usd`, a customer and month, and its trial; 0 if none is as dear.

        False position, kept a tenth away from both ends, since spend moves in steps.
        """
        low, high = 0.0, 1.0
        turned = [(low, self.play(variant.at(low)))]
        dearer, cheaper = turned[0][1].spend_usd, 0.0
        while len(turned) < turns and dearer > spend_usd:
            share = (dearer - spend_usd) / max(dearer - cheaper, MIN_SPEND_USD)
            dial = low + (high - low) * min(max(share, 0.1), 0.9)
            trial = self.play(variant.at(dial))
            turned.append((dial, trial))
            if abs(trial.spend_usd - spend_usd) <= TOLERANCE * spend_usd:
                break
            if trial.spend_usd > spend_usd:
                low, dearer = dial, trial.spend_usd
            else:
                high, cheaper = dial, trial.spend_usd
        return min(turned, key=lambda tried: abs(tried[1].spend_usd - spend_usd))


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
    dial, _ = whole.first(CUSTOMERS).turn(best, spend_usd, TURNS)
    return best.at(dial)


def best_variant(family: BaselineFamily, calibration: Calibration, limits: SoftLimits, spend_usd: float) -> Variant:
    """Each variant is turned to the spend and valued; one that costs less whatever the dial stays at its dearest.

    Where none keeps the limits, the best of all is taken.
    """
    few = calibration.first(SEARCH_CUSTOMERS)

    def worth(variant: Variant) -> tuple[bool, float]:
        _, trial = few.turn(variant, spend_usd, SEARCH_TURNS)
        return trial.keeps(limits), trial.gain_usd

    return max(family.variants, key=worth)
