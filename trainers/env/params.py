"""The parts of `configs/env.yaml` that only the environment reads: how customers respond, and soft limits."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from churnsaver.domain.world import Fraction, Frozen
from churnsaver.settings import configs_dir, parse, read_yaml

SEGMENTS = ("persuadable", "sure_thing", "lost_cause", "sleeping_dog")
CONSTRAINTS = ("spend_usd", "contact", "fatigue", "opt_out")

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
NonPositive = Annotated[float, Field(le=0)]


class Finite(Frozen):
    """A value without NaN or infinity in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Membership(Finite):
    """Coefficients of one segment's log-weight in what can be seen of a customer."""

    intercept: float
    risk: float
    tenure: float
    monthly: float


class Segment(Finite):
    """How one kind of customer responds to contact.

    Attributes:
        acceptance_shift: against the common intercept, in units of `acceptance_spread`.
        opt_out_shift: log-odds against the common intercept.
        hazard_cut_fraction: share of the hazard that an accepted, fully generous offer takes away.
        contact_hazard_multiplier: the hazard's factor after any contact; above 1 for sleeping dogs.
    """

    membership: Membership
    acceptance_shift: float
    hazard_cut_fraction: Fraction
    contact_hazard_multiplier: Positive
    opt_out_shift: float


class Segments(Finite):
    """One entry for each of `SEGMENTS`."""

    persuadable: Segment
    sure_thing: Segment
    lost_cause: Segment
    sleeping_dog: Segment

    @property
    def ordered(self) -> tuple[Segment, ...]:
        return tuple(getattr(self, name) for name in SEGMENTS)

    @model_validator(mode="after")
    def _are_what_they_are_called(self) -> Self:
        woken, persuaded = self.sleeping_dog, self.persuadable
        if woken.contact_hazard_multiplier <= 1.0:
            raise ValueError(
                f"sleeping_dog.contact_hazard_multiplier: {woken.contact_hazard_multiplier:g} does not drive anybody "
                "away; set more than 1"
            )
        if persuaded.contact_hazard_multiplier > 1.0:
            raise ValueError(
                f"persuadable.contact_hazard_multiplier: {persuaded.contact_hazard_multiplier:g} drives away whom "
                "contact should keep; set at most 1"
            )
        if persuaded.hazard_cut_fraction == 0.0:
            raise ValueError("persuadable.hazard_cut_fraction: 0 persuades nobody; set more than 0")
        return self


class ChannelResponse(Finite):
    """How a channel moves acceptance and opt-out, in log-odds against the common intercepts."""

    acceptance_shift: float
    opt_out_shift: float


class SeasonParams(Finite):
    """A yearly wave of the hazard: its amplitude as a share of the mean, and the day of the year of its crest."""

    hazard_amplitude: Annotated[float, Field(ge=0, lt=1)]
    peak_day: Annotated[float, Field(ge=0, lt=366)]


class DynamicsParams(Finite):
    """`dynamics:` of `env.yaml`; each number's source stands there. Log-odds where no unit is named."""

    risk_horizon_days: Positive
    consent_rate: Fraction
    opt_out_penalty_usd: NonNegative
    segments: Segments
    channels: Annotated[dict[str, ChannelResponse], Field(min_length=1)]
    season: SeasonParams
    reaction_days: NonNegative
    acceptance_spread: NonNegative
    acceptance_intercept: float
    acceptance_per_sqrt_generosity: NonNegative
    acceptance_per_fatigue: NonPositive
    acceptance_per_delay_hour: NonPositive
    best_hour_bonus: NonNegative
    best_hour: Annotated[float, Field(ge=0, lt=24)]
    hazard_cut_floor: Fraction
    generosity_scale_months: Positive
    attention_days: NonNegative
    fatigue_half_life_days: Positive
    opt_out_intercept: float
    opt_out_per_fatigue: NonNegative


class SoftLimits(Finite):
    """`constraints:` of `env.yaml`: limits per customer of the campaign and month of it."""

    spend_usd: Positive
    contact: Positive
    fatigue: Positive
    opt_out: Positive


def with_value(params: DynamicsParams, path: str, value: float) -> DynamicsParams:
    """`params` with another value at `path`, such as `season.hazard_amplitude`; SettingsError if it may not be."""
    document = params.model_dump()
    *parents, name = path.split(".")
    inner = document
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    return parse(DynamicsParams, document, configs_dir() / "env.yaml")


def value_at(params: DynamicsParams, path: str) -> float:
    """The number at `path`, such as `season.hazard_amplitude`."""
    value: Any = params
    for name in path.split("."):
        value = getattr(value, name)
    return float(value)


def load_dynamics() -> DynamicsParams:
    """How customers respond; SettingsError names the key that is wrong."""
    path = configs_dir() / "env.yaml"
    return parse(DynamicsParams, read_yaml(path).get("dynamics"), path)


def load_soft_limits() -> SoftLimits:
    """The soft constraints' limits; SettingsError names the key that is wrong."""
    path = configs_dir() / "env.yaml"
    return parse(SoftLimits, read_yaml(path).get("constraints"), path)
