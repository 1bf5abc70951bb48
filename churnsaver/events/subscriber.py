"""Receiving events, over a subscription of this process's own that ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator

import structlog
from google.api_core.exceptions import AlreadyExists, DeadlineExceeded, NotFound
from google.protobuf.duration_pb2 import Duration
from google.pubsub_v1 import SubscriberAsyncClient
from google.pubsub_v1.types import ExpirationPolicy, Subscription

from churnsaver.events.clients import CALL_TIMEOUT_S, PubSubError, create_topic, open_subscriber
from churnsaver.events.event import read_event
from churnsaver.events.where import PubSub
from churnsaver.rpc.stubs.events.v1.checkpoint_event_pb2 import CheckpointEvent
from churnsaver.tasks import stop_tasks

log = structlog.get_logger()

PULL_TIMEOUT_S = 20.0
DELETE_TIMEOUT_S = 1.0
QUEUE_LENGTH = 100
RETRY_S = (0.2, 5.0)  # the first wait between tries, and the longest
EXPIRATION_S = 86_400  # a process that was killed leaves its subscription behind for a day, the service's least
RETENTION_S = 600  # an older hint is worth nothing; the service's least, too


@contextlib.asynccontextmanager
async def checkpoint_events(pubsub: PubSub, name: str) -> AsyncIterator[AsyncIterator[CheckpointEvent]]:
    """Events about checkpoints from now on, as an endless iterator; none while Pub/Sub is down.

    Each may come more than once and in any order. Those that cannot be used are logged and left out.

    Args:
        pubsub: from `find_pubsub`.
        name: of this process; its subscription is called after it.
    """
    receiver = _Receiver(pubsub, f"projects/{pubsub.project}/subscriptions/{subscription_id(name)}")
    task = asyncio.create_task(receiver.receive())
    try:
        yield receiver
    finally:
        try:
            await stop_tasks([task])
        finally:
            await receiver.unsubscribe()


def subscription_id(name: str) -> str:
    """An id that no other process has, with who it is in it."""
    readable = re.sub(r"[^A-Za-z0-9-]", "-", f"{name}-{socket.gethostname()}-{os.getpid()}")
    return f"events-{readable[:200]}-{secrets.token_hex(4)}"


class _Receiver(AsyncIterator[CheckpointEvent]):
    """Pulls in the background; iterating takes what has come."""

    def __init__(self, pubsub: PubSub, path: str) -> None:
        self._pubsub, self._path = pubsub, path
        self._events: asyncio.Queue[CheckpointEvent] = asyncio.Queue(QUEUE_LENGTH)
        self._subscribed = False

    async def __anext__(self) -> CheckpointEvent:
        return await self._events.get()

    async def receive(self) -> None:
        """Until cancelled: pulls, and makes the subscription where it is missing."""
        wait_s, down = RETRY_S[0], False
        while True:
            try:
                async with open_subscriber(self._pubsub) as client:
                    await self._subscribe(client)
                    if down:
                        log.info("events.receiving_again", subscription=self._path)
                    wait_s, down = RETRY_S[0], False
                    await self._pull_until_lost(client)
            except PubSubError as error:
                if not down:
                    log.warning("events.unreachable", subscription=self._path, reason=str(error))
                down = True
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_S[1])

    async def unsubscribe(self) -> None:
        """Takes the subscription away, if Pub/Sub is there; it expires otherwise."""
        if self._subscribed:
            with contextlib.suppress(TimeoutError, *PubSubError):
                async with asyncio.timeout(DELETE_TIMEOUT_S), open_subscriber(self._pubsub) as client:
                    await client.delete_subscription(subscription=self._path, timeout=DELETE_TIMEOUT_S, retry=None)

    async def _subscribe(self, client: SubscriberAsyncClient) -> None:
        """Makes the subscription, and the topic where it is missing."""
        subscription = Subscription(
            name=self._path,
            topic=self._pubsub.topic_path,
            expiration_policy=ExpirationPolicy(ttl=Duration(seconds=EXPIRATION_S)),
            message_retention_duration=Duration(seconds=RETENTION_S),
        )
        self._subscribed = True  # even if the answer does not arrive
        with contextlib.suppress(AlreadyExists):
            try:
                await client.create_subscription(subscription, timeout=CALL_TIMEOUT_S, retry=None)
            except NotFound:
                await create_topic(self._pubsub)
                await client.create_subscription(subscription, timeout=CALL_TIMEOUT_S, retry=None)

    async def _pull_until_lost(self, client: SubscriberAsyncClient) -> None:
        try:
            while True:
                for event in await _pull(client, self._path):
                    await self._events.put(event)
        except NotFound:
            log.info("events.subscription_lost", subscription=self._path)


async def _pull(client: SubscriberAsyncClient, path: str) -> list[CheckpointEvent]:
    """Waits for messages, acknowledges them all and returns the events among them.

    They are acknowledged before anyone acts on them: if this process ends in between, its next one starts
    with what the registry says anyway.
    """
    try:
        response = await client.pull(subscription=path, max_messages=100, timeout=PULL_TIMEOUT_S, retry=None)
    except DeadlineExceeded:
        return []  # nothing came in that time
    if not response.received_messages:
        return []
    ack_ids = [received.ack_id for received in response.received_messages]
    await client.acknowledge(subscription=path, ack_ids=ack_ids, timeout=CALL_TIMEOUT_S, retry=None)
    events = []
    for received in response.received_messages:
        try:
            events.append(read_event(received.message.data))
        except ValueError as error:
            log.warning("events.message_ignored", message_id=received.message.message_id, reason=str(error))
    return events
