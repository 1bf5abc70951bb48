"""The reward model as it is served: an ensemble of encoders that say how good a draft is for its brief (no torch)."""

from churnsaver.reward.encoding import PairEncoder, RewardShape
from churnsaver.reward.model import REWARD, RewardModel

__all__ = ["REWARD", "PairEncoder", "RewardModel", "RewardShape"]
