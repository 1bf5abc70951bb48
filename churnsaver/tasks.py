"""Ending background tasks for certain, and waiting for slow calls without being held up by them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection
from typing import Any, TypeVar

Result = TypeVar("Result")


async def in_thread(call: Callable[..., Result], *args: Any) -> Result:
    """The result of a blocking call in a thread that does not keep the process from ending.

    `asyncio.to_thread` waits for its threads at exit, and a client that retries may take longer than a drain.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def finish(result: Result | None, error: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = call(*args)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, daemon=True, name=getattr(call, "__name__", "call")).start()
    return await future


async def stop_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels `tasks` and returns when all have ended.

    Python 3.11's `asyncio.wait_for`, on which redis-py builds its timeouts, can swallow a cancellation that
    arrives in the moment its result does (python/cpython#86296), so one that lives on is cancelled again.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.2)
