"""Offers, channels, contact rules and campaigns, as `configs/env.yaml` states them.

The environment is trained in this world and the services serve in it, so both read this one value.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

HOURS_PER_DAY = 24
HOURS_PER_WEEK = 168
HOURS_PER_MONTH = 730.5  # 365.25 days / 12

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class Frozen(BaseModel):
    """A value that is validated once and never changes; unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Offer(Frozen):
    """One thing that a customer can be offered.

    `discount_fraction` of the monthly charge is given for `months`; `fixed_cents` is paid on top.
    `label` says the offer in each language (BCP 47 primary subtag) as it stands in a message.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    discount_fraction: Fraction
    months: NonNegativeInt
    fixed_cents: NonNegativeInt
    label: dict[str, str]

    @property
    def purpose(self) -> str:
        """What a message about this offer is for: `review`, `discount` or `gift`."""
        if self.discount_fraction > 0:
            return "discount"
        return "gift" if self.fixed_cents > 0 else "review"

    def label_in(self, language: str) -> str:
        """The offer's words in `language`, or in English where there are none."""
        return self.label.get(language, self.label["en"])


class Channel(Frozen):
    contact_cost_cents: NonNegativeInt
    max_chars: Annotated[int, Field(gt=0)]


class QuietHours(Frozen):
    """Hours in which nobody is contacted, [start, end) in the recipient's zone; may wrap midnight."""

    start_hour: Annotated[int, Field(ge=0, le=23)]
    end_hour: Annotated[int, Field(ge=0, le=23)]


class ContactRules(Frozen):
    quiet_hours: QuietHours
    cooldown_hours: Annotated[float, Field(ge=0)]
    weekly_cap: Annotated[int, Field(ge=1)]
    offer_valid_days: Annotated[int, Field(ge=1)]


class Campaign(Frozen):
    budget_cents: NonNegativeInt
    customers: Annotated[int, Field(ge=1)]


class Money(Frozen):
    gross_margin: Fraction
    horizon_months: Annotated[int, Field(ge=1)]


class World(Frozen):
    """Everything that decides what may be done and what it costs."""

    episode_days: Annotated[int, Field(ge=1)]
    epoch_hours: Annotated[int, Field(ge=1)]
    offers: Annotated[tuple[Offer, ...], Field(min_length=1)]
    delays_hours: Annotated[tuple[int, ...], Field(min_length=1)]
    channels: Annotated[dict[str, Channel], Field(min_length=1)]
    contact_rules: ContactRules
    campaigns: Annotated[dict[str, Campaign], Field(min_length=1)]
    money: Money

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [offer.id for offer in self.offers]
        if len(set(ids)) != len(ids):
            raise ValueError(f"offers: every id must be unique, got {ids}")
        if list(self.delays_hours) != sorted(set(self.delays_hours)) or self.delays_hours[0] < 0:
            raise ValueError(f"delays_hours: must rise from 0 or more, got {list(self.delays_hours)}")
        if missing := [offer.id for offer in self.offers if "en" not in offer.label]:
            raise ValueError(f"offers: {missing} have no English label; add `label: {{en: …}}`")
        return self

    def offer(self, offer_id: str) -> Offer:
        """The offer named `offer_id`; KeyError if the catalogue has none."""
        for offer in self.offers:
            if offer.id == offer_id:
                return offer
        raise KeyError(offer_id)
