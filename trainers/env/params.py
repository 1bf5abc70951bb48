"""The parts of `configs/env.yaml` that only the environment reads: how customers respond, and soft limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from churnsaver.domain.world import Fraction, Frozen
from churnsaver.settings import configs_dir, parse, read_yaml

SEGMENTS = ("persuadable", "sure_thing", "lost_cause", "sleeping_dog")
CONSTRAINTS = ("spend_usd", "contact", "fatigue", "opt_out")

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Membership(Frozen):
    """Coefficients of one segment's log-weight in what can be seen of a customer."""

    intercept: float
    risk: float
    tenure: float
    monthly: float


class Segment(Frozen):
    """How one kind of customer responds to contact.

    Attributes:
        acceptance_shift, opt_out_shift: log-odds against the common intercepts.
        hazard_cut_fraction: share of the hazard that an accepted, fully generous offer takes away.
        contact_hazard_multiplier: the hazard's factor after any contact; above 1 for sleeping dogs.
    """

    membership: Membership
    acceptance_shift: float
    hazard_cut_fraction: Fraction
    contact_hazard_multiplier: Positive
    opt_out_shift: float


class Segments(Frozen):
    """One entry for each of `SEGMENTS`."""

    persuadable: Segment
    sure_thing: Segment
    lost_cause: Segment
    sleeping_dog: Segment

    @property
    def ordered(self) -> tuple[Segment, ...]:
        return tuple(getattr(self, name) for name in SEGMENTS)


class DynamicsParams(Frozen):
    """`dynamics:` of `env.yaml`; each number's source stands there. Log-odds where no unit is named."""

    risk_horizon_days: Positive
    consent_rate: Fraction
    opt_out_penalty_usd: NonNegative
    segments: Segments
    reaction_days: NonNegative
    acceptance_intercept: float
    acceptance_per_sqrt_generosity: float
    acceptance_per_fatigue: float
    acceptance_per_delay_hour: float
    evening_bonus: float
    evening_hour: Annotated[float, Field(ge=0, lt=24)]
    hazard_cut_floor: Fraction
    generosity_scale_months: Positive
    attention_days: NonNegative
    fatigue_half_life_days: Positive
    opt_out_intercept: float
    opt_out_per_fatigue: float


class SoftLimits(Frozen):
    """`constraints:` of `env.yaml`: limits per customer of the campaign and month of it."""

    spend_usd: Positive
    contact: Positive
    fatigue: Positive
    opt_out: Positive


def load_dynamics() -> DynamicsParams:
    """How customers respond; SettingsError names the key that is wrong."""
    path = configs_dir() / "env.yaml"
    return parse(DynamicsParams, read_yaml(path).get("dynamics"), path)


def load_soft_limits() -> SoftLimits:
    """The soft constraints' limits; SettingsError names the key that is wrong."""
    path = configs_dir() / "env.yaml"
    return parse(SoftLimits, read_yaml(path).get("constraints"), path)
