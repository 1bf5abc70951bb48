"""The ledger's scripts: a refused argument writes nothing, and what only a bug can cause is loud."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import DataError, ResponseError
from structlog.testing import capture_logs

from services.gateway import metrics
from services.gateway.ledger import Booking, Claim, KeyMismatch, LedgerUnavailable, available
from tests.conftest import RedisServer
from tests.support.gateway import Gateway, body, serving_gateway

CLAIM = Claim(
    key="k1",
    token="d1",
    body_sha="sha",
    customer_ref="ref",
    campaign="default",
    arm="champion",
    slot="policy",
    now_ms=10**12,
)
BOOKING = Booking(
    slot="policy",
    decision_id="d1",
    send_at_ms=10**12,
    reserved_cents=600,
    arm_budget_cents=10_000,
    record=b"{}",
    answer=b"yes",
    answer_if_refused=b"no",
)


@pytest.fixture
async def gateway(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with serving_gateway(redis_instance.url, tmp_path / "journal") as serving:
        yield serving


def bugs() -> float:
    return metrics.LEDGER_BUGS._value.get()


@pytest.mark.parametrize(
    "wrong",
    [
        {"reserved_cents": 600.5},
        {"reserved_cents": -1},
        {"reserved_cents": 2**60},
        {"reserved_cents": "many"},
        {"arm_budget_cents": "all"},
        {"send_at_ms": 1.5},
        {"send_at_ms": "soon"},
    ],
)
async def test_a_booking_with_a_wrong_number_leaves_nothing(gateway: Gateway, wrong: dict[str, Any]) -> None:
    """No ghost contact, no record, and the key is free for the answer that is given instead."""
    before = set(await gateway.redis.keys())
    with pytest.raises(LedgerUnavailable):
        await gateway.ledger.book(CLAIM, replace(BOOKING, **wrong))
    assert set(await gateway.redis.keys()) == before


async def test_a_budget_that_is_no_number_leaves_nothing(gateway: Gateway) -> None:
    """INCRBY would fail after the contact was written."""
    await gateway.redis.set("cs:reserved:default", "1e3")
    before = set(await gateway.redis.keys())
    with pytest.raises(LedgerUnavailable):
        await gateway.ledger.book(CLAIM, BOOKING)
    assert set(await gateway.redis.keys()) == before


async def test_scripts_know_their_own_token(gateway: Gateway) -> None:
    """Run twice, because a reply was lost, claim and book do and say the same."""
    assert await gateway.ledger.claim(CLAIM) == await gateway.ledger.claim(CLAIM)
    assert await gateway.ledger.book(CLAIM, BOOKING) == await gateway.ledger.book(CLAIM, BOOKING) == ("booked", b"yes")
    assert int(await gateway.redis.get("cs:reserved:default")) == 600


async def test_an_answer_under_an_expired_claim_keeps_its_body(gateway: Gateway) -> None:
    """A booking that outlived its claim is still told from another body under the same key."""
    await gateway.ledger.book(CLAIM, BOOKING)
    with pytest.raises(KeyMismatch):
        await gateway.ledger.claim(replace(CLAIM, body_sha="another", token="d2"))


async def test_a_bug_is_loud_and_answers_all_the_same(gateway: Gateway) -> None:
    """200 without contact as while Redis is away, but logged as an error and counted."""
    gateway.decision.decide = _with_cents(gateway, -5)  # type: ignore[method-assign]
    before = bugs()
    with capture_logs() as logs:
        async with gateway.client() as client:
            answer = await client.post("/v1/retain", json=body())
    assert answer.status_code == 200
    assert answer.json()["baseline_reason"] == "ledger_unavailable"
    assert bugs() == before + 1
    assert [log["log_level"] for log in logs if log["event"] == "ledger.command_refused"] == ["error"]


def _with_cents(gateway: Gateway, cents: int) -> Any:
    decide = gateway.decision.decide

    async def decided(*args: Any) -> Any:
        answer = await decide(*args)
        answer.reserved_cents = cents
        return answer

    return decided


@pytest.mark.parametrize("error", [ResponseError("WRONGTYPE"), ResponseError("NOSCRIPT"), DataError("None")])
async def test_errors_that_only_a_bug_can_cause_are_counted(error: Exception) -> None:
    before = bugs()
    with pytest.raises(LedgerUnavailable):
        async with available():
            raise error
    assert bugs() == before + 1


async def test_states_of_redis_are_no_bugs(gateway: Gateway, redis_instance: RedisServer) -> None:
    """Out of memory, read-only and busy: real refusals, plain and from within a script."""
    before = bugs()
    await gateway.redis.config_set("maxmemory", 1)
    await _refused(gateway)
    await gateway.redis.config_set("maxmemory", 0)
    await gateway.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    await _refused(gateway)
    await gateway.redis.execute_command("REPLICAOF", "NO", "ONE")
    await gateway.redis.config_set("lua-time-limit", 10)
    endless = asyncio.create_task(gateway.redis.eval("while true do end", 0))
    await asyncio.sleep(0.2)
    await _refused(gateway)
    await gateway.redis.script_kill()
    with pytest.raises(ResponseError):
        await endless
    assert bugs() == before


async def _refused(gateway: Gateway) -> None:
    with pytest.raises(LedgerUnavailable):
        await gateway.ledger.claim(CLAIM)
    with pytest.raises(LedgerUnavailable):
        await gateway.ledger.store_answer(CLAIM, b"answer")
