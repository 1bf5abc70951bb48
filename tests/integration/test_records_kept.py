"""Decisions and outcomes in the folder that stands for the bucket, as `up` has Pub/Sub write them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from google.api_core.exceptions import InvalidArgument
from google.pubsub_v1.types import CloudStorageConfig, PubsubMessage, Subscription

from churnsaver.events import PubSub
from churnsaver.events.clients import create_topic, open_publisher, open_subscriber, publish
from churnsaver.events.records import keep_records
from churnsaver.settings import EventsSettings
from tests.support.pubsub import PubSubServer

PREFIX = ("pubsub", "buckets", "local", "records")


def lines(folder: Path, topic: str, count: int) -> list[dict[str, int]]:
    """The first `count` records of a topic, when they are there."""
    found: list[dict[str, int]] = []
    end = time.monotonic() + 20
    while len(found) < count and time.monotonic() < end:
        paths = sorted(folder.joinpath(*PREFIX, topic).rglob("*.jsonl"))
        found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
        time.sleep(0.05)
    return found


async def test_written_once_and_kept_over_a_restart(tmp_path: Path) -> None:
    """What was published is in the bucket's folder, also when the subscription is asked for twice."""
    server = PubSubServer("embedded", tmp_path)
    server.start()
    try:
        events = EventsSettings(
            project="p", topic="t", decisions_topic="decisions", outcomes_topic="outcomes", embedded=server.address
        )
        await keep_records(events)
        await keep_records(events)
        topic = PubSub("p", "decisions", server.address)
        async with open_publisher(topic) as client:
            await publish(client, topic, [PubsubMessage(data=b'{"n": 1}'), PubsubMessage(data=b'{"n": 2}')])
        assert lines(tmp_path, "decisions", 2) == [{"n": 1}, {"n": 2}]
        server.stop()
        server.start()
        async with open_publisher(topic) as client:
            await publish(client, topic, [PubsubMessage(data=b'{"n": 3}')])
        written = lines(tmp_path, "decisions", 3)
        assert sorted(record["n"] for record in written) == [1, 2, 3]
        assert not lines(tmp_path, "outcomes", 0)
    finally:
        server.stop()


async def test_no_file_outside_the_bucket(tmp_path: Path) -> None:
    """A prefix or a bucket that leads elsewhere is refused."""
    server = PubSubServer("embedded", tmp_path)
    server.start()
    try:
        topic = PubSub("p", "topic", server.address)
        await create_topic(topic)
        async with open_subscriber(topic) as client:
            for config, message in (
                (CloudStorageConfig(bucket="b", filename_prefix="../x"), "stay in the bucket"),
                (CloudStorageConfig(bucket=".."), "bucket's name"),
            ):
                named = Subscription(
                    name="projects/p/subscriptions/sub", topic=topic.topic_path, cloud_storage_config=config
                )
                with pytest.raises(InvalidArgument, match=message):
                    await client.create_subscription(named, timeout=5, retry=None)
    finally:
        server.stop()
