"""Tasks that hand messages on by themselves, one for each subscription that asks for it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from churnsaver.events.embedded.bells import Bells
from churnsaver.events.embedded.broker import Broker
from churnsaver.events.embedded.subscription import Subscription
from churnsaver.tasks import stop_tasks


class Deliverers(ABC):
    """One task for each subscription that is delivered in one way."""

    def __init__(self, broker: Broker, bells: Bells) -> None:
        self._broker, self._bells = broker, bells
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    @abstractmethod
    def destination(self, subscription: Subscription) -> str:
        """Where its messages go; empty where they are not delivered in this way."""

    @abstractmethod
    async def deliver_all(self, subscription: Subscription) -> None:
        """Until cancelled: takes messages, delivers them and acknowledges them."""

    async def reconcile(self) -> None:
        """Starts and stops tasks, so that they are those that the subscriptions ask for."""
        wanted = {
            (name, destination): subscription
            for name, subscription in self._broker.state.subscriptions.items()
            if (destination := self.destination(subscription))
        }
        gone = [self._tasks.pop(key) for key in self._tasks.keys() - wanted.keys()]
        await stop_tasks(gone)
        for key in wanted.keys() - self._tasks.keys():
            self._tasks[key] = asyncio.create_task(self.deliver_all(wanted[key]))

    async def close(self) -> None:
        """Stops them all; what was not acknowledged is delivered again after a restart."""
        await stop_tasks(self._tasks.values())
