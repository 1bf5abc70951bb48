"""The audit after chaos finds what must never happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from churnsaver.domain.schema import DatasetSchema
from churnsaver.domain.world import World
from churnsaver.settings import load_schema, load_world
from tests.load.audit import Exchange, audit, booked_contacts, changed_replays, spent_cents
from tests.load.outage import EXPECTED, Phase, describe, longest_gap_s
from tests.load.stats import Sample


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


@pytest.fixture(scope="module")
def schema() -> DatasetSchema:
    return load_schema(Path("configs/schemas/default.yaml"))


def exchange(
    customer: str,
    decision: str = "d1",
    *,
    contact: bool = True,
    request: str | None = None,
    status: int = 200,
    at_s: float = 0.0,
    reason: str | None = None,
    source: str = "bank",
) -> Exchange:
    answer: dict[str, Any] = {
        "decision_id": decision,
        "mode": "baseline" if reason else "policy",
        "baseline_reason": reason,
        "decision": {"contact": contact, "offer": "discount_10", "delay_hours": 12, "channel": "sms"},
        "message": {"source": source} if contact else None,
    }
    body = {
        "request_id": request or f"r-{customer}",
        "campaign": "default",
        "customer": {"id": customer, "attributes": {"monthly_usd": 29.85}},
    }
    return Exchange(body, Sample(0, at_s, at_s, at_s + 0.01, status, answer if status == 200 else None))


def record(exchange: Exchange) -> dict[str, Any]:
    return {"answer": exchange.sample.answer, "booking": "booked" if exchange.sample.contact else "none"}


def broken(exchanges: list[Exchange], world: World, schema: DatasetSchema, **records: Any) -> list[str]:
    """Names of the properties that do not hold; records agree with answers unless given."""
    kept = {each.decision_id: record(each) for each in exchanges if each.decision_id is not None}
    return [each.name for each in audit(exchanges, {**kept, **records}, world, schema) if not each.holds]


def test_a_clean_run_holds(world: World, schema: DatasetSchema) -> None:
    """A replay and a standing decision are one contact, told twice."""
    run = [exchange("a"), exchange("a"), exchange("a", request="r-a-again"), exchange("b", "d2", contact=False)]
    assert broken(run, world, schema) == []
    assert len(booked_contacts(run)) == 1


def test_contacts_are_priced_without_asking_the_services(world: World, schema: DatasetSchema) -> None:
    """10 % of 29.85 for three months is 896 cents, and an SMS costs 5."""
    assert spent_cents([exchange("a"), exchange("a"), exchange("b", "d2")], world, schema) == 2 * (896 + 5)


def test_a_second_contact_within_the_cooldown_is_found(world: World, schema: DatasetSchema) -> None:
    """Two decisions to contact one customer are two contacts, however they came about."""
    run = [exchange("a", "d1"), exchange("a", "d2", at_s=5.0, request="r-a-again")]
    assert broken(run, world, schema) == ["no customer contacted twice within the cooldown, or over the cap"]


def test_an_overspent_budget_is_found(world: World, schema: DatasetSchema) -> None:
    """The sum of all contacts may not pass the campaign's budget by a cent."""
    tight = world.model_copy(
        update={"campaigns": {"default": world.campaigns["default"].model_copy(update={"budget_cents": 1801})}}
    )
    assert broken([exchange("a"), exchange("b", "d2")], tight, schema) == ["no budget overspent"]


def test_a_lost_or_different_record_is_found(world: World, schema: DatasetSchema) -> None:
    """What a caller was told must be what was recorded."""
    name = "no decision record lost or different from the answer"
    told = exchange("a")
    assert broken([told], world, schema, d1=None) == [name]
    assert broken([told], world, schema, d1=record(told) | {"booking": "budget"}) == [name]


def test_failures_and_unbooked_contacts_are_found(world: World, schema: DatasetSchema) -> None:
    """No answer but 2xx counts, and nobody is contacted who could not be booked."""
    assert broken([exchange("a", status=503)], world, schema) == ["every request answered 2xx"]
    unbooked = exchange("a", reason="ledger_unavailable")
    assert broken([unbooked], world, schema) == ["nobody contacted while the ledger was away"]


def test_changed_replays_are_counted_by_their_first_answer() -> None:
    """Only the same request id is a replay."""
    run = [
        exchange("a", "d1", reason="ledger_unavailable", contact=False),
        exchange("a", "d2"),
        exchange("b", "d3"),
        exchange("b", "d4", request="r-b-again"),
    ]
    assert changed_replays(run) == {"ledger_unavailable": 1}


def test_a_phase_tells_outage_and_recovery_apart() -> None:
    """Only the first answer about each customer of the phase shows what the service did then."""
    run = [
        exchange("a", at_s=0.0),
        exchange("b", "d2", at_s=2.0, reason="decision_unavailable"),
        exchange("a", "d1", at_s=3.0),
        exchange("c", "d3", at_s=4.0, reason="decision_unavailable", contact=False),
        exchange("d", "d4", at_s=7.0, reason="decision_unavailable"),
        exchange("e", "d5", at_s=8.0),
    ]
    seen = describe(Phase("decision", killed_s=1.0, restarted_s=6.0, ready_s=6.5, exchanges=run))
    down, seconds = seen["while_down"], seen["seconds"]
    assert down["requests_about_new_customers"] == 2
    assert down["as_the_failure_table_says"] == 1.0
    assert down["sources"] == {"bank": 1, "no_message": 1}
    assert seconds["listening_to_first_normal_answer"] == pytest.approx(1.51)
    assert seconds["longest_without_an_answer"] == pytest.approx(3.0)
    assert [each["second"] for each in seen["timeline"]] == [-1, 1, 3, 6, 7]


def test_a_gap_ends_with_an_answer_not_with_a_failure() -> None:
    """Failed requests do not interrupt an outage."""
    samples = [exchange("a", at_s=float(at), status=200 if at in {0, 4} else 503).sample for at in range(5)]
    assert longest_gap_s(samples) == pytest.approx(4.0)


def test_the_failure_table_is_told_apart_by_service() -> None:
    """Without the shield only approved templates go out; without Redis nobody is contacted."""
    assert EXPECTED["shield"].degraded(exchange("a", source="template").sample)
    assert not EXPECTED["shield"].degraded(exchange("a", source="bank").sample)
    assert not EXPECTED["redis"].degraded(exchange("a", reason="ledger_unavailable").sample)
    assert EXPECTED["redis"].degraded(exchange("a", reason="ledger_unavailable", contact=False).sample)
