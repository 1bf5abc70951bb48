"""Events over a real Pub/Sub: late, twice, out of order, unreadable, and while it is down."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import uuid
from collections.abc import AsyncIterator

import google.auth
import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import DefaultCredentialsError
from google.pubsub_v1.types import PubsubMessage
from prometheus_client import Counter
from structlog.testing import capture_logs

from churnsaver.events import CheckpointEvent, EventPublisher, PubSub, checkpoint_events, new_event, subscriber
from churnsaver.events.clients import open_publisher, open_subscriber
from churnsaver.events.publisher import DROPPED, QUEUE_LENGTH
from tests.conftest import free_port
from tests.support.pubsub import PubSubServer


@pytest.fixture
def pubsub(pubsub_server: PubSubServer) -> PubSub:
    """A topic that is not there yet."""
    return PubSub("test-project", f"events-{uuid.uuid4().hex[:8]}", pubsub_server.address)


@pytest.fixture
async def publisher(pubsub: PubSub) -> AsyncIterator[EventPublisher]:
    publisher = EventPublisher(pubsub)
    yield publisher
    await publisher.close()


def event(version: str = "policy-1") -> CheckpointEvent:
    return new_event(CheckpointEvent.TYPE_PUBLISHED, "policy", version, alias="champion", source="a test")


async def subscriptions(pubsub: PubSub) -> list[str]:
    """The topic's subscriptions; none while Pub/Sub or the topic is not there."""
    with contextlib.suppress(GoogleAPICallError):
        async with open_publisher(pubsub) as client:
            pages = await client.list_topic_subscriptions(topic=pubsub.topic_path, timeout=2, retry=None)
            return [name async for name in pages]
    return []


async def subscribed(pubsub: PubSub, count: int = 1) -> list[str]:
    """Waits until there are so many subscriptions."""
    async with asyncio.timeout(10):
        while len(names := await subscriptions(pubsub)) != count:  # noqa: ASYNC110 - the server cannot call us
            await asyncio.sleep(0.05)
    return names


async def take(events: AsyncIterator[CheckpointEvent], count: int = 1, timeout_s: float = 10.0) -> list[str]:
    """Versions of the next events."""
    async with asyncio.timeout(timeout_s):
        return [(await anext(events)).version for _ in range(count)]


async def publish_until_taken(publisher: EventPublisher, events: AsyncIterator[CheckpointEvent]) -> None:
    """Hints may be lost while a subscription is made again, so more than one is sent."""
    taking = asyncio.create_task(take(events, timeout_s=20))
    while not taking.done():
        publisher.publish(event("again"))
        await asyncio.wait([taking], timeout=0.2)
    assert await taking in (["meanwhile"], ["again"])


async def publish_raw(pubsub: PubSub, *contents: bytes) -> None:
    async with open_publisher(pubsub) as client:
        messages = [PubsubMessage(data=content) for content in contents]
        await client.publish(topic=pubsub.topic_path, messages=messages, timeout=5)


async def test_every_process_gets_the_event_whole(pubsub: PubSub, publisher: EventPublisher) -> None:
    async with checkpoint_events(pubsub, "decision") as first, checkpoint_events(pubsub, "decision") as second:
        assert len(set(await subscribed(pubsub, 2))) == 2
        sent = event()
        publisher.publish(sent)
        async with asyncio.timeout(10):
            assert await anext(first) == sent
            assert await anext(second) == sent
    await subscribed(pubsub, 0)  # nothing is left behind


async def test_subscription_expires_with_its_process(pubsub: PubSub) -> None:
    async with checkpoint_events(pubsub, "decision/0"), open_subscriber(pubsub) as client:
        (name,) = await subscribed(pubsub)
        assert "/subscriptions/events-decision-0-" in name
        kept = await client.get_subscription(subscription=name, timeout=5)
        assert kept.expiration_policy.ttl.total_seconds() == 86_400
        assert kept.message_retention_duration.total_seconds() == 600


async def test_twice_and_out_of_order_does_no_harm(pubsub: PubSub) -> None:
    older, newer = event("policy-1"), event("policy-2")
    async with checkpoint_events(pubsub, "decision") as events:
        await subscribed(pubsub)
        await publish_raw(pubsub, *(each.SerializeToString() for each in (newer, older, newer)))
        assert sorted(await take(events, 3)) == ["policy-1", "policy-2", "policy-2"]


