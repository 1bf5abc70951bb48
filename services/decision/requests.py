"""A request's attributes and contact state as the domain's values, or what is wrong with them."""

from __future__ import annotations

import math

import numpy as np

from churnsaver.domain.eligibility import ContactState
from churnsaver.domain.observation import pad_history
from churnsaver.domain.schema import DatasetSchema, Scalar
from churnsaver.domain.world import HOURS_PER_DAY, World
from churnsaver.errors import BadInput
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as pb

MAX_ERRORS_SHOWN = 5


def read_attributes(schema: DatasetSchema, request: pb.DecideRequest) -> dict[str, Scalar]:
    """The attributes that the schema names; what else was sent is not read.

    Raises:
        BadInput: a value is missing or does not follow the schema; each is named.
    """
    row = {name: _scalar(request.attributes[name]) for name in schema.feature_names if name in request.attributes}
    if errors := schema.check_row(row):
        raise BadInput("; ".join(f"attributes.{error.field} {error.message}" for error in errors[:MAX_ERRORS_SHOWN]))
    return row


def _scalar(value: pb.AttributeValue) -> Scalar:
    kind = value.WhichOneof("kind")
    return None if kind is None else getattr(value, kind)


def read_contact(world: World, contact: pb.ContactState, monthly_usd: float) -> ContactState:
    """The state that the mask is computed from, of one customer.

    Raises:
        BadInput: a field is missing or impossible; it is named.
    """
    hours = list(contact.local_hour_at_send)
    if len(hours) != len(world.delays_hours) or not all(0.0 <= hour < HOURS_PER_DAY for hour in hours):
        raise BadInput(
            f"contact.local_hour_at_send is {hours}; expected {len(world.delays_hours)} hours of day in [0, 24), "
            f"one for each delay of {list(world.delays_hours)}"
        )
    history = list(contact.hours_since_contact)
    if not all(math.isfinite(since) for since in history):
        raise BadInput(f"contact.hours_since_contact is {history}; expected finite hours, one a past contact")
    if contact.contact_cost_cents < 0:
        raise BadInput(f"contact.contact_cost_cents is {contact.contact_cost_cents}; expected 0 or more")
    return ContactState(
        consent=np.array([contact.consent]),
        do_not_contact=np.array([contact.do_not_contact]),
        hours_since_contact=pad_history(history),
        local_hour_at_send=np.array([hours], dtype=np.float64),
        monthly_usd=np.array([monthly_usd]),
        contact_cost_cents=np.array([contact.contact_cost_cents], dtype=np.int64),
        budget_left_cents=np.array([contact.budget_left_cents], dtype=np.int64),
    )


def budget_fraction_left(contact: pb.ContactState) -> float:
    """Share of the campaign's budget that is not reserved, [0, 1]; 0 where there is no budget."""
    if contact.budget_cents <= 0:
        return 0.0
    return min(1.0, max(0.0, contact.budget_left_cents / contact.budget_cents))
