"""The settings of PPO on texts: `configs/ppo_text.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from churnsaver.domain.world import Fraction, Frozen
from trainers.rlhf.kl_control import KlSettings
from trainers.rlhf.over_optimisation import StopSettings
from trainers.rlhf.text_reward import RewardSettings

PositiveInt = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Preset(Frozen):
    """How much is trained: iterations, and drafts in each."""

    iterations: PositiveInt
    drafts: Annotated[int, Field(ge=2)]


class Presets(Frozen):
    quick: Preset
    full: Preset


class PpoTextSettings(Frozen):
    """`configs/ppo_text.yaml`; what each number means stands there."""

    threads: PositiveInt
    device: str
    dtype: Literal["float32", "bfloat16"]
    max_tokens: Annotated[dict[str, PositiveInt], Field(min_length=1)]
    sample_batch: PositiveInt
    micro_batch: PositiveInt
    learning_rate: Positive
    value_learning_rate: Positive
    gae_lambda: Fraction
    clip_epsilon: Positive
    value_clip: Positive
    value_coefficient: Positive
    max_grad_norm: Positive
    epochs: PositiveInt
    minibatches: PositiveInt
    save_every: PositiveInt
    kl: KlSettings
    reward: RewardSettings
    stop: StopSettings
    presets: Presets

    @model_validator(mode="after")
    def _drafts_for_each_minibatch(self) -> Self:
        for name, preset in (("quick", self.presets.quick), ("full", self.presets.full)):
            if preset.drafts < self.minibatches:
                raise ValueError(
                    f"presets.{name}.drafts is {preset.drafts}; expected at least minibatches ({self.minibatches})"
                )
        return self
