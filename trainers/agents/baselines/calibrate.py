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
# The least share of the spend asked for that a variant must be able to reach, where any can.
REACH = 0.95
# All variants are tried on few customers, the best of them on more (successive halving, Jamieson & Talwalkar 2016).
SEARCH_CUSTOMERS, SEARCH_TURNS, FINALISTS = 500, 4, 3
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
class Turned:
    """A variant at the dial whose spend came closest to what was asked for.

    Attributes:
        trial: at that dial.
        dearest_usd: what the variant spends a customer and month at most, whatever the dial.
    """

    variant: Variant
    dial: float
    trial: Trial
    dearest_usd: float

    @property
    def policy(self) -> BaselinePolicy:
        """The variant at the dial."""
        return self.variant.at(self.dial)


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

    def turn(self, variant: Variant, spend_usd: float, turns: int = TURNS) -> Turned:
        """The variant where it spends closest to `spend_usd`, a customer and month; at dial 0 if it is never so dear.

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
        dial, trial = min(turned, key=lambda tried: abs(tried[1].spend_usd - spend_usd))
        return Turned(variant, dial, trial, turned[0][1].spend_usd)


def calibrate(family: BaselineFamily, calibration: Calibration, limits: SoftLimits, spend_usd: float) -> Turned:
    """The family's variant that is worth most where it spends `spend_usd` a customer and month.

    Variants that can spend so much go before those that cannot, and among them those that keep the soft limits
    before those that do not.
    """

    def merit(turned: Turned) -> tuple[bool, bool, float]:
        return turned.dearest_usd >= REACH * spend_usd, turned.trial.keeps(limits), turned.trial.gain_usd

    few = calibration.first(SEARCH_CUSTOMERS)
    searched = [few.turn(variant, spend_usd, SEARCH_TURNS) for variant in family.variants]
    finalists = sorted(searched, key=merit, reverse=True)[:FINALISTS]
    return max((calibration.turn(finalist.variant, spend_usd) for finalist in finalists), key=merit)
