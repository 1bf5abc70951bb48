"""The one mask (law 1): which joint actions the hard rules allow, and why not the others.

Pure and vectorised over customers. The environment's rollouts, the PPO update, the decision service,
the gateway's baseline and the shield's eligibility check all call it; nothing else decides this.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT
from churnsaver.domain.money import offer_costs_cents
from churnsaver.domain.world import HOURS_PER_WEEK, QuietHours, World


class Reason(IntEnum):
    """Why an action is masked. Where several hold, the first in this order is given."""

    ALLOWED = 0
    DO_NOT_CONTACT = 1
    CONSENT = 2
    COOLDOWN = 3
    WEEKLY_CAP = 4
    QUIET_HOURS = 5
    BUDGET = 6

    @property
    def slug(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class ContactState:
    """What the hard rules need to know of n customers.

    Attributes:
        consent: (n,) bool, at least one channel of the customer is consented to and served.
        do_not_contact: (n,) bool, opted out.
        hours_since_contact: (n, history) hours since each past contact, padded with +inf; a contact
            that is booked for later is negative.
        local_hour_at_send: (n, delays) hour of day in the recipient's zone, [0, 24), now + each delay.
        monthly_usd: (n,) the monthly charge, from which offers' costs follow.
        contact_cost_cents: (n,) cost of one contact on the customer's channel.
        budget_left_cents: (n,) what the campaign may still reserve.
    """

    consent: NDArray[np.bool_]
    do_not_contact: NDArray[np.bool_]
    hours_since_contact: NDArray[np.float64]
    local_hour_at_send: NDArray[np.float64]
    monthly_usd: NDArray[np.float64]
    contact_cost_cents: NDArray[np.int64]
    budget_left_cents: NDArray[np.int64]


def in_quiet_hours(quiet: QuietHours, local_hour: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each local hour lies in the quiet hours. Shape of `local_hour`. Equal ends: never."""
    start, end = quiet.start_hour, quiet.end_hour
    if start <= end:
        return (local_hour >= start) & (local_hour < end)
    return (local_hour >= start) | (local_hour < end)


def local_hours_at_send(now_utc: datetime, zone: ZoneInfo, delays_hours: tuple[int, ...]) -> list[float]:
    """Local hour of day at now + each delay, daylight saving included. `now_utc` must be aware."""
    sends = (now_utc + timedelta(hours=delay) for delay in delays_hours)
    return [hour_of_day(send.astimezone(zone)) for send in sends]


def hour_of_day(moment: datetime) -> float:
    """14:30 is 14.5."""
    return moment.hour + moment.minute / 60.0 + moment.second / 3600.0


def contact_reservations_cents(world: World, state: ContactState) -> NDArray[np.int64]:
    """What booking each joint action reserves from the budget, in cents, shape (n, actions)."""
    per_offer = offer_costs_cents(world, state.monthly_usd) + state.contact_cost_cents[:, None]
    per_action = np.repeat(per_offer, len(world.delays_hours), axis=1)
    return np.concatenate([np.zeros((len(per_action), 1), dtype=np.int64), per_action], axis=1)


def mask_reasons(
    world: World, state: ContactState, reservations_cents: NDArray[np.int64] | None = None
) -> NDArray[np.uint8]:
    """A `Reason` for every joint action, shape (n, actions); ALLOWED where the action may be taken.

    "Do not contact" is always allowed, so a customer with everything else masked is left alone.

    Args:
        reservations_cents: `contact_reservations_cents` of this state, from whoever has it already.
    """
    n, n_offers, n_delays = len(state.consent), len(world.offers), len(world.delays_hours)
    rules = world.contact_rules
    delays = np.asarray(world.delays_hours, dtype=np.float64)

    # Distance from each past or booked contact to each possible send, (n, history, delays).
    distance = np.abs(state.hours_since_contact[:, :, None] + delays[None, None, :])
    cooling = np.any(distance < rules.cooldown_hours, axis=1)  # (n, delays)
    capped = np.greater_equal((distance < HOURS_PER_WEEK).sum(axis=1), rules.weekly_cap)  # (n, delays)
    quiet = in_quiet_hours(rules.quiet_hours, state.local_hour_at_send)  # (n, delays)
    if reservations_cents is None:
        reservations_cents = contact_reservations_cents(world, state)
    reserved = reservations_cents[:, 1:].reshape(n, n_offers, n_delays)
    over_budget = reserved > state.budget_left_cents[:, None, None]

    contact = np.full((n, n_offers, n_delays), Reason.ALLOWED, dtype=np.uint8)
    # Written last wins, so the rules go in reverse order of precedence.
    contact[over_budget] = Reason.BUDGET
    for rule, reason in ((quiet, Reason.QUIET_HOURS), (capped, Reason.WEEKLY_CAP), (cooling, Reason.COOLDOWN)):
        contact[np.broadcast_to(rule[:, None, :], contact.shape)] = reason
    contact[~state.consent] = Reason.CONSENT
    contact[state.do_not_contact] = Reason.DO_NOT_CONTACT

    reasons = np.zeros((n, 1 + n_offers * n_delays), dtype=np.uint8)
    reasons[:, NO_CONTACT + 1 :] = contact.reshape(n, -1)
    return reasons


def masked_offers(world: World, reasons: NDArray[np.uint8]) -> dict[str, str]:
    """The offers of one customer that no delay allows, each with the reason at its shortest delay.

    `reasons` is one row of `mask_reasons`, shape (actions,).
    """
    per_offer = reasons[NO_CONTACT + 1 :].reshape(len(world.offers), len(world.delays_hours))
    return {
        offer.id: Reason(int(row[0])).slug
        for offer, row in zip(world.offers, per_offer, strict=True)
        if (row != Reason.ALLOWED).all()
    }
