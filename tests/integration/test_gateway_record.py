"""What a decision's record says: arms and their propensities, and enough to decide again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.eligibility import ContactState, mask_reasons
from churnsaver.domain.observation import pad_history
from churnsaver.domain.scorecard import Scorecard
from churnsaver.domain.world import World
from churnsaver.rpc.channels import open_channel
from churnsaver.settings import ExperimentSettings
from services.gateway.baseline import propensity_threshold
from services.gateway.contract import KillSwitchRequest
from services.gateway.downstream import GrpcDecision, Unavailable
from services.gateway.upkeep import rebuild, send_unsent
from tests.conftest import RedisServer
from tests.support.gateway import SCORECARD, Gateway, body

SHARES = ExperimentSettings(baseline=0.2, holdout=0.3)
DOWN = Unavailable("service: UNAVAILABLE")

Opened = Callable[..., Any]


@pytest.fixture
def opened(redis_instance: RedisServer, tmp_path: Path) -> Opened:
    """Opens a gateway whose ledger is open and whose switch is off."""

    @asynccontextmanager
    async def open_gateway(**overrides: Any) -> AsyncIterator[Gateway]:
        gateway = Gateway(redis_instance.url, tmp_path / "journal", **overrides)
        await rebuild(gateway.ledger, gateway.journal)
        await switch(gateway, "off")
        yield gateway
        await gateway.close()

    return open_gateway


async def switch(gateway: Gateway, state: Any, scope: Any = "baseline") -> None:
    await gateway.kill_switch.write(KillSwitchRequest(state=state, scope=scope, reason="test"))


async def decide(gateway: Gateway, customer: str = "c1", **changes: Any) -> dict[str, Any]:
    async with gateway.client() as client:
        answer = await client.post("/v1/retain", json=body(customer, f"for-{customer}", **changes))
    assert answer.status_code == 200, answer.text
    decided: dict[str, Any] = answer.json()
    return decided


async def record_of(gateway: Gateway, answer: dict[str, Any]) -> dict[str, Any]:
    return await gateway.records.get(answer["decision_id"])


async def shares_recorded(gateway: Gateway) -> dict[str, float]:
    """The arms that thirty customers got, each with the one propensity that was recorded of it."""
    found: dict[str, set[float]] = {}
    for i in range(30):
        answer = await decide(gateway, f"c{i}")
        assert answer["arm"] != "holdout" or answer["decision"]["contact"] is False
        record = await record_of(gateway, answer)
        found.setdefault(answer["arm"], set()).add(record["propensity"]["arm"])
        parts = record["propensity"]
        assert parts["total"] == pytest.approx(parts["arm"] * parts["policy"] * parts["message"])
    assert all(len(shares) == 1 for shares in found.values())
    return {arm: shares.pop() for arm, shares in found.items()}


async def test_shares_while_the_experiment_runs(opened: Opened) -> None:
    """Each arm's propensity is its share."""
    async with opened(experiment=SHARES) as gateway:
        assert await shares_recorded(gateway) == pytest.approx({"holdout": 0.3, "baseline": 0.2, "champion": 0.5})


async def test_baseline_for_all_but_the_holdout_under_the_switch(opened: Opened) -> None:
    """Whoever is no holdout gets the baseline then, so with the probability of being none."""
    async with opened(experiment=SHARES) as gateway:
        await switch(gateway, "on")
        assert await shares_recorded(gateway) == pytest.approx({"holdout": 0.3, "baseline": 0.7})


async def test_baseline_for_all_but_the_holdout_when_forced(opened: Opened) -> None:
    """FORCE_BASELINE, and a switch that nobody knows."""
    async with opened(experiment=SHARES, force_baseline=True) as gateway:
        assert await shares_recorded(gateway) == pytest.approx({"holdout": 0.3, "baseline": 0.7})


async def test_holdout_while_the_switch_is_unknown(redis_instance: RedisServer, tmp_path: Path) -> None:
    """A gateway that has never read the switch."""
    gateway = Gateway(redis_instance.url, tmp_path / "journal", experiment=SHARES)
    await rebuild(gateway.ledger, gateway.journal)
    assert await shares_recorded(gateway) == pytest.approx({"holdout": 0.3, "baseline": 0.7})
    await gateway.close()


async def test_decision_down_keeps_the_experiments_own_baseline(opened: Opened) -> None:
    """The baseline arm never asks the decision service; only the champion's customers fall back.

    Both are baseline customers, and the record tells them apart by the reason.
    """
    async with opened(experiment=SHARES) as gateway:
        gateway.decision.down = DOWN
        answers = [await decide(gateway, f"c{i}") for i in range(30)]
        arms = {(answer["arm"], answer["baseline_reason"]) for answer in answers}
        assert arms == {
            ("holdout", "experiment"),
            ("baseline", "experiment"),
            ("baseline", "decision_unavailable"),
        }
        fallen = next(answer for answer in answers if answer["baseline_reason"] == "decision_unavailable")
        assert (await record_of(gateway, fallen))["propensity"]["arm"] == pytest.approx(0.7)


