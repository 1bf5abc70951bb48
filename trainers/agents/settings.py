"""`configs/ppo.yaml` as the learner reads it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from churnsaver.domain.world import Fraction, Frozen
from trainers.agents.lagrangian import LagrangianSettings

PositiveInt = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Preset(Frozen):
    """How much is trained: customers in a campaign, and how many campaigns are played."""

    customers: PositiveInt
    iterations: PositiveInt


class Presets(Frozen):
    quick: Preset
    full: Preset


class PpoSettings(Frozen):
    """The whole section; what each number means stands in the file."""

    threads: PositiveInt
    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    initial_contact_rate: Annotated[float, Field(gt=0, lt=1)]
    learning_rate: Positive
    gamma: Fraction
    gae_lambda: Fraction
    clip_epsilon: Positive
    entropy_coefficient: Annotated[float, Field(ge=0)]
    value_coefficient: Positive
    max_grad_norm: Positive
    target_kl: Positive
    epochs: PositiveInt
    minibatches: PositiveInt
    idle_share: Annotated[float, Field(gt=0, le=1)]
    averaging: Annotated[float, Field(ge=0, lt=1)]
    validation_customers: PositiveInt
    save_every: PositiveInt
    lagrangian: LagrangianSettings
    presets: Presets
