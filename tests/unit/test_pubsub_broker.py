"""The embedded Pub/Sub without a network or a disk: leases, order, dead letters, seek, restarts."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from churnsaver.events.embedded import wire
from churnsaver.events.embedded.wire import Refused, message_class
from tests.support.broker import NAME, TOPIC, TestBroker

DAY_S = 86_400


@pytest.fixture
def broker() -> TestBroker:
    return TestBroker()


class TestLeases:
    def test_message_comes_again_when_its_lease_ends(self, broker: TestBroker) -> None:
        broker.subscribe()
        broker.send(b"x")
        assert broker.contents() == [b"x"]
        broker.pass_time(9.9)
        assert broker.contents() == []
        broker.pass_time(0.2)
        assert broker.contents() == [b"x"]

    def test_extended_lease_holds(self, broker: TestBroker) -> None:
        broker.subscribe()
        broker.send(b"x")
        (received,) = broker.take()
        broker.modify_leases(broker.subscription(NAME), [(received.ack_id, 40)])
        broker.pass_time(39)
        assert broker.contents() == []
        broker.pass_time(2)
        assert broker.contents() == [b"x"]

    def test_acknowledged_is_gone(self, broker: TestBroker) -> None:
        broker.subscribe()
        broker.send(b"x", b"y")
        broker.acknowledge_all(*broker.take(1))
        broker.pass_time(60)
        assert broker.contents() == [b"y"]

    def test_late_acknowledgement_is_ignored(self, broker: TestBroker) -> None:
        broker.subscribe()
        broker.send(b"x")
        (received,) = broker.take()
        broker.pass_time(11)
        broker.acknowledge_all(received)
        assert broker.contents() == [b"x"]

    def test_late_acknowledgement_is_an_error_with_exactly_once(self, broker: TestBroker) -> None:
        broker.subscribe(enable_exactly_once_delivery=True)
        broker.send(b"x")
        (received,) = broker.take()
        broker.pass_time(11)
        with pytest.raises(Refused) as refused:
            broker.acknowledge_all(received)
        info = error_details_pb2.ErrorInfo()
        status_pb2.Status.FromString(refused.value.details).details[0].Unpack(info)
        assert dict(info.metadata) == {received.ack_id: "PERMANENT_FAILURE_INVALID_ACK_ID"}

    def test_each_subscription_has_its_own_copy(self, broker: TestBroker) -> None:
        broker.subscribe()
        broker.subscribe(NAME + "2", filter='attributes.k = "v"')
        broker.send(b"x")
        broker.send(b"y", k="v")
        broker.acknowledge_all(*broker.take())
        assert broker.contents(NAME + "2") == [b"y"]

    def test_pullers_are_woken_by_what_they_can_take(self, broker: TestBroker) -> None:
        broker.subscribe()
        broker.send(b"x")
        assert broker.woken == [NAME]
        broker.take()
        broker.woken.clear()
        broker.pass_time(5)
        assert broker.woken == []
        broker.pass_time(6)
        assert broker.woken == [NAME]


class TestOrdering:
    def test_one_of_a_key_at_a_time(self, broker: TestBroker) -> None:
        broker.subscribe(enable_message_ordering=True)
        broker.send(b"a1", b"a2", key="a")
        broker.send(b"b1", key="b")
        broker.send(b"free")
        received = broker.take()
        assert [each.message.data for each in received] == [b"a1", b"b1", b"free"]
        broker.acknowledge_all(received[0])
        assert broker.contents() == [b"a2"]

    def test_successors_wait_for_a_nacked_message(self, broker: TestBroker) -> None:
        broker.subscribe(enable_message_ordering=True)
        broker.send(b"1", b"2", b"3", key="k")
        (first,) = broker.take()
        broker.nack(first)
        seen = []
        while received := broker.take():
            seen += [each.message.data for each in received]
            broker.acknowledge_all(*received)
        assert seen == [b"1", b"2", b"3"]

    def test_order_outlives_a_restart(self, broker: TestBroker) -> None:
        broker.subscribe(enable_message_ordering=True)
        broker.send(b"1", b"2", b"3", key="k")
        broker.acknowledge_all(*broker.take())
        restarted = broker.replayed()
        assert restarted.contents() == [b"2"]


class TestRetries:
    def test_backoff_doubles_up_to_its_limit(self, broker: TestBroker) -> None:
        policy = {"minimum_backoff": Duration(seconds=3), "maximum_backoff": Duration(seconds=10)}
        broker.subscribe(retry_policy=policy)
        broker.send(b"x")
        waits = []
        for _ in range(4):
            (received,) = broker.take()
            broker.nack(received)
            waited = 0
            while not broker.subscription(NAME)._ready:
                broker.pass_time(1)
                waited += 1
            waits.append(waited)
        assert waits == [3, 6, 10, 10]

    def test_dead_letter_after_the_last_attempt(self, broker: TestBroker) -> None:
        dead = TOPIC + "-dead"
        broker.create_topic(wire.Topic(name=dead))
        broker.create_subscription(wire.Subscription(name=NAME + "-dead", topic=dead))
        broker.subscribe(dead_letter_policy={"dead_letter_topic": dead, "max_delivery_attempts": 5})
        broker.send(b"poison", k="v")
        attempts = []
        while received := broker.take():
            attempts.append(received[0].delivery_attempt)
            broker.nack(received[0])
        assert attempts == [1, 2, 3, 4, 5]
        (letter,) = broker.take(name=NAME + "-dead")
        assert (letter.message.data, letter.message.attributes["k"]) == (b"poison", "v")
        assert letter.message.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"
        assert letter.message.attributes["CloudPubSubDeadLetterSourceSubscription"] == "subscription"
        assert broker.replayed().contents() == []

    def test_without_its_topic_a_dead_letter_is_tried_on(self, broker: TestBroker) -> None:
        broker.subscribe(dead_letter_policy={"dead_letter_topic": TOPIC + "-gone", "max_delivery_attempts": 5})
        broker.send(b"x")
        for _ in range(8):
            (received,) = broker.take()
            broker.nack(received)
        assert broker.contents() == [b"x"]


class TestForgetting:
    def test_old_messages(self, broker: TestBroker) -> None:
        broker.subscribe(message_retention_duration=Duration(seconds=600), enable_message_ordering=True)
        broker.send(b"old", key="k")
        broker.pass_time(400)
        broker.send(b"new", key="k")
        broker.pass_time(300)
        assert broker.contents() == [b"new"]

    def test_subscriptions_that_nobody_uses(self, broker: TestBroker) -> None:
        broker.subscribe(expiration_policy={"ttl": Duration(seconds=DAY_S)})
        broker.subscribe(NAME + "2", expiration_policy={})
        broker.pass_time(DAY_S - 60)
        assert NAME in broker.state.subscriptions
        broker.pass_time(120)
        assert list(broker.state.subscriptions) == [NAME + "2"]

    def test_topic_takes_its_name_along(self, broker: TestBroker) -> None:
        broker.subscribe()
        broker.delete_topic(message_class("DeleteTopicRequest")(topic=TOPIC))
        request = message_class("GetSubscriptionRequest")(subscription=NAME)
        assert broker.get_subscription(request).topic == "_deleted-topic_"


class TestSeek:
    def test_back_to_a_time(self, broker: TestBroker) -> None:
        broker.subscribe(retain_acked_messages=True)
        broker.send(b"old")
        broker.pass_time(20)
        start = Timestamp(seconds=int(broker.now))
        broker.send(b"new")
        broker.acknowledge_all(*broker.take())
        broker.seek(message_class("SeekRequest")(subscription=NAME, time=start))
        assert broker.replayed().contents() == broker.contents() == [b"new"]

    def test_to_a_snapshot(self, broker: TestBroker) -> None:
        broker.subscribe()
        snapshot = "projects/p/snapshots/snapshot"
        broker.send(b"acked")
        broker.acknowledge_all(*broker.take())
        broker.send(b"before")
        broker.create_snapshot(message_class("CreateSnapshotRequest")(name=snapshot, subscription=NAME))
        broker.send(b"after")
        broker.acknowledge_all(*broker.take())
        broker.seek(message_class("SeekRequest")(subscription=NAME, snapshot=snapshot))
        assert broker.replayed().contents() == broker.contents() == [b"before", b"after"]


class TestRestart:
    def test_compacted_journal_makes_the_same_state(self, broker: TestBroker) -> None:
        broker.subscribe(retain_acked_messages=True, enable_message_ordering=True)
        broker.subscribe(NAME + "2")
        broker.send(b"1", b"2", b"3", key="k")
        broker.acknowledge_all(*broker.take())
        broker.create_snapshot(
            message_class("CreateSnapshotRequest")(name="projects/p/snapshots/snapshot", subscription=NAME)
        )
        whole = list(broker.state.whole())
        assert list(broker.replayed().state.whole()) == whole
        assert list(broker.replayed(whole).state.whole()) == whole

    def test_numbers_are_not_used_twice(self, broker: TestBroker) -> None:
        broker.subscribe()
        broker.send(b"x", b"y")
        broker.acknowledge_all(*broker.take())
        assert broker.replayed(list(broker.state.whole())).state.next_number == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"ack_deadline_seconds": 9}, "from 10 to 600"),
            ({"filter": "nonsense"}, "expected attributes"),
            ({"message_retention_duration": Duration(seconds=599)}, "10 minutes"),
            ({"expiration_policy": {"ttl": Duration(seconds=3600)}}, "at least 1 day"),
            ({"dead_letter_policy": {"dead_letter_topic": TOPIC, "max_delivery_attempts": 4}}, "from 5 to 100"),
            ({"name": "projects/p/subscriptions/goog-x"}, "invalid name"),
        ],
    )
    def test_subscriptions(self, broker: TestBroker, config: dict[str, object], message: str) -> None:
        with pytest.raises(Refused, match=message) as refused:
            broker.create_subscription(wire.Subscription(**({"name": NAME, "topic": TOPIC} | config)))
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [change["op"] for change in broker.changes] == ["topic"]

    def test_what_cannot_be_changed(self, broker: TestBroker) -> None:
        broker.subscribe()
        with pytest.raises(Refused, match="filter cannot be changed"):
            broker.update("filter", filter="attributes:k")
        with pytest.raises(Refused, match="update_mask"):
            broker.update("colour")
        broker.update("ack_deadline_seconds", ack_deadline_seconds=30)
        assert broker.replayed().subscription(NAME).config.ack_deadline_seconds == 30

    def test_what_it_does_not_have(self, broker: TestBroker) -> None:
        with pytest.raises(Refused, match="has no schema_settings") as refused:
            broker.create_topic(wire.Topic(name=TOPIC + "2", schema_settings={"schema": "projects/p/schemas/s"}))
        assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED

    def test_empty_messages(self, broker: TestBroker) -> None:
        with pytest.raises(Refused, match="data or attributes"):
            broker.send(b"")

    def test_pages(self, broker: TestBroker) -> None:
        for number in range(4):
            broker.create_topic(wire.Topic(name=f"{TOPIC}{number}"))
        names, token = [], ""
        while page := broker.list_topics(
            message_class("ListTopicsRequest")(project="projects/p", page_size=2, page_token=token)
        ):
            names += [topic.name for topic in page.topics]
            if not (token := page.next_page_token):
                break
        assert names == sorted(broker.state.topics)
        with pytest.raises(Refused, match="page_token"):
            broker.list_topics(message_class("ListTopicsRequest")(project="projects/p", page_token="x"))
