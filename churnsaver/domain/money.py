"""What an offer costs and what a customer who stays is worth. Money is integer cents where it is booked."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from churnsaver.domain.world import Offer, World

# Schemas refuse such charges. Should one come through, discounts on it cost more than any budget holds, where
# without a bound they would overflow to negative cents that every budget lets pass.
MAX_MONTHLY_USD = 1e12


def offer_cost_cents(offer: Offer, monthly_usd: ArrayLike) -> NDArray[np.int64]:
    """What `offer` costs if it is accepted, rounded up to a cent. Shape of `monthly_usd`.

    Charges count as at most MAX_MONTHLY_USD and at least 0; NaN counts as the most.
    """
    charge = np.fmax(np.fmin(np.asarray(monthly_usd, dtype=np.float64), MAX_MONTHLY_USD), 0.0)  # fmin drops NaN
    discount = charge * 100.0 * offer.discount_fraction * offer.months
    # Binary fractions: 29.85 × 100 × 0.1 × 3 is 895.5000000000001; half a millionth of a cent is noise.
    return np.ceil(discount - 1e-6).astype(np.int64) + offer.fixed_cents


def offer_costs_cents(world: World, monthly_usd: ArrayLike) -> NDArray[np.int64]:
    """Cost of every offer, shape (n, offers)."""
    monthly = np.atleast_1d(np.asarray(monthly_usd, dtype=np.float64))
    return np.stack([offer_cost_cents(offer, monthly) for offer in world.offers], axis=1)


def retained_value_usd(world: World, monthly_usd: ArrayLike) -> NDArray[np.float64]:
    """Margin that a customer brings over the horizon if they stay, in dollars. Shape of `monthly_usd`."""
    months = world.money.horizon_months * world.money.gross_margin
    return np.asarray(monthly_usd, dtype=np.float64) * months


def expected_values_usd(
    world: World,
    risk: ArrayLike,
    monthly_usd: ArrayLike,
    acceptance: NDArray[np.floating],
    contact_cost_cents: ArrayLike,
) -> NDArray[np.float64]:
    """Myopic expected net value of each offer against doing nothing, in dollars, shape (n, offers).

    A customer who would have left (`risk`) and accepts (`acceptance`, shape (n, offers)) stays and
    brings the horizon's margin; whoever accepts costs the offer; every contact costs the channel.
    It ranks baselines and explains decisions; it is no causal estimate.
    """
    risk_ = np.atleast_1d(np.asarray(risk, dtype=np.float64))[:, None]
    value = np.atleast_1d(retained_value_usd(world, monthly_usd))[:, None]
    cost_usd = offer_costs_cents(world, monthly_usd) / 100.0
    contact_usd = np.atleast_1d(np.asarray(contact_cost_cents, dtype=np.float64))[:, None] / 100.0
    return np.asarray(acceptance * (risk_ * value - cost_usd) - contact_usd, dtype=np.float64)
