"""Policies that PPO has to beat: fitted and calibrated here, served from `churnsaver.models.baselines`."""

from churnsaver.models.baselines import NeverContact, Policy, PropensityPolicy, ThompsonPolicy, UpliftTreesPolicy
from trainers.agents.baselines.bundle import Bundle, bundle_baselines
from trainers.agents.baselines.calibration import calibrate
from trainers.agents.baselines.families import BaselineFamily, fit_baselines

__all__ = [
    "BaselineFamily",
    "Bundle",
    "NeverContact",
    "Policy",
    "PropensityPolicy",
    "ThompsonPolicy",
    "UpliftTreesPolicy",
    "bundle_baselines",
    "calibrate",
    "fit_baselines",
]
