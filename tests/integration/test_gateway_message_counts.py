"""What the gateway counts of the bank's messages over a real Redis: each contact and each of its outcomes once."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from churnsaver.message_counts import message_counts_key, split_counts
from services.gateway.ledger import Unsent
from tests.conftest import RedisServer
from tests.support.gateway import Gateway, body, serving_gateway


@pytest.fixture
async def gateway(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway whose generator gives out the bank's message m-1."""
    async with serving_gateway(redis_instance.url, tmp_path / "journal") as serving:
        yield serving


async def counts(gateway: Gateway, message_id: str = "m-1") -> dict[str, int]:
    """In all, which in these tests are those of today or yesterday."""
    found = await gateway.redis.hgetall(message_counts_key(message_id))
    counted = split_counts({name.decode(): int(count) for name, count in found.items()})
    assert all(abs(day - time.time() // 86_400) <= 1 for day in counted.by_day)
    by_name = [name for of_day in counted.by_day.values() for name in of_day]
    assert counted.total == {name: sum(of_day.get(name, 0) for of_day in counted.by_day.values()) for name in by_name}
    return counted.total


async def retain(gateway: Gateway, customer: str = "c1", request_id: str = "r1") -> str:
    async with gateway.client() as client:
        answer = (await client.post("/v1/retain", json=body(customer, request_id))).json()
    return str(answer["decision_id"])


async def tell(gateway: Gateway, decision_id: str, outcome: str) -> None:
    async with gateway.client() as client:
        await client.post("/v1/outcomes", json={"decision_id": decision_id, "outcome": outcome})


async def test_a_contact_and_its_outcomes_count_once(gateway: Gateway) -> None:
    """Neither a replay, nor a standing decision, nor an outcome that is told again counts."""
    decision_id = await retain(gateway)
    await retain(gateway)
    await retain(gateway, request_id="r2")
    for outcome in ("accepted", "accepted", "retained"):
        await tell(gateway, decision_id, outcome)
    await retain(gateway, "c2", "r3")
    assert await counts(gateway) == {"uses": 2, "accepted": 1, "retained": 1}
    assert 0 < await gateway.redis.ttl(message_counts_key("m-1")) <= 86_400


async def test_a_message_without_the_name_counts(gateway: Gateway) -> None:
    """The draw chose it, whatever became of the name."""
    gateway.shield.forbidden = {"Ana"}
    await retain(gateway)
    assert await counts(gateway) == {"uses": 1}


async def test_only_messages_of_the_bank_are_counted(gateway: Gateway) -> None:
    """A text that was written for one request has no siblings, and an approved text has none to be told from."""
    gateway.generator.draft = replace(gateway.generator.draft, source="model")
    await tell(gateway, await retain(gateway), "accepted")
    assert await gateway.redis.keys("cs:message:*") == []


async def test_a_contact_that_is_refused_counts_nothing(gateway: Gateway) -> None:
    """The ledger's hard rules have the last word."""
    await tell(gateway, await retain(gateway), "opted_out")
    await gateway.redis.delete(*await gateway.redis.keys("cs:standing:*"))
    await retain(gateway, request_id="r2")
    assert await counts(gateway) == {"uses": 1, "opted_out": 1}


async def test_a_contact_that_does_not_take_place_is_taken_back(gateway: Gateway) -> None:
    """With what was told of it, and what is told of it later."""
    decision_id = await retain(gateway)
    await retain(gateway, "c2", "r2")
    await tell(gateway, decision_id, "ignored")
    async with gateway.client() as client:
        skipped = await client.post(f"/v1/decisions/{decision_id}/release", json={"consent": False})
    assert skipped.json()["reason"] == "consent"
    await tell(gateway, decision_id, "churned")
    assert await counts(gateway) == {"uses": 1, "ignored": 0}


async def test_a_booking_that_is_withdrawn_is_taken_back(gateway: Gateway) -> None:
    """Its request had been answered without the ledger."""
    decision_id = await retain(gateway)
    ref = (await gateway.records.get(decision_id))["customer_ref"]
    unsent = Unsent(
        key="r1",
        token=decision_id,
        body_sha="",
        customer_ref=ref,
        campaign="default",
        decision_id="other",
        record="{}",
        answer="{}",
    )
    await gateway.redis.hdel("cs:decision:" + decision_id, "told")
    await gateway.ledger.settle(unsent)
    assert (await gateway.records.get(decision_id))["booking"] == "withdrawn"
    assert await counts(gateway) == {"uses": 0}


async def test_counts_outlive_the_customer(gateway: Gateway) -> None:
    """They hold nothing of anybody; an outcome that comes after the erasure is of an unknown decision."""
    decision_id = await retain(gateway)
    await gateway.records.erase("c1")
    await tell(gateway, decision_id, "accepted")
    assert await counts(gateway) == {"uses": 1}


async def test_counts_that_were_lost_are_not_begun_anew_by_an_outcome(gateway: Gateway) -> None:
    """An outcome without its use would look like a message that everybody answers."""
    decision_id = await retain(gateway)
    await gateway.redis.delete(message_counts_key("m-1"))
    await tell(gateway, decision_id, "opted_out")
    assert await counts(gateway) == {}
