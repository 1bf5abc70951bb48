"""Arms of an experiment spend from parts of the campaign's budget, so that none changes what another can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from churnsaver.settings import ExperimentSettings
from services.gateway.contract import KillSwitchRequest
from services.gateway.ledger import reserved_by_arm_key, reserved_key
from tests.conftest import RedisServer
from tests.support.gateway import Gateway, body

SHARES = ExperimentSettings(baseline=0.25, holdout=0.2)
CENTS = 600  # of every contact of the policy's stand-in


@pytest.fixture
async def gateway(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    # The baseline's arm asks the decision service too, whose stand-in always contacts.
    gateway = Gateway(redis_instance.url, tmp_path / "journal", experiment=SHARES, baseline="thompson_sampling")
    await gateway.kill_switch.write(KillSwitchRequest(state="off", reason="test"))
    await gateway.kill_switch.refresh()
    await gateway.ledger.open()
    yield gateway
    await gateway.close()


async def retain(gateway: Gateway, *customers: str) -> list[dict[str, Any]]:
    async with gateway.client() as client:
        sent = (client.post("/v1/retain", json=body(each, request_id=f"k-{each}")) for each in customers)
        return [answer.json() for answer in await asyncio.gather(*sent)]


async def reserved(gateway: Gateway) -> tuple[int, dict[str, int]]:
    by_arm = await gateway.redis.hgetall(reserved_by_arm_key("default"))
    total = int(await gateway.redis.get(reserved_key("default")) or 0)
    return total, {arm.decode(): int(cents) for arm, cents in by_arm.items() if int(cents)}


def test_parts_are_by_share_and_never_more_than_the_whole() -> None:
    """The holdout's part stays unspent, so that each arm has as much a customer as without an experiment."""
    assert SHARES.budget_cents("champion", 1000) in (549, 550)
    assert SHARES.budget_cents("baseline", 1000) == 250
    assert ExperimentSettings(holdout=0.1).budget_cents("champion", 10_000) == 9_000
    assert ExperimentSettings().budget_cents("champion", 9_999_999) == 9_999_999
    for whole in range(1000):
        assert SHARES.budget_cents("champion", whole) + SHARES.budget_cents("baseline", whole) <= whole


async def test_an_arm_that_has_spent_its_part_starves_no_other(gateway: Gateway) -> None:
    """The champion has a contact left in its part and gets one; the baseline's customers are contacted as before."""
    whole = gateway.world.campaigns["default"].budget_cents
    part = SHARES.budget_cents("champion", whole)
    await gateway.redis.set(reserved_key("default"), part - CENTS)
    await gateway.redis.hset(reserved_by_arm_key("default"), "champion", part - CENTS)
    answers = await retain(gateway, *(f"c{i}" for i in range(60)))
    contacted = {
        arm: [a["decision"]["contact"] for a in answers if a["arm"] == arm] for arm in ("champion", "baseline")
    }
    assert sum(contacted["champion"]) == 1
    assert len(contacted["champion"]) > 20
    assert all(contacted["baseline"])
    assert len(contacted["baseline"]) > 5
    refused = next(a for a in answers if a["arm"] == "champion" and not a["decision"]["contact"])
    assert refused["decision"]["masked"] == {"discount_20": "budget"}
    total, by_arm = await reserved(gateway)
    assert by_arm == {"champion": part, "baseline": CENTS * len(contacted["baseline"])}
    assert total == sum(by_arm.values())


async def test_the_whole_is_never_overspent(gateway: Gateway) -> None:
    """Also where shares were changed on the way, so that what the arms' parts have left is more than what there is."""
    whole = gateway.world.campaigns["default"].budget_cents
    await gateway.redis.set(reserved_key("default"), whole - 10 * CENTS)
    answers = await retain(gateway, *(f"c{i}" for i in range(60)))
    assert sum(answer["decision"]["contact"] for answer in answers) == 10
    total, by_arm = await reserved(gateway)
    assert (total, sum(by_arm.values())) == (whole, 10 * CENTS)
    record = await gateway.records.get(next(a for a in answers if a["arm"] == "champion")["decision_id"])
    assert record["contact_state"]["budget_shared"] is True


async def test_what_is_left_is_the_arms(gateway: Gateway) -> None:
    """What a decision is made on, and what its record says."""
    whole = gateway.world.campaigns["default"].budget_cents
    await gateway.redis.hset(reserved_by_arm_key("default"), "baseline", 1_000)
    for answer in await retain(gateway, *(f"c{i}" for i in range(12))):
        state = (await gateway.records.get(answer["decision_id"]))["contact_state"]
        part = SHARES.budget_cents(answer["arm"], whole)
        assert (state["arm_budget_cents"], state["budget_shared"]) == (part, False)
        if answer["arm"] == "baseline":
            assert part - 13 * CENTS <= state["budget_left_cents"] <= part - 1_000


async def test_what_is_cancelled_goes_back_to_its_arm(gateway: Gateway) -> None:
    """And what Redis lost comes back to the arm that it was booked for."""
    answers = await retain(gateway, *(f"c{i}" for i in range(12)))
    before = await reserved(gateway)
    assert set(before[1]) == {"champion", "baseline"}
    await gateway.redis.flushall()
    await gateway.ledger.restore([fact for fact in gateway.journal.facts() if hasattr(fact, "arm")])
    assert await reserved(gateway) == before
    await gateway.redis.flushall()
    await gateway.ledger.open()
    one = next(a for a in await retain(gateway, "d1", "d2", "d3", "d4", "d5") if a["arm"] == "baseline")
    _, by_arm = await reserved(gateway)
    async with gateway.client() as client:
        await client.post(f"/v1/decisions/{one['decision_id']}/release", json={"consent": False})
    total, after = await reserved(gateway)
    assert after.get("baseline", 0) == by_arm["baseline"] - CENTS
    assert total == sum(after.values())
    assert len(answers) == 12
