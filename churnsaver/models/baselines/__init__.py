"""The policies that PPO has to beat and that serve when it may not, and the protocol that all of them follow."""

from churnsaver.models.baselines.policy import NeverContact, Policy
from churnsaver.models.baselines.propensity import PropensityPolicy
from churnsaver.models.baselines.served import BASELINES, BaselinePolicy, load_baselines, write_baselines
from churnsaver.models.baselines.thompson import ThompsonPolicy
from churnsaver.models.baselines.uplift_trees import UpliftTreesPolicy

__all__ = [
    "BASELINES",
    "BaselinePolicy",
    "NeverContact",
    "Policy",
    "PropensityPolicy",
    "ThompsonPolicy",
    "UpliftTreesPolicy",
    "load_baselines",
    "write_baselines",
]
