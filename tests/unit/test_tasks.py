"""Ending background tasks, also those that do not hear a cancellation at first."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from churnsaver import tasks
from churnsaver.tasks import stop_tasks


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.1)


async def deaf(times: int) -> None:
    """Lives until it is cancelled once more than `times`, as a swallowed cancellation makes it."""
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60.0)
    await asyncio.sleep(60.0)


async def test_what_swallows_a_cancellation_is_cancelled_again() -> None:
    task = asyncio.create_task(deaf(1))
    await asyncio.sleep(0)
    await stop_tasks([task])
    assert task.cancelled()


async def test_a_caller_that_is_stopped_itself_ends_its_own_tasks_first() -> None:
    """Its stopper cancels it again while it waits for a deaf task, which must not live on unseen."""
    inner = asyncio.create_task(deaf(3))

    async def outer() -> None:
        try:
            await asyncio.sleep(60.0)
        finally:
            await stop_tasks([inner])

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    await stop_tasks([task])
    assert inner.cancelled()
    assert task.cancelled()


async def test_the_caller_is_told_that_it_was_cancelled_meanwhile() -> None:
    inner = asyncio.create_task(deaf(1))
    stopping = asyncio.create_task(stop_tasks([inner]))
    await asyncio.sleep(0.01)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert inner.cancelled()
