"""The policies that PPO has to beat and that serve when it may not, and the protocol that all of them follow."""

from churnsaver.models.baselines.policy import NeverContact, Policy
from churnsaver.models.baselines.propensity import PropensityPolicy

__all__ = ["NeverContact", "Policy", "PropensityPolicy"]
