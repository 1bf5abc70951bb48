"""Which Pub/Sub is meant: an emulator, the local stack's own, or Google's."""

from __future__ import annotations

import os
from dataclasses import dataclass

from churnsaver.settings import EventsSettings


@dataclass(frozen=True, slots=True)
class PubSub:
    """One topic of one Pub/Sub.

    Attributes:
        project: the Google Cloud project; any name where `address` is set.
        topic: the topic's name in the project.
        address: host:port that is spoken to without credentials, TLS or proxies; None is the real service.
    """

    project: str
    topic: str
    address: str | None

    @property
    def topic_path(self) -> str:
        """The topic's full resource name."""
        return f"projects/{self.project}/topics/{self.topic}"


def find_pubsub(events: EventsSettings) -> PubSub:
    """`PUBSUB_EMULATOR_HOST` where it is set, else the embedded address, else the real service."""
    return PubSub(events.project, events.topic, os.environ.get("PUBSUB_EMULATOR_HOST") or events.embedded)
