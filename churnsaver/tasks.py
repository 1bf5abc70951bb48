"""Ending background tasks for certain, and slow calls that hold up neither their caller nor requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

WORKER_NICENESS = 10
# Longer than what a task does at its end (a call to Redis, Pub/Sub's farewell) is given time for.
CANCEL_AGAIN_S = 3.0


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


def giving_way(call: Callable[..., Result], *args: Any) -> Result:
    """The result of a call in a thread of low priority, for models that work beside requests.

    CTranslate2 starts its threads when a model is loaded, and a thread inherits the priority of the one that starts it.
    """
    with ThreadPoolExecutor(1, initializer=give_way) as worker:
        return worker.submit(call, *args).result()


def give_way() -> None:
    """Lowers the calling thread's priority: on Linux a thread has its own, and those it starts inherit it."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICENESS)


async def stop_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels `tasks` and returns when all have ended.

    Python 3.11's `asyncio.wait_for`, on which redis-py builds its timeouts, can swallow a cancellation that
    arrives in the moment its result does (python/cpython#86296), so one that lives on is cancelled again. That
    reaches callers that are themselves being stopped: they end their own tasks first, or these would live on unseen.
    """
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