async def test_holdout_stays_holdout_without_the_ledger(opened: Opened, redis_instance: RedisServer) -> None:
    """What waits in the journal says so too."""
    async with opened(experiment=SHARES) as gateway:
        redis_instance.kill()
        answers = [await decide(gateway, f"c{i}") for i in range(12)]
        assert {answer["baseline_reason"] for answer in answers} == {"ledger_unavailable"}
        assert {answer["arm"] for answer in answers} == {"holdout", "baseline"}
        redis_instance.start()
        await send_unsent(gateway.ledger, gateway.journal)
        for answer in answers:
            expected = 0.3 if answer["arm"] == "holdout" else 0.7
            assert (await record_of(gateway, answer))["propensity"]["arm"] == pytest.approx(expected)


async def test_a_policy_record_names_features_and_every_model(opened: Opened) -> None:
    """What was read, what took part, and no more: columns that are no features are not kept."""
    attributes = {"customer": "secret", "months": 3, "monthly": 50.0, "plan": "basic", "hobby": "chess"}
    async with opened() as gateway:
        record = await record_of(gateway, await decide(gateway, attributes=attributes))
    assert record["features"] == {"months": 3, "monthly": 50.0, "plan": "basic", "note": None}
    assert record["versions"] == {
        "policy": "policy-test",
        "risk": "risk-test",
        "acceptance": "acceptance-test",
        "generator": "generator-test",
        "shield": "shield-test",
    }
    assert set(record["sha256"]) == {"policy", "risk", "acceptance"}
    assert record["observation"] == [0.7, 0.1]
    assert len(orjson.dumps(record | {"answer": None})) < 2_000


@pytest.mark.parametrize("scope", ["baseline", "no_contact"])
async def test_a_baseline_record_can_be_decided_again(opened: Opened, scope: str) -> None:
    """Law 2: the record and the checkpoint that it names give the same mask, risk and action."""
    async with opened() as gateway:
        await switch(gateway, "on", scope)
        record = await record_of(gateway, await decide(gateway))
        world = gateway.world
    assert record["versions"]["risk"] == SCORECARD.checkpoint_version
    assert record["sha256"] == {"risk": SCORECARD.checkpoint_sha256}
    assert replayed(world, SCORECARD, record) == (record["mask_reasons"], record["risk"], record["action"]["index"])
    assert record["action"]["index"] > 0 or scope == "no_contact"


def replayed(world: World, scorecard: Scorecard, record: dict[str, Any]) -> tuple[list[int], float, int]:
    """Mask, risk and action of a baseline decision, from its record alone."""
    state, features = record["contact_state"], record["features"]
    contact = ContactState(
        consent=np.array([state["consent"]]),
        do_not_contact=np.array([state["opted_out"]]),
        hours_since_contact=pad_history(state["hours_since_contact"]),
        local_hour_at_send=np.array([state["local_hour_at_send"]]),
        monthly_usd=np.array([scorecard.dataset.monthly_usd(features)]),
        contact_cost_cents=np.array([state["contact_cost_cents"]]),
        budget_left_cents=np.array([state["budget_left_cents"]]),
    )
    reasons, risk = mask_reasons(world, contact)[0], scorecard.risk(features)
    action = propensity_threshold(ActionSpace(world), scorecard, risk, reasons)
    forbidden = record["nobody_contacted"] or record["arm"] == "holdout"
    return reasons.tolist(), risk, 0 if forbidden else action.index


async def test_a_hanging_decision_service_is_unavailable(opened: Opened) -> None:
    """It listens and never answers: the request still had time, so the deadline is not the reason."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        channel = open_channel(f"127.0.0.1:{silent.getsockname()[1]}")
        async with opened() as gateway:
            gateway.decision.decide = GrpcDecision(channel).decide  # type: ignore[method-assign]
            answer = await decide(gateway)
        await channel.close()
    assert answer["baseline_reason"] == "decision_unavailable"
    assert answer["decision"]["contact"] is True


async def test_deadline_is_the_reason_only_where_it_is_used_up(opened: Opened) -> None:
    """The ledger took all the time, so decision is not even asked."""
    async with opened(deadline_ms=20) as gateway:
        claim = gateway.ledger.claim

        async def slowly(*args: Any) -> Any:
            await asyncio.sleep(0.03)
            return await claim(*args)

        gateway.ledger.claim = slowly  # type: ignore[method-assign]
        answer = await decide(gateway)
        assert (answer["mode"], answer["baseline_reason"]) == ("baseline", "deadline")
        assert gateway.decision.seeds == []


async def test_a_refused_booking_is_worth_what_was_answered(opened: Opened) -> None:
    """The offer that the budget refused had a value; contacting nobody has none. So where no text passes."""
    async with opened() as gateway:
        budget = gateway.world.campaigns["default"].budget_cents
        await gateway.redis.set("cs:reserved:default", budget - 100)
        refused = await decide(gateway, "c1")
        assert refused["decision"]["masked"] == {"discount_20": "budget"}
        gateway.shield.forbidden = {"Hi"}
        blocked = await decide(gateway, "c2")
    for answer in (refused, blocked):
        assert answer["decision"]["contact"] is False
        assert answer["decision"]["expected_value_usd"] == 0.0
