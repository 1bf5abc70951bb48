"""Keeping what the gateways publish: Pub/Sub itself writes decisions and outcomes to a bucket as JSON lines.

On Google Cloud Terraform makes the same two subscriptions (`terraform/modules/pubsub`); this is for the local
stack, whose embedded Pub/Sub writes to a folder.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from google.api_core.exceptions import AlreadyExists
from google.protobuf.duration_pb2 import Duration
from google.pubsub_v1.types import CloudStorageConfig, ExpirationPolicy, Subscription

from churnsaver.events.clients import CALL_TIMEOUT_S, create_topic, open_subscriber
from churnsaver.events.where import find_pubsub
from churnsaver.settings import EventsSettings, ServeSettings

BUCKET = "local"
MAX_DURATION_S = 300
MAX_BYTES = 10 << 20


def records_dir(settings: ServeSettings) -> Path:
    """Where the local stack's records are; empty until something was decided."""
    return settings.state_dir / "pubsub" / "buckets" / BUCKET / "records"


async def keep_records(events: EventsSettings) -> None:
    """Makes the topics and the two subscriptions unless they are there."""
    pubsub = find_pubsub(events)
    for topic in (events.decisions_topic, events.outcomes_topic):
        await create_topic(replace(pubsub, topic=topic))
        subscription = Subscription(
            name=f"projects/{pubsub.project}/subscriptions/{topic}",
            topic=replace(pubsub, topic=topic).topic_path,
            ack_deadline_seconds=300,
            cloud_storage_config=CloudStorageConfig(
                bucket=BUCKET,
                filename_prefix=f"records/{topic}/",
                filename_suffix=".jsonl",
                filename_datetime_format="YYYY/MM/DD/hh_mm_ssZ",
                max_duration=Duration(seconds=MAX_DURATION_S),
                max_bytes=MAX_BYTES,
            ),
            expiration_policy=ExpirationPolicy(),  # never: a quiet month must not cost the subscription
        )
        async with open_subscriber(pubsub) as client:
            with contextlib.suppress(AlreadyExists):
                await client.create_subscription(subscription, timeout=CALL_TIMEOUT_S, retry=None)
