"""Bookings that the gateway gave up and Redis made: the first answer stays the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.gateway.case import pseudonym
from services.gateway.ledger import contacts_key
from services.gateway.upkeep import send_unsent
from tests.conftest import RedisServer
from tests.load.proxy import Proxy
from tests.support.gateway import Gateway, body, serving_gateway

TIMEOUT_S = 0.3
LATE_S = 0.6


class SlowLedger:
    """A gateway behind a proxy that can make one booking late."""

    def __init__(self, gateway: Gateway, proxy: Proxy, redis: Redis) -> None:
        self.gateway, self.proxy, self.redis = gateway, proxy, redis
        self._review = gateway.shield.review

    async def retain(self, request: dict[str, Any]) -> dict[str, Any]:
        async with self.gateway.client() as client:
            answer = await client.post("/v1/retain", json=request)
        assert answer.status_code == 200
        return dict(answer.json())

    async def book_late(self) -> dict[str, Any]:
        """The answer to a request whose booking reaches Redis after the gateway has given it up."""

        async def then_slow(*args: Any) -> Any:
            self.proxy.latency_s = LATE_S
            return await self._review(*args)

        self.gateway.shield.review = then_slow  # type: ignore[method-assign]
        answer = await self.retain(body())
        self.gateway.shield.review = self._review  # type: ignore[method-assign]
        self.proxy.latency_s = 0.0
        assert answer["baseline_reason"] == "ledger_unavailable"
        assert answer["decision"]["contact"] is False
        return answer

    async def booked(self) -> None:
        """Returns when Redis has booked."""
        for _ in range(100):
            if await self.reserved_cents() == 600:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the booking never arrived")

    async def reserved_cents(self) -> int:
        """Of the campaign, and of its only arm."""
        reserved = int(await self.redis.get("cs:reserved:default") or 0)
        assert reserved == int(await self.redis.hget("cs:reserved-by-arm:default", "champion") or 0)
        return reserved

    async def contacts(self) -> int:
        ref = pseudonym(self.gateway.settings.pseudonym_key, "c1")
        return int(await self.redis.zcard(contacts_key(ref)))


@pytest.fixture
async def slow(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[SlowLedger]:
    async with Proxy("127.0.0.1", redis_instance.port) as proxy:
        url = f"redis://{proxy.address}/0"
        direct = Redis.from_url(redis_instance.url)
        async with serving_gateway(url, tmp_path / "journal", redis_timeout_s=TIMEOUT_S) as gateway:
            # As in a Redis that has booked before: the call itself books, without sending the script first.
            await direct.script_load(gateway.ledger._book.script)
            yield SlowLedger(gateway, proxy, direct)
        await direct.aclose()


async def test_a_booking_that_was_made_unheard_is_withdrawn(slow: SlowLedger) -> None:
    """Contact, reservation and standing decision go; the key keeps the answer that was given."""
    first = await slow.book_late()
    await slow.booked()
    assert await slow.retain(body()) == first
    await send_unsent(slow.gateway.ledger, slow.gateway.journal)
    assert await slow.reserved_cents() == await slow.contacts() == 0
    assert await slow.retain(body()) == first
    afresh = await slow.retain(body(request_id="r2"))
    assert afresh["decision"]["contact"] is True
    assert [fact.decision_id for fact in slow.gateway.journal.facts()] == [afresh["decision_id"]]  # type: ignore[union-attr]


async def test_a_booking_that_arrives_after_the_settlement_books_nothing(slow: SlowLedger) -> None:
    """The answer under the key is a fence for what is still on its way."""
    first = await slow.book_late()
    await send_unsent(slow.gateway.ledger, slow.gateway.journal)
    await asyncio.sleep(2 * LATE_S)
    assert await slow.reserved_cents() == await slow.contacts() == 0
    assert await slow.retain(body()) == first


async def test_a_booking_that_another_caller_was_told_of_stands(slow: SlowLedger) -> None:
    """Withdrawing it would contradict the other's answer; the journal learns of the contact."""
    first = await slow.book_late()
    await slow.booked()
    other = await slow.retain(body(request_id="r2"))
    assert other["decision"]["contact"] is True
    await send_unsent(slow.gateway.ledger, slow.gateway.journal)
    assert await slow.contacts() == 1
    assert await slow.retain(body()) == first
    assert [fact.decision_id for fact in slow.gateway.journal.facts()] == [other["decision_id"]]  # type: ignore[union-attr]


async def test_settling_twice_changes_nothing(slow: SlowLedger) -> None:
    """A gateway that dies between Redis and its journal sends the same again."""
    first = await slow.book_late()
    await slow.booked()
    [unsent] = slow.gateway.journal.unsent()
    for _ in range(2):
        assert await slow.gateway.ledger.settle(unsent) is None
    assert await slow.reserved_cents() == 0
    await slow.gateway.journal.drop_unsent([unsent])
    assert await slow.retain(body()) == first
