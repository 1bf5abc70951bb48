"""Publishing events in the background: a caller never waits, and never hears that Pub/Sub is down."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque

import structlog
from google.api_core.exceptions import AlreadyExists, NotFound
from google.pubsub_v1 import PublisherAsyncClient
from google.pubsub_v1.types import PubsubMessage
from prometheus_client import Counter

from churnsaver.events.clients import PubSubError, open_publisher, open_publisher_now, publish
from churnsaver.events.where import PubSub
from churnsaver.rpc.stubs.events.v1.checkpoint_event_pb2 import CheckpointEvent
from churnsaver.tasks import stop_tasks

log = structlog.get_logger()

PUBLISHED = Counter("checkpoint_events_published_total", "Events about checkpoints that Pub/Sub took.")
DROPPED = Counter("checkpoint_events_dropped_total", "Events about checkpoints given up, the oldest first.")
QUEUE_LENGTH = 100
FLUSH_S = 1.0
RETRY_S = (0.2, 5.0)  # the first wait between tries, and the longest


class EventPublisher:
    """Publishes to one topic, which it makes where it is missing.

    Args:
        pubsub: from `find_pubsub`.
    """

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub
        self._queue: deque[CheckpointEvent] = deque()
        self._wanted = asyncio.Event()
        self._empty = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    def publish(self, event: CheckpointEvent) -> None:
        """Queues an event and returns; the oldest is dropped where a hundred wait. Needs a running loop."""
        if len(self._queue) >= QUEUE_LENGTH:
            self._queue.popleft()
            DROPPED.inc()
        self._queue.append(event)
        self._wanted.set()
        self._empty.clear()
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())

    async def close(self) -> None:
        """Gives what waits one more second, then drops it."""
        if self._sender is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._empty.wait()
        await stop_tasks([self._sender])
        DROPPED.inc(len(self._queue))
        self._queue.clear()

    def publish_now(self, event: CheckpointEvent, timeout_s: float) -> bool:
        """Publishes without an event loop; whether Pub/Sub took it within `timeout_s`."""
        taken: list[bool] = []
        # In a thread, because looking for credentials knows no deadline.
        thread = threading.Thread(target=lambda: taken.append(self._try_now(event, timeout_s)), daemon=True)
        thread.start()
        thread.join(timeout_s)
        return taken == [True]

    def _try_now(self, event: CheckpointEvent, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        topic, messages = self._pubsub.topic_path, [PubsubMessage(data=event.SerializeToString())]
        try:
            with open_publisher_now(self._pubsub) as client:
                try:
                    client.publish(topic=topic, messages=messages, timeout=timeout_s, retry=None)
                except NotFound:
                    with contextlib.suppress(AlreadyExists):
                        client.create_topic(name=topic, timeout=max(end - time.monotonic(), 0.01), retry=None)
                    client.publish(
                        topic=topic, messages=messages, timeout=max(end - time.monotonic(), 0.01), retry=None
                    )
        except PubSubError:
            return False
        PUBLISHED.inc()
        return True

    async def _send_all(self) -> None:
        """Until cancelled: sends what is queued, in order, as often as it takes."""
        wait_s, down = RETRY_S[0], False
        while True:
            try:
                async with open_publisher(self._pubsub) as client:
                    while True:
                        await self._wanted.wait()
                        await self._send(client)
                        if down:
                            log.info("events.publishing_again", topic=self._pubsub.topic_path)
                        wait_s, down = RETRY_S[0], False
            except PubSubError as error:
                if not down:
                    log.warning("events.unreachable", topic=self._pubsub.topic_path, reason=str(error))
                down = True
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, RETRY_S[1])

    async def _send(self, client: PublisherAsyncClient) -> None:
        """Sends all that waits in one request; it stays queued until Pub/Sub took it."""
        events = list(self._queue)
        messages = [PubsubMessage(data=event.SerializeToString()) for event in events]
        await publish(client, self._pubsub, messages)
        PUBLISHED.inc(len(events))
        sent = {event.event_id for event in events}
        # Some may have been dropped meanwhile, and others have come.
        self._queue = deque(event for event in self._queue if event.event_id not in sent)
        if not self._queue:
            self._wanted.clear()
            self._empty.set()
