"""The kill switch over a real Redis (law 5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn

from churnsaver.tasks import stop_tasks
from cli.stack import _set_switch_if_unset
from services.gateway import metrics, upkeep
from services.gateway.contract import BaselineReason, KillSwitchRequest
from services.gateway.kill_switch import KEY, AlreadySet, KillSwitch
from services.gateway.upkeep import keep_ledger, rebuild
from tests.conftest import RedisServer, free_port
from tests.support.gateway import Gateway, body

ON = KillSwitchRequest(state="on", reason="test")
OFF = KillSwitchRequest(state="off", reason="test")
NO_CONTACT = KillSwitchRequest(state="on", scope="no_contact", reason="test")
IF_UNSET = {"If-None-Match": "*"}


@pytest.fixture
async def replicas(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[list[KillSwitch]]:
    """Two replicas that follow the same Redis."""
    gateways = [Gateway(redis_instance.url, tmp_path / str(i)) for i in range(2)]
    tasks = [asyncio.create_task(gateway.kill_switch.follow()) for gateway in gateways]
    await asyncio.sleep(0.15)
    yield [gateway.kill_switch for gateway in gateways]
    await stop_tasks(tasks)
    for gateway in gateways:
        await gateway.close()


async def until(condition: object, limit_s: float = 2.0) -> float:
    """Seconds until `condition()` holds."""
    started = time.perf_counter()
    while not condition():  # type: ignore[operator]
        assert time.perf_counter() - started < limit_s, "it never happened"
        await asyncio.sleep(0.002)
    return time.perf_counter() - started


async def test_unset_switch_means_baseline(replicas: list[KillSwitch]) -> None:
    """A missing key is an unknown state, and the safe answer to that is the baseline."""
    assert replicas[0].baseline_reason is BaselineReason.KILL_STATE_UNKNOWN


async def test_every_replica_follows_within_a_quarter_of_a_second(replicas: list[KillSwitch]) -> None:
    """TARGETS.md: 250 ms after the command every replica is on the baseline."""
    await replicas[0].write(OFF)
    await until(lambda: replicas[1].baseline_reason is None)
    await replicas[0].write(ON)
    assert await until(lambda: replicas[1].baseline_reason is BaselineReason.KILL_SWITCH) <= 0.25


async def test_a_change_behind_our_back_is_polled(replicas: list[KillSwitch]) -> None:
    """A lost push costs a poll interval: here the key is set and nothing is published."""
    await replicas[0].write(OFF)
    await replicas[0]._redis.set(KEY, '{"state": "on"}')
    assert await until(lambda: replicas[1].baseline_reason is BaselineReason.KILL_SWITCH) <= 0.25


async def test_last_known_state_outlives_redis(replicas: list[KillSwitch], redis_instance: RedisServer) -> None:
    """An outage changes nothing, its age shows, and the switch works again after a restart."""
    await replicas[0].write(OFF)
    await until(lambda: replicas[1].baseline_reason is None)
    redis_instance.kill()
    await asyncio.sleep(0.3)
    assert replicas[1].baseline_reason is None
    assert replicas[1].age_s >= 0.2
    redis_instance.start()
    await until(lambda: replicas[1].age_s < 0.1)
    await replicas[0].write(ON)
    await until(lambda: replicas[1].baseline_reason is BaselineReason.KILL_SWITCH)


async def test_nonsense_in_the_key_means_baseline(replicas: list[KillSwitch]) -> None:
    """Somebody wrote the key by hand and misspelt it."""
    await replicas[0].write(OFF)
    await replicas[0]._redis.set(KEY, "of")
    await until(lambda: replicas[0].baseline_reason is BaselineReason.KILL_STATE_UNKNOWN)


async def test_force_baseline_wins_over_everything(redis_instance: RedisServer, tmp_path: Path) -> None:
    """FORCE_BASELINE=1 holds while the switch says off."""
    gateway = Gateway(redis_instance.url, tmp_path, force_baseline=True)
    await gateway.kill_switch.write(OFF)
    assert gateway.kill_switch.baseline_reason is BaselineReason.FORCE_BASELINE
    await gateway.close()


@pytest.fixture
async def gateway(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway whose ledger is open and whose switch was never set."""
    built = Gateway(redis_instance.url, tmp_path)
    await rebuild(built.ledger, built.journal)
    yield built
    await built.close()


@pytest.mark.parametrize("left", [None, "of"])
async def test_a_lost_state_contacts_nobody_if_nobody_was_contacted(gateway: Gateway, left: str | None) -> None:
    """The key vanished or is garbage: what was no_contact stays so, and the route says what was known."""
    await gateway.kill_switch.write(NO_CONTACT)
    await gateway.redis.delete(KEY)
    if left:
        await gateway.redis.set(KEY, left)
    await gateway.kill_switch.refresh()
    async with gateway.client() as client:
        answer = (await client.post("/v1/retain", json=body())).json()
        switch = (await client.get("/v1/kill-switch")).json()
    assert answer["decision"]["contact"] is False
    assert answer["baseline_reason"] == switch["baseline_reason"] == "kill_state_unknown"
    assert switch["state"] == "unknown"
    assert (switch["last_known"]["state"], switch["last_known"]["scope"]) == ("on", "no_contact")


async def test_a_lost_state_is_the_baseline_otherwise(gateway: Gateway) -> None:
    """As it was off, the scorecard contacts."""
    await gateway.kill_switch.write(OFF)
    await gateway.redis.delete(KEY)
    await gateway.kill_switch.refresh()
    async with gateway.client() as client:
        answer = (await client.post("/v1/retain", json=body())).json()
    assert answer["baseline_reason"] == "kill_state_unknown"
    assert answer["decision"]["contact"] is True