async def test_what_cannot_be_used_is_logged_and_left_out(pubsub: PubSub, publisher: EventPublisher) -> None:
    future, unknown_type, unknown_kind = event(), event(), event()
    future.schema_version = 2
    unknown_type.type = 99  # type: ignore[assignment]
    unknown_kind.kind = "horoscope"
    with capture_logs() as logs:
        async with checkpoint_events(pubsub, "decision") as events:
            await subscribed(pubsub)
            unusable = (future, unknown_type, unknown_kind, CheckpointEvent())
            await publish_raw(pubsub, b"\xff\xff", *(each.SerializeToString() or b"\x00" for each in unusable))
            await asyncio.sleep(0.3)
            publisher.publish(event("good"))
            assert await take(events) == ["good"]
    reasons = [line["reason"] for line in logs if line["event"] == "events.message_ignored"]
    assert sorted(reasons) == [
        "has schema version 2; this process knows 1",
        "has the unknown kind 'horoscope'",
        "has the unknown type 99",
        "is no checkpoint event",
        "is no checkpoint event",
    ]


async def test_deleted_subscription_is_made_again(
    pubsub: PubSub, publisher: EventPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "PULL_TIMEOUT_S", 1.0)  # the emulator says it only to the next pull
    async with checkpoint_events(pubsub, "decision") as events:
        (name,) = await subscribed(pubsub)
        async with open_subscriber(pubsub) as client:
            await client.delete_subscription(subscription=name, timeout=5)
        await publish_until_taken(publisher, events)


async def test_proxies_are_not_asked(pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with checkpoint_events(pubsub, "decision") as events:
        await subscribed(pubsub)
        assert await asyncio.to_thread(EventPublisher(pubsub).publish_now, event(), 5.0)
        assert await take(events) == ["policy-1"]


async def test_down_and_back(pubsub: PubSub, publisher: EventPublisher, pubsub_server: PubSubServer) -> None:
    with capture_logs() as logs:
        async with checkpoint_events(pubsub, "decision") as events:
            await subscribed(pubsub)
            publisher.publish(event("before"))
            assert await take(events) == ["before"]
            pubsub_server.kill()
            publisher.publish(event("meanwhile"))
            with pytest.raises(TimeoutError):
                await take(events, timeout_s=1.0)
            pubsub_server.start()
            if pubsub_server.kind == "embedded":  # it remembers the subscription, so nothing is lost
                assert await take(events) == ["meanwhile"]
            await publish_until_taken(publisher, events)
    for one in ("events.unreachable", "events.receiving_again"):
        assert [line for line in logs if line["event"] == one and "subscription" in line], one


class TestNobodyThere:
    @pytest.fixture
    def nowhere(self) -> PubSub:
        return PubSub("test-project", "events", f"127.0.0.1:{free_port()}")

    @pytest.fixture
    def silent(self) -> AsyncIterator[PubSub]:
        """Somebody takes connections and never says a word."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield PubSub("test-project", "events", f"127.0.0.1:{listener.getsockname()[1]}")

    async def test_neither_side_blocks_or_raises(self, nowhere: PubSub) -> None:
        started = time.monotonic()
        publisher = EventPublisher(nowhere)
        publisher.publish(event())
        async with checkpoint_events(nowhere, "decision") as events:
            assert time.monotonic() - started < 0.2
            with pytest.raises(TimeoutError):
                await take(events, timeout_s=0.5)
            started = time.monotonic()
        await publisher.close()
        assert time.monotonic() - started < 2.5

    async def test_oldest_are_dropped_and_counted(self, nowhere: PubSub) -> None:
        before = value(DROPPED)
        publisher = EventPublisher(nowhere)
        for number in range(QUEUE_LENGTH + 30):
            publisher.publish(event(f"policy-{number}"))
        assert value(DROPPED) - before == 30
        await publisher.close()
        assert value(DROPPED) - before == QUEUE_LENGTH + 30

    async def test_real_service_without_credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_credentials(**_: object) -> None:
            raise DefaultCredentialsError("none on this machine")

        monkeypatch.setattr(google.auth, "default", no_credentials)
        google_cloud = PubSub("test-project", "events", None)
        with capture_logs() as logs:
            publisher = EventPublisher(google_cloud)
            publisher.publish(event())
            async with checkpoint_events(google_cloud, "decision") as events:
                with pytest.raises(TimeoutError):
                    await take(events, timeout_s=0.5)
            await publisher.close()
        assert [(line["event"], line["reason"]) for line in logs] == [
            ("events.unreachable", "none on this machine")
        ] * 2

    @pytest.mark.parametrize("place", ["nowhere", "silent"])
    def test_publish_now_says_so_in_time(self, place: str, request: pytest.FixtureRequest) -> None:
        publisher = EventPublisher(request.getfixturevalue(place))
        started = time.monotonic()
        assert publisher.publish_now(event(), timeout_s=0.5) is False
        assert time.monotonic() - started < 0.7


def value(counter: Counter) -> float:
    return next(sample.value for metric in counter.collect() for sample in metric.samples if "_total" in sample.name)
