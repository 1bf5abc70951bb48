"""What the policy sees of a customer: one pure function for training and serving.

The features are the same for every dataset: the risk model, the schema's revenue and tenure roles and
the acceptance model translate a customer of any schema into them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.eligibility import ContactState
from churnsaver.domain.world import HOURS_PER_DAY, HOURS_PER_WEEK, World

HISTORY = 8  # contacts that are remembered of a customer, at most
HISTORY_HOURS = 4 * HOURS_PER_WEEK  # and for how long


@dataclass(frozen=True, slots=True)
class CustomerFeatures:
    """What is known of n customers, whatever dataset they come from.

    Attributes:
        risk: (n,) calibrated probability of churn, [0, 1].
        monthly_usd: (n,) monthly charge.
        tenure_months: (n,) months since they joined.
        acceptance: (n, offers) calibrated probability of accepting each offer if contacted.
    """

    risk: NDArray[np.float64]
    monthly_usd: NDArray[np.float64]
    tenure_months: NDArray[np.float64]
    acceptance: NDArray[np.float64]


def observation_names(world: World) -> list[str]:
    """Names of the observation's columns, in order."""
    return [
        "risk",
        "log_monthly_usd",
        "log_tenure_months",
        "recency",
        "contacts_7d",
        "contacts_28d",
        "budget_fraction_left",
        "hour_sin",
        "hour_cos",
        *(f"acceptance_{offer.id}" for offer in world.offers),
    ]


def observe(
    world: World,
    customer: CustomerFeatures,
    contact: ContactState,
    budget_fraction_left: NDArray[np.float64],
) -> NDArray[np.float32]:
    """The policy's input, (n, len(observation_names(world))), every column within about [-1, 1].

    `budget_fraction_left` is (n,), the share of the campaign's budget that is not yet reserved.
    """
    hours = contact.hours_since_contact
    nearest = np.abs(hours).min(axis=1, initial=np.inf)
    angle = 2.0 * np.pi * contact.local_hour_at_send[:, 0] / HOURS_PER_DAY
    columns = [
        customer.risk,
        np.log1p(customer.monthly_usd) / 6.0,
        np.log1p(customer.tenure_months) / 6.0,
        np.exp(-nearest / HOURS_PER_WEEK),  # 1 just contacted, 0 never
        (hours < HOURS_PER_WEEK).sum(axis=1) / world.contact_rules.weekly_cap,
        (hours < HISTORY_HOURS).sum(axis=1) / HISTORY,
        budget_fraction_left,
        np.sin(angle),
        np.cos(angle),
    ]
    return np.column_stack([*columns, customer.acceptance]).astype(np.float32)


def pad_history(hours_since_contact: list[float]) -> NDArray[np.float64]:
    """One customer's contacts as a row of `ContactState.hours_since_contact`, shape (1, HISTORY).

    The most recent HISTORY contacts are kept; the rest is padded with +inf.
    """
    row = np.full((1, HISTORY), np.inf)
    recent = sorted(hours_since_contact)[:HISTORY]
    row[0, : len(recent)] = recent
    return row
