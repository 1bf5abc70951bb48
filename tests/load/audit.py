"""What must hold after the chaos, whatever failed: checked from what callers were told and what was recorded.

The audit trusts no counter of the services. It prices every contact again with the domain's own price list
and compares answers with records one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from churnsaver.domain.money import offer_cost_cents
from churnsaver.domain.schema import DatasetSchema
from churnsaver.domain.world import HOURS_PER_WEEK, World
from tests.load.stats import Sample, count

SECONDS_PER_HOUR = 3600.0
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came of it."""

    body: Mapping[str, Any]
    sample: Sample

    @property
    def customer_id(self) -> str:
        return str(self.body["customer"]["id"])

    @property
    def decision_id(self) -> str | None:
        found = (self.sample.answer or {}).get("decision_id")
        return str(found) if self.sample.ok and found else None


@dataclass(frozen=True, slots=True)
class Property:
    """One property and how often it was broken, with the first few cases in words."""

    name: str
    checked: int
    broken: int
    examples: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return self.broken == 0


def audit(
    exchanges: Sequence[Exchange],
    records: Mapping[str, Mapping[str, Any] | None],
    world: World,
    schema: DatasetSchema,
) -> list[Property]:
    """Every hard property.

    Args:
        exchanges: every request of the run.
        records: what `GET /v1/decisions/{id}` says of each answered decision; None where it knows none.
        world: the rules and prices under which the stack ran.
        schema: of the attributes; it says which one is the monthly charge.
    """
    contacts = booked_contacts(exchanges)
    return [
        _every_request_answered(exchanges),
        _contact_rules_kept(contacts, world),
        _budget_kept(contacts, world, schema),
        _nobody_contacted_unbooked(exchanges),
        _records_kept(exchanges, records),
    ]


def booked_contacts(exchanges: Iterable[Exchange]) -> list[Exchange]:
    """The contacts that callers were told to make: the first answer of each decision."""
    first: dict[str, Exchange] = {}
    for exchange in exchanges:
        if exchange.decision_id is not None and exchange.sample.contact:
            first.setdefault(exchange.decision_id, exchange)
    return list(first.values())


def price_cents(exchange: Exchange, world: World, schema: DatasetSchema) -> int:
    """What a contact may cost at most: the offer, accepted, and the channel."""
    assert exchange.sample.answer is not None
    decision = exchange.sample.answer["decision"]
    monthly_usd = schema.monthly_usd(exchange.body["customer"]["attributes"])
    offer_cents = int(offer_cost_cents(world.offer(decision["offer"]), monthly_usd))
    return offer_cents + world.channels[decision["channel"]].contact_cost_cents


def spent_cents(exchanges: Iterable[Exchange], world: World, schema: DatasetSchema) -> int:
    """What all contacts of a run may cost at most."""
    return sum(price_cents(contact, world, schema) for contact in booked_contacts(exchanges))


def _every_request_answered(exchanges: Sequence[Exchange]) -> Property:
    failed = [
        f"request {exchange.body['request_id']}: {exchange.sample.status} {exchange.sample.error or ''}".strip()
        for exchange in exchanges
        if not exchange.sample.ok
    ]
    return _property("every request answered 2xx", len(exchanges), failed)


def _contact_rules_kept(contacts: Sequence[Exchange], world: World) -> Property:
    """Cooldown between any two contacts of a customer, and no more than the cap in any week."""
    times_h: dict[str, list[float]] = defaultdict(list)
    for contact in contacts:
        assert contact.sample.answer is not None
        sent_h = contact.sample.done_s / SECONDS_PER_HOUR + contact.sample.answer["decision"]["delay_hours"]
        times_h[contact.customer_id].append(sent_h)
    rules, broken = world.contact_rules, []
    for customer_id, times in times_h.items():
        ordered = sorted(times)
        gaps = [later - earlier for earlier, later in pairwise(ordered)]
        in_a_week = max(sum(start <= each < start + HOURS_PER_WEEK for each in ordered) for start in ordered)
        if any(gap < rules.cooldown_hours for gap in gaps) or in_a_week > rules.weekly_cap:
            broken.append(f"customer {customer_id}: contacted {len(ordered)} times")
    return _property("no customer contacted twice within the cooldown, or over the cap", len(times_h), broken)


def _budget_kept(contacts: Sequence[Exchange], world: World, schema: DatasetSchema) -> Property:
    spent: dict[str, int] = defaultdict(int)
    for contact in contacts:
        spent[contact.body["campaign"]] += price_cents(contact, world, schema)
    broken = [
        f"campaign {name}: {cents} cents of {world.campaigns[name].budget_cents}"
        for name, cents in spent.items()
        if cents > world.campaigns[name].budget_cents
    ]
    return _property("no budget overspent", len(spent), broken)


def _nobody_contacted_unbooked(exchanges: Sequence[Exchange]) -> Property:
    unbooked = [exchange for exchange in exchanges if exchange.sample.reason == "ledger_unavailable"]
    broken = [f"decision {exchange.decision_id}" for exchange in unbooked if exchange.sample.contact]
    return _property("nobody contacted while the ledger was away", len(unbooked), broken)


def _records_kept(exchanges: Sequence[Exchange], records: Mapping[str, Mapping[str, Any] | None]) -> Property:
    """Every answered decision has its record, and the record says what the caller was told."""
    told = {exchange.decision_id: exchange.sample for exchange in exchanges if exchange.decision_id is not None}
    broken = []
    for decision_id, sample in told.items():
        record = records.get(decision_id)
        if record is None:
            broken.append(f"decision {decision_id}: no record (answered as {sample.mode}, {sample.reason})")
        elif (
            record["answer"]["decision"]["contact"] != sample.contact
            or (record["booking"] == "booked") != sample.contact
        ):
            broken.append(f"decision {decision_id}: told contact {sample.contact}, recorded {record['booking']}")
    return _property("no decision record lost or different from the answer", len(told), broken)


def changed_replays(exchanges: Sequence[Exchange]) -> dict[str, int]:
    """Exact retries that got another decision than the first answer with their request id, by what that was.

    An answer that was given without the ledger cannot be repeated by a replica that never saw it.
    """
    first: dict[str, Exchange] = {}
    changed = []
    for exchange in exchanges:
        if exchange.decision_id is None:
            continue
        earlier = first.setdefault(exchange.body["request_id"], exchange)
        if earlier.decision_id != exchange.decision_id:
            changed.append(earlier.sample.reason or earlier.sample.mode)
    return count(changed)


def _property(name: str, checked: int, broken: Sequence[str]) -> Property:
    return Property(name, checked, len(broken), tuple(broken[:EXAMPLES]))
