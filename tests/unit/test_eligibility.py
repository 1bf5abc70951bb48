"""The one mask against a slow reference, written rule by rule for one customer and one action."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.eligibility import (
    ContactState,
    Reason,
    contact_reservations_cents,
    local_hours_at_send,
    mask_reasons,
    masked_offers,
)
from churnsaver.domain.world import ContactRules, QuietHours, World
from churnsaver.settings import load_world

WORLD = load_world()


@dataclass(frozen=True)
class Customer:
    consent: bool
    do_not_contact: bool
    past: list[float]  # hours since each contact
    hour: list[float]  # local hour at each delay
    monthly_usd: float
    contact_cost_cents: int
    budget_left_cents: int


def reference(world: World, customer: Customer, offer_index: int, delay_index: int) -> Reason:  # noqa: PLR0911 – one return a rule
    """Why this offer after this delay is not allowed, from the rules' wording rather than from arrays."""
    rules, offer, delay = world.contact_rules, world.offers[offer_index], world.delays_hours[delay_index]
    if customer.do_not_contact:
        return Reason.DO_NOT_CONTACT
    if not customer.consent:
        return Reason.CONSENT
    # A contact `since` hours ago and one `delay` hours ahead lie this far apart.
    apart = [abs(since + delay) for since in customer.past]
    if any(hours < rules.cooldown_hours for hours in apart):
        return Reason.COOLDOWN
    if sum(hours < 168 for hours in apart) >= rules.weekly_cap:
        return Reason.WEEKLY_CAP
    hour, start, end = customer.hour[delay_index], rules.quiet_hours.start_hour, rules.quiet_hours.end_hour
    if (start < end and start <= hour < end) or (start > end and not end <= hour < start):
        return Reason.QUIET_HOURS
    # Exact fractions of the decimal price: the code's cents come from floating point.
    share = Fraction(str(offer.discount_fraction)) * offer.months
    discount = math.ceil(Fraction(str(customer.monthly_usd)) * 100 * share)
    if discount + offer.fixed_cents + customer.contact_cost_cents > customer.budget_left_cents:
        return Reason.BUDGET
    return Reason.ALLOWED


def state_of(customers: list[Customer]) -> ContactState:
    longest = max((len(customer.past) for customer in customers), default=0)
    return ContactState(
        consent=np.array([c.consent for c in customers]),
        do_not_contact=np.array([c.do_not_contact for c in customers]),
        hours_since_contact=np.array([c.past + [np.inf] * (longest - len(c.past)) for c in customers]).reshape(
            len(customers), longest
        ),
        local_hour_at_send=np.array([c.hour for c in customers]),
        monthly_usd=np.array([c.monthly_usd for c in customers]),
        contact_cost_cents=np.array([c.contact_cost_cents for c in customers], dtype=np.int64),
        budget_left_cents=np.array([c.budget_left_cents for c in customers], dtype=np.int64),
    )


# Values on the edges of the rules come up as often as any others.
hours_ago = st.one_of(st.sampled_from([-24.0, 0.0, 48.0, 72.0, 71.99, 144.0, 168.0]), st.floats(-48.0, 700.0))
hours_of_day = st.one_of(st.sampled_from([0.0, 9.0, 8.99, 20.99, 21.0]), st.floats(0.0, 23.999))
cents = st.one_of(st.integers(0, 12_000), st.sampled_from([0, 600, 605, 10**9]))
customers = st.builds(
    Customer,
    consent=st.sampled_from([True, True, True, False]),
    do_not_contact=st.sampled_from([False, False, False, True]),
    past=st.lists(hours_ago, max_size=4),
    hour=st.lists(hours_of_day, min_size=len(WORLD.delays_hours), max_size=len(WORLD.delays_hours)),
    monthly_usd=st.integers(0, 30_000).map(lambda price_cents: price_cents / 100),
    contact_cost_cents=st.integers(0, 5),
    budget_left_cents=cents,
)
rules = st.builds(
    ContactRules,
    quiet_hours=st.builds(QuietHours, start_hour=st.integers(0, 23), end_hour=st.integers(0, 23)),
    cooldown_hours=st.sampled_from([0.0, 24.0, 72.0]),
    weekly_cap=st.integers(1, 3),
    offer_valid_days=st.just(14),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(customers, min_size=1, max_size=4), rules)
def test_mask_equals_the_reference(people: list[Customer], contact_rules: ContactRules) -> None:
    """For every customer and joint action, the vectorised reason is the one that the rules' wording gives."""
    world = WORLD.model_copy(update={"contact_rules": contact_rules})
    reasons, space = mask_reasons(world, state_of(people)), ActionSpace(world)
    assert reasons.shape == (len(people), len(space))
    assert (reasons[:, 0] == Reason.ALLOWED).all()
    for row, customer in enumerate(people):
        for offer_index, offer in enumerate(world.offers):
            for delay_index, delay in enumerate(world.delays_hours):
                found = Reason(int(reasons[row, space.index_of(offer.id, delay)]))
                assert found is reference(world, customer, offer_index, delay_index)


@settings(max_examples=50, deadline=None)
@given(st.lists(customers, min_size=2, max_size=5))
def test_customers_do_not_touch_each_other(people: list[Customer]) -> None:
    """A customer's mask is the same alone and among others."""
    together = mask_reasons(WORLD, state_of(people))
    alone = np.concatenate([mask_reasons(WORLD, state_of([customer])) for customer in people])
    np.testing.assert_array_equal(together, alone)


@settings(max_examples=50, deadline=None)
@given(customers, st.integers(0, 5_000))
def test_more_budget_never_takes_an_action_away(customer: Customer, more_cents: int) -> None:
    """What a budget allows, a larger one allows; and an allowed action never reserves more than is left."""
    state = state_of([customer])
    allowed = mask_reasons(WORLD, state) == Reason.ALLOWED
    richer = state_of([Customer(**{**vars(customer), "budget_left_cents": customer.budget_left_cents + more_cents})])
    assert not (allowed & (mask_reasons(WORLD, richer) != Reason.ALLOWED)).any()
    assert (contact_reservations_cents(WORLD, state)[allowed] <= customer.budget_left_cents).all()


@settings(max_examples=50, deadline=None)
@given(customers)
def test_masked_offers_are_those_without_a_delay(customer: Customer) -> None:
    """An offer is reported as masked exactly when every delay of it is, with its shortest delay's reason."""
    found = masked_offers(WORLD, mask_reasons(WORLD, state_of([customer]))[0])
    for offer_index, offer in enumerate(WORLD.offers):
        reasons = [reference(WORLD, customer, offer_index, d) for d in range(len(WORLD.delays_hours))]
        assert found.get(offer.id) == (None if Reason.ALLOWED in reasons else reasons[0].slug)


@pytest.mark.parametrize(
    ("now", "zone", "expected"),
    [
        (datetime(2026, 3, 8, 6, 30, tzinfo=UTC), "America/New_York", [1.5, 8.5, 14.5, 2.5]),  # clocks go forward
        (datetime(2026, 11, 1, 5, 0, tzinfo=UTC), "America/New_York", [1.0, 6.0, 12.0, 0.0]),  # and back
        (datetime(2026, 1, 1, 12, 0, tzinfo=UTC), "Asia/Kolkata", [17.5, 23.5, 5.5, 17.5]),
    ],
)
def test_local_hours_know_daylight_saving(now: datetime, zone: str, expected: list[float]) -> None:
    """The hour at sending is the recipient's wall clock, also across a change of the clocks."""
    assert local_hours_at_send(now, ZoneInfo(zone), (0, 6, 12, 24)) == expected
