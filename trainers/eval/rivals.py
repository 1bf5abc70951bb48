"""Baselines at the policy's spend in any setting, that of a stress test included."""

from __future__ import annotations

from dataclasses import dataclass

from churnsaver.models.baselines import Policy
from trainers.agents.baselines.calibrate import Calibration, Trial
from trainers.eval.play import Setting, play


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


def rehearsal(setting: Setting, seeds: range) -> Rehearsal:
    """Campaigns in `setting` under `seeds`."""
    return Rehearsal(setting.world, setting.params, setting.population, seeds[0], setting, seeds)
