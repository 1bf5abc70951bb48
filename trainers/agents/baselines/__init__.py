"""Policies that PPO has to beat: fitted and calibrated here, served from `churnsaver.models.baselines`."""

from churnsaver.models.baselines import NeverContact, Policy, PropensityPolicy, ThompsonPolicy, UpliftTreesPolicy
from trainers.agents.baselines.bundle import bundle_baselines, equal_spend_baselines
from trainers.agents.baselines.calibrate import Calibration, Turned, calibrate
from trainers.agents.baselines.families import BaselineFamily, fit_baselines

__all__ = [
    "BaselineFamily",
    "Calibration",
    "NeverContact",
    "Policy",
    "PropensityPolicy",
    "ThompsonPolicy",
    "Turned",
    "UpliftTreesPolicy",
    "bundle_baselines",
    "calibrate",
    "equal_spend_baselines",
    "fit_baselines",
]
