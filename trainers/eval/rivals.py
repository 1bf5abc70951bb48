"""Baselines at the policy's spend: calibrated as they are deployed, and turned again where the world has changed."""

from __future__ import annotations

from dataclasses import dataclass

from churnsaver.models.baselines import BaselinePolicy, Policy
from trainers.agents.baselines import BaselineFamily
from trainers.agents.baselines.calibrate import TURNS, Calibration, Trial, best_variant
from trainers.agents.baselines.families import Variant
from trainers.env.params import SoftLimits
from trainers.eval.play import Setting, play


@dataclass(frozen=True, slots=True)
class Rival:
    """A calibrated baseline, whose dial can be turned again."""

    variant: Variant
    policy: BaselinePolicy


@dataclass(frozen=True, slots=True)
class Rehearsal(Calibration):
    """A calibration in any setting, over several campaigns, as one campaign's spend is noisy.

    Policies may see other features than the truth, and zones may change.
    """

    setting: Setting
    seeds: range

    def play(self, policy: Policy) -> Trial:
        """All campaigns, on average."""
        played = play(self.setting, policy, self.seeds, check=False)
        return Trial(float(played.gain_usd.mean()), played.costs_per_month)


def calibrate_rival(
    family: BaselineFamily, setting: Setting, limits: SoftLimits, spend_usd: float, seeds: range
) -> Rival:
    """The family's best variant at the dial that spends `spend_usd` a customer and month."""
    here = Calibration(setting.world, setting.params, setting.population, seeds[0])
    return recalibrate(best_variant(family, here, limits, spend_usd), setting, spend_usd, seeds)


def recalibrate(variant: Variant, setting: Setting, spend_usd: float, seeds: range) -> Rival:
    """The variant at the dial that spends `spend_usd` a customer and month in `setting`, or at its dearest."""
    rehearsal = Rehearsal(setting.world, setting.params, setting.population, seeds[0], setting, seeds)
    dial, _ = rehearsal.turn(variant, spend_usd, TURNS)
    return Rival(variant, variant.at(dial))
