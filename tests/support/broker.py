"""A broker in memory with a clock that tests turn."""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask

from churnsaver.events.embedded import wire
from churnsaver.events.embedded.broker import Broker
from churnsaver.events.embedded.state import Change, State
from churnsaver.events.embedded.wire import Message, message_class

TOPIC = "projects/p/topics/topic"
NAME = "projects/p/subscriptions/subscription"


class TestBroker(Broker):
    """The calls with less to write, on one topic.

    Attributes:
        now: seconds since the epoch.
        changes: what a journal would hold.
        woken: subscriptions whose pullers were woken.
    """

    __test__ = False

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.changes: list[Change] = []
        self.woken: list[str] = []
        super().__init__(State(lambda: self.now), lambda: self.now, self.changes.append, self.woken.append)
        self.create_topic(wire.Topic(name=TOPIC))

    def subscribe(self, name: str = NAME, **config: object) -> None:
        self.create_subscription(wire.Subscription(name=name, topic=TOPIC, **config))

    def send(self, *contents: bytes, topic: str = TOPIC, key: str = "", **attributes: str) -> None:
        messages = [wire.PubsubMessage(data=data, ordering_key=key, attributes=attributes) for data in contents]
        self.publish(message_class("PublishRequest")(topic=topic, messages=messages))

    def take(self, count: int = 100, name: str = NAME, lease_s: float = 10.0) -> list[Message]:
        """Received messages, leased."""
        subscription = self.subscription(name)
        return [subscription.received(delivery) for delivery in subscription.take(count, lease_s)]

    def contents(self, name: str = NAME) -> list[bytes]:
        """Leases everything and says what it was."""
        return [received.message.data for received in self.take(name=name)]

    def acknowledge_all(self, *received: Message, name: str = NAME) -> None:
        self.acknowledge(message_class("AcknowledgeRequest")(subscription=name, ack_ids=[r.ack_id for r in received]))

    def nack(self, received: Message, name: str = NAME) -> None:
        self.modify_leases(self.subscription(name), [(received.ack_id, 0)])

    def update(self, path: str, name: str = NAME, **config: object) -> None:
        self.update_subscription(
            message_class("UpdateSubscriptionRequest")(
                subscription=wire.Subscription(name=name, **config), update_mask=FieldMask(paths=[path])
            )
        )

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    def replayed(self, changes: list[Change] | None = None) -> TestBroker:
        """A broker after a restart, from its journal or from the changes given."""
        other = TestBroker()
        other.state = State(lambda: other.now)
        for change in self.changes if changes is None else changes:
            other.state.apply(change)
        other.now = self.now
        return other
