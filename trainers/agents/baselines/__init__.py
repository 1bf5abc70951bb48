"""Policies that PPO has to beat: fitted and calibrated here, served from `churnsaver.models.baselines`."""

from churnsaver.models.baselines import NeverContact, Policy, PropensityPolicy
from trainers.agents.baselines.calibrate import calibrate_propensity

__all__ = ["NeverContact", "Policy", "PropensityPolicy", "calibrate_propensity"]
