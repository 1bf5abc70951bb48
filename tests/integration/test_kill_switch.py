"""The kill switch over a real Redis (law 5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from churnsaver.tasks import stop_tasks
from services.gateway.contract import BaselineReason, KillSwitchRequest
from services.gateway.kill_switch import KEY, KillSwitch
from tests.conftest import RedisServer
from tests.support.gateway import Gateway

ON = KillSwitchRequest(state="on", reason="test")
OFF = KillSwitchRequest(state="off", reason="test")


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