async def test_only_a_switch_without_a_state_is_set_if_unset(gateway: Gateway) -> None:
    """412 where the key holds anything, garbage included, and where this gateway knew a state."""
    off = OFF.model_dump()
    async with gateway.client() as client:
        unset = await client.get("/v1/kill-switch")
        await gateway.redis.set(KEY, "of")
        garbage = await client.put("/v1/kill-switch", json=off, headers=IF_UNSET)
        assert await gateway.redis.getdel(KEY) == b"of"
        first = await client.put("/v1/kill-switch", json=off, headers=IF_UNSET)
        await client.put("/v1/kill-switch", json=NO_CONTACT.model_dump())
        there = await client.put("/v1/kill-switch", json=off, headers=IF_UNSET)
        await gateway.redis.delete(KEY)
        await gateway.kill_switch.refresh()
        lost = await client.put("/v1/kill-switch", json=off, headers=IF_UNSET)
        wrong = await client.put("/v1/kill-switch", json=off, headers={"If-None-Match": '"etag"'})
    assert unset.json() == unset.json() | {"state": "unknown", "last_known": None}
    assert first.status_code == 200
    for refused in (garbage, there, lost):
        assert refused.status_code == 412
        assert refused.json()["type"].endswith("kill-switch-already-set")
    assert wrong.status_code == 422
    assert await gateway.redis.get(KEY) is None


async def test_a_fresh_gateway_learns_the_state_that_it_may_not_overwrite(gateway: Gateway) -> None:
    """The key was set while this gateway had not read it yet."""
    await gateway.redis.set(KEY, '{"state": "on"}')
    async with gateway.client() as client:
        refused = await client.put("/v1/kill-switch", json=OFF.model_dump(), headers=IF_UNSET)
        switch = (await client.get("/v1/kill-switch")).json()
    assert refused.status_code == 412
    assert switch["state"] == "on"


@pytest.fixture
async def served(gateway: Gateway) -> AsyncIterator[str]:
    """The URL of the gateway, served as the command meets it."""
    config = uvicorn.Config(gateway.app(), port=free_port(), log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started, 5.0)
    yield f"http://127.0.0.1:{config.port}"
    server.should_exit = True
    await serving


async def test_up_sets_a_switch_that_never_had_a_state(
    gateway: Gateway, served: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second `up` finds it set and says nothing."""
    for _ in range(2):
        await asyncio.to_thread(_set_switch_if_unset, served)
        assert gateway.kill_switch.baseline_reason is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("left", [None, "of"])
async def test_up_does_not_overwrite_a_lost_state(
    gateway: Gateway, served: str, capsys: pytest.CaptureFixture[str], left: str | None
) -> None:
    """The key vanished under a gateway that knew it, or is garbage: one warning says which command sets it."""
    await gateway.kill_switch.write(NO_CONTACT)
    await gateway.redis.delete(KEY)
    if left:
        await gateway.redis.set(KEY, left)
    await gateway.kill_switch.refresh()
    await asyncio.to_thread(_set_switch_if_unset, served)
    assert gateway.kill_switch.nobody_contacted
    assert await gateway.redis.get(KEY) == (left.encode() if left else None)
    assert "churn-saver kill off" in capsys.readouterr().err


async def test_following_survives_any_error(replicas: list[KillSwitch], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in one round is logged and counted; the next round reads again."""
    counter = metrics.BACKGROUND_FAILURES.labels("kill_switch.poll")
    before = counter._value.get()

    async def broken(_: KillSwitch) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as failing:
        failing.setattr(KillSwitch, "refresh", broken)
        await until(lambda: counter._value.get() > before)
    await replicas[0].write(ON)
    await until(lambda: replicas[1].baseline_reason is BaselineReason.KILL_SWITCH)


async def test_upkeep_of_the_ledger_survives_any_error(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it no outage would ever end."""
    counter = metrics.BACKGROUND_FAILURES.labels("keep_ledger")
    before = counter._value.get()

    async def broken() -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(upkeep, "ROUND_S", 0.01)
    monkeypatch.setattr(upkeep, "GATHERING_S", 0.05)
    keeping = asyncio.create_task(keep_ledger(gateway.ledger, gateway.journal))
    with monkeypatch.context() as failing:
        failing.setattr(gateway.ledger, "generation", broken)
        await until(lambda: counter._value.get() > before)
    await gateway.redis.flushall()
    for _ in range(100):
        await asyncio.sleep(0.02)
        if await gateway.ledger.generation():
            break
    assert await gateway.ledger.generation()
    await stop_tasks([keeping])


async def test_nobody_is_contacted_after_redis_and_gateway_were_lost_together(
    redis_instance: RedisServer, tmp_path: Path
) -> None:
    """What the switch last was is on the gateway's disk; the next process knows it, and `up` may not overwrite it."""
    before = Gateway(redis_instance.url, tmp_path / "state")
    await before.kill_switch.write(NO_CONTACT)
    await before.redis.flushall()
    await before.close()
    after = Gateway(redis_instance.url, tmp_path / "state")
    await after.kill_switch.refresh()
    assert after.kill_switch.baseline_reason is BaselineReason.KILL_STATE_UNKNOWN
    assert after.kill_switch.nobody_contacted
    with pytest.raises(AlreadySet):
        await after.kill_switch.write(OFF, only_if_unset=True)
    await after.close()
