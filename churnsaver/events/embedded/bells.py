"""Waking those who wait for messages of a subscription."""

from __future__ import annotations

import asyncio
import contextlib


class Bells:
    """One bell for each subscription.

    Take the event from `bell` before looking for messages, and wait for it after: what arrives in between
    rings it.

    Attributes:
        closed: the server stops; nobody should wait any more.
    """

    def __init__(self) -> None:
        self.closed = False
        self._events: dict[str, asyncio.Event] = {}

    def bell(self, name: str) -> asyncio.Event:
        """The event of the next ring."""
        return self._events.setdefault(name, asyncio.Event())

    def ring(self, name: str) -> None:
        """Wakes everyone who waits."""
        if event := self._events.pop(name, None):
            event.set()

    def close(self) -> None:
        """Wakes everyone for good."""
        self.closed = True
        for name in list(self._events):
            self.ring(name)


async def rung(event: asyncio.Event, timeout_s: float) -> None:
    """Waits for a ring, at most so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
