"""Release before sending over a real Redis: once, at most as often as the hard rules allow, and remembered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from churnsaver.message_counts import JUDGEMENTS
from services.gateway.case import pseudonym
from services.gateway.ledger import Contact, contacts_key
from services.gateway.upkeep import rebuild
from tests.conftest import RedisServer
from tests.support.gateway import Gateway, body, serving_gateway


@pytest.fixture
async def gateway(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with serving_gateway(redis_instance.url, tmp_path / "journal") as serving:
        yield serving


async def book(gateway: Gateway, request_id: str = "r1", delay_hours: int = 0) -> str:
    """The id of a booked contact of the customer c1."""
    actions = gateway.retention.actions
    gateway.decision.action = actions[actions.index_of("discount_20", delay_hours)]
    async with gateway.client() as client:
        answer = (await client.post("/v1/retain", json=body(request_id=request_id))).json()
    assert answer["decision"]["contact"] is True
    return str(answer["decision_id"])


async def release(gateway: Gateway, decision_id: str, key: str | None = None) -> dict[str, Any]:
    async with gateway.client() as client:
        headers = {"Idempotency-Key": key} if key else {}
        answer = await client.post(f"/v1/decisions/{decision_id}/release", headers=headers)
    assert answer.status_code == 200
    return dict(answer.json())


def contacts_of(gateway: Gateway) -> str:
    return contacts_key(pseudonym(gateway.settings.pseudonym_key, "c1"))


async def test_a_contact_is_released_once(gateway: Gateway) -> None:
    """Eight callers ask at once: one is told to send, and the record says when."""
    decision_id = await book(gateway)
    answers = await asyncio.gather(*(release(gateway, decision_id) for _ in range(8)))
    assert sorted(answer["action"] for answer in answers) == ["send"] + ["skip"] * 7
    assert {answer["reason"] for answer in answers} == {None, "already_released"}
    record = await gateway.records.get(decision_id)
    assert (record["booking"], record["released_at"]) == ("released", "2026-03-02T17:00:00.000+00:00")


async def test_a_message_that_was_retired_since_is_not_sent(gateway: Gateway, redis_instance: RedisServer) -> None:
    """As a person decides, or the evidence; the contact is cancelled."""
    decision_id = await book(gateway)
    async with Redis.from_url(redis_instance.url) as redis:
        await redis.hset(JUDGEMENTS, "m-1", json.dumps({"verdict": "retired"}))
        assert (await release(gateway, decision_id))["reason"] == "message_retired"
        assert await redis.zcard(contacts_of(gateway)) == 0
        assert (await release(gateway, decision_id))["reason"] == "not_booked"


@pytest.mark.parametrize("judged", [json.dumps({"verdict": "approved"}), "{", "[]"])
async def test_another_judgement_of_a_message_stops_nothing(
    gateway: Gateway, redis_instance: RedisServer, judged: str
) -> None:
    async with Redis.from_url(redis_instance.url) as redis:
        await redis.hset(JUDGEMENTS, "m-1", judged)
    assert (await release(gateway, await book(gateway)))["action"] == "send"


async def test_a_lost_reply_can_be_asked_for_again(gateway: Gateway) -> None:
    """The first key gets `send` again, another key or none does not."""
    decision_id = await book(gateway)
    first = await release(gateway, decision_id, "k1")
    assert first["action"] == "send"
    assert await release(gateway, decision_id, "k1") == first
    assert (await release(gateway, decision_id, "k2"))["reason"] == "already_released"
    assert (await release(gateway, decision_id))["reason"] == "already_released"


async def test_nobody_is_sent_to_again_after_they_opted_out(gateway: Gateway) -> None:
    """A replay gives the first answer only while nothing speaks against sending; the contact stays booked."""
    decision_id = await book(gateway)
    await release(gateway, decision_id, "k1")
    async with gateway.client() as client:
        await client.post("/v1/outcomes", json={"decision_id": decision_id, "outcome": "opted_out"})
    assert (await release(gateway, decision_id, "k1"))["reason"] == "do_not_contact"
    assert int(await gateway.redis.get("cs:reserved:default")) == 600


async def test_cooldown_counts_from_the_release(gateway: Gateway) -> None:
    """A contact that is released ten days late keeps the next one away, also after the ledger was rebuilt."""
    decision_id = await book(gateway)
    gateway.now += timedelta(days=10)
    assert (await release(gateway, decision_id))["action"] == "send"
    now_ms = int(gateway.now.timestamp() * 1000)
    assert await gateway.redis.zrange(contacts_of(gateway), 0, -1, withscores=True) == [(decision_id.encode(), now_ms)]
    await gateway.redis.flushall()
    await rebuild(gateway.ledger, gateway.journal)
    assert await gateway.redis.zrange(contacts_of(gateway), 0, -1, withscores=True) == [(decision_id.encode(), now_ms)]
    assert int(await gateway.redis.get("cs:reserved:default")) == 600
    [fact] = gateway.journal.facts()
    assert isinstance(fact, Contact)
    assert fact.at_ms == now_ms
    async with gateway.client() as client:
        again = (await client.post("/v1/retain", json=body(request_id="r2"))).json()
    assert again["decision"]["masked"] == {"discount_20": "cooldown"}


@pytest.mark.parametrize(("others_hours", "reason"), [([1], "cooldown"), ([-100, -130], "weekly_cap"), ([], None)])
async def test_cooldown_and_weekly_cap_are_checked_again(
    gateway: Gateway, others_hours: list[int], reason: str | None
) -> None:
    """What was booked in between counts; the contact itself does not."""
    decision_id = await book(gateway)
    assert gateway.world.contact_rules.weekly_cap == 2
    for hours in others_hours:
        at_ms = (gateway.now + timedelta(hours=hours)).timestamp() * 1000
        await gateway.redis.zadd(contacts_of(gateway), {f"other{hours}": at_ms})
    assert (await release(gateway, decision_id))["reason"] == reason
    if reason:
        assert (await gateway.records.get(decision_id))["booking"] == "booked"


async def test_a_ledger_without_its_data_releases_nothing(gateway: Gateway) -> None:
    """503 with words of its own, because what others were told is not known."""
    decision_id = await book(gateway)
    await gateway.redis.delete("cs:generation")
    async with gateway.client() as client:
        answer = await client.post(f"/v1/decisions/{decision_id}/release")
    assert answer.status_code == 503
    assert "do not send" in answer.json()["detail"]
