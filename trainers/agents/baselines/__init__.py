"""Policies that PPO has to beat, and the protocol that all of them follow."""

from trainers.agents.baselines.policy import NeverContact, Policy
from trainers.agents.baselines.propensity import PropensityPolicy

__all__ = ["NeverContact", "Policy", "PropensityPolicy"]
