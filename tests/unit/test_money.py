"""Money: cents that a budget can be held against, whatever the charge."""

from __future__ import annotations

import numpy as np

from churnsaver.domain.actions import NO_CONTACT
from churnsaver.domain.eligibility import ContactState, Reason, contact_reservations_cents, mask_reasons
from churnsaver.domain.money import offer_cost_cents
from churnsaver.settings import load_world

IMPOSSIBLE_USD = [1e15, 1e18, 1e300, np.inf, np.nan]


def test_costs_are_rounded_up_to_a_cent() -> None:
    """10 % of 29.85 for three months is 895.5 cents; binary noise adds none."""
    offer = load_world().offer("discount_10")
    assert offer_cost_cents(offer, [29.85, 10.0, 0.0]).tolist() == [896, 300, 0]


def test_an_impossible_charge_is_masked_by_the_budget() -> None:
    """An overflow to a negative cost would pass every budget; a discount on any such charge passes none."""
    world = load_world()
    n = len(IMPOSSIBLE_USD)
    state = ContactState(
        consent=np.full(n, True),
        do_not_contact=np.full(n, False),
        hours_since_contact=np.full((n, 8), np.inf),
        local_hour_at_send=np.full((n, len(world.delays_hours)), 12.0),
        monthly_usd=np.array(IMPOSSIBLE_USD),
        contact_cost_cents=np.full(n, 5),
        budget_left_cents=np.full(n, world.campaigns["default"].budget_cents),
    )
    discounted = np.array([offer.discount_fraction > 0 for offer in world.offers]).repeat(len(world.delays_hours))
    assert (contact_reservations_cents(world, state) >= 0).all()
    assert (mask_reasons(world, state)[:, NO_CONTACT + 1 :][:, discounted] == Reason.BUDGET).all()
