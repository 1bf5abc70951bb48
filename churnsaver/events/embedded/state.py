"""Everything that outlives a restart, and the changes that make it.

A change is a JSON object with the key `op`. Whatever happens is first said as a change, applied here and
journaled, so that applying the journal again gives the same state. Leases and attempts are not part of it:
after a restart every message that was not acknowledged is ready again.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from churnsaver.events.embedded import wire
from churnsaver.events.embedded.subscription import Clock, Subscription
from churnsaver.events.embedded.wire import Message

Change = dict[str, Any]
DELETED_TOPIC = "_deleted-topic_"


@dataclass(slots=True)
class Snapshot:
    """What a subscription had not acknowledged at one moment, and everything published to its topic since."""

    config: Message
    messages: dict[int, Message] = field(default_factory=dict)


class State:
    """Topics, subscriptions and snapshots by their full names.

    Attributes:
        next_number: of the next message; numbers are never used twice.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.topics: dict[str, Message] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.next_number = 1
        self._appliers: dict[str, Callable[[Change], None]] = {
            "topic": self._topic,
            "topic_deleted": self._topic_deleted,
            "subscription": self._subscription,
            "subscription_deleted": lambda change: self._deleted(self.subscriptions, change),
            "snapshot": self._snapshot,
            "snapshot_deleted": lambda change: self._deleted(self.snapshots, change),
            "published": self._published,
            "acked": self._acked,
            "sought": self._sought,
            "kept": self._kept,
            "next_number": self._next_number,
        }

    def apply(self, change: Change) -> None:
        """Makes a change.

        Raises:
            LookupError, TypeError, ValueError: it was not made by this program or fits no longer.
            google.protobuf.message.DecodeError: it holds a message that cannot be read.
        """
        self._appliers[change["op"]](change)

    def whole(self) -> Iterator[Change]:
        """Changes that make this state from an empty one; what a compacted journal holds."""
        yield {"op": "next_number", "number": self.next_number}
        subscriptions, snapshots = self.subscriptions.items(), self.snapshots.items()
        for topic in self.topics.values():
            yield {"op": "topic", "config": encoded(topic)}
        for _, subscription in subscriptions:
            yield {"op": "subscription", "config": encoded(subscription.config)}
        for _, snapshot in snapshots:
            yield {"op": "snapshot", "config": encoded(snapshot.config)}
        holders = [("pending", name, {n: d.message for n, d in s.pending.items()}) for name, s in subscriptions]
        holders += [("retained", name, s.retained) for name, s in subscriptions]
        holders += [("snapshots", name, s.messages) for name, s in snapshots]
        kept: dict[int, Change] = {}
        for role, name, messages in holders:
            for number, message in messages.items():
                change = kept.setdefault(number, {"op": "kept", "number": number, "message": message})
                change.setdefault(role, []).append(name)
        for number in sorted(kept):
            yield kept[number] | {"message": encoded(kept[number]["message"])}

    # -- one method for each change ----------------------------------------------------------------

    def _topic(self, change: Change) -> None:
        topic = decoded(wire.Topic, change["config"])
        self.topics[topic.name] = topic

    def _topic_deleted(self, change: Change) -> None:
        self._deleted(self.topics, change)
        for subscription in self.subscriptions.values():
            if subscription.config.topic == change["name"]:
                subscription.config.topic = DELETED_TOPIC

    def _subscription(self, change: Change) -> None:
        config = decoded(wire.Subscription, change["config"])
        if known := self.subscriptions.get(config.name):
            known.configure(config)
        else:
            self.subscriptions[config.name] = Subscription(config, self._clock)

    def _snapshot(self, change: Change) -> None:
        config = decoded(wire.Snapshot, change["config"])
        snapshot = self.snapshots.setdefault(config.name, Snapshot(config))
        snapshot.config = config
        if name := change.get("subscription"):
            pending = self.subscriptions[name].pending
            snapshot.messages = {number: delivery.message for number, delivery in pending.items()}

    def _published(self, change: Change) -> None:
        name = change["topic"]
        subscriptions = [known for known in self.subscriptions.values() if known.config.topic == name]
        snapshots = [known for known in self.snapshots.values() if known.config.topic == name]
        for text in change["messages"]:
            message = decoded(wire.PubsubMessage, text)
            number = int(message.message_id)
            self.next_number = max(self.next_number, number + 1)
            for subscription in subscriptions:
                subscription.offer(number, message)
            for snapshot in snapshots:
                snapshot.messages[number] = message

    def _acked(self, change: Change) -> None:
        # A subscription that could not be read, and was skipped with a message, may be missing here.
        if subscription := self.subscriptions.get(change["subscription"]):
            for number in change["numbers"]:
                subscription.finish(number)

    def _sought(self, change: Change) -> None:
        subscription = self.subscriptions[change["subscription"]]
        known = subscription.retained | {number: delivery.message for number, delivery in subscription.pending.items()}
        if "snapshot" in change:
            pending = dict(self.snapshots[change["snapshot"]].messages)
        else:
            time = decoded(Timestamp, change["time"]).ToNanoseconds()
            pending = {n: message for n, message in known.items() if message.publish_time.ToNanoseconds() >= time}
        retained = {number: message for number, message in known.items() if number not in pending}
        subscription.reset(pending, retained if subscription.config.retain_acked_messages else {})

    def _kept(self, change: Change) -> None:
        number, message = change["number"], decoded(wire.PubsubMessage, change["message"])
        for name in self.subscriptions.keys() & change.get("pending", ()):
            self.subscriptions[name].offer(number, message)
        for name in self.subscriptions.keys() & change.get("retained", ()):
            self.subscriptions[name].retained[number] = message
        for name in self.snapshots.keys() & change.get("snapshots", ()):
            self.snapshots[name].messages[number] = message

    def _next_number(self, change: Change) -> None:
        self.next_number = change["number"]

    @staticmethod
    def _deleted(resources: dict[str, Any], change: Change) -> None:
        del resources[change["name"]]


def encoded(message: Message) -> str:
    """A protobuf message as text for JSON."""
    return base64.b64encode(message.SerializeToString()).decode()


def decoded(message_class: Message, text: str) -> Message:
    """A protobuf message from what `encoded` wrote."""
    return message_class.FromString(base64.b64decode(text, validate=True))
