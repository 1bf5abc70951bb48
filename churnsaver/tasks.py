"""Ending background tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


async def stop_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels `tasks` and returns when all have ended.

    Python 3.11's `asyncio.wait_for`, on which redis-py builds its timeouts, can swallow a cancellation that
    arrives in the moment its result does (python/cpython#86296), so one that lives on is cancelled again.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.2)
