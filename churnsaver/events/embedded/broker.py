"""What each call of google.pubsub.v1 does to the state: checks, changes, answers.

Nothing here waits: a call that has to wait for messages or for the disk does so in `servicer.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from churnsaver.events.embedded import wire
from churnsaver.events.embedded.filters import parse_filter
from churnsaver.events.embedded.state import Change, State, encoded
from churnsaver.events.embedded.subscription import Clock, Delivery, Subscription
from churnsaver.events.embedded.wire import Message, Refused, invalid, not_found

DAY_S = 86_400
RETENTION_S = 7 * DAY_S  # of messages and snapshots, unless the subscription says otherwise
EXPIRATION_S = 31 * DAY_S
SWEEP_S = 30.0
UNSUPPORTED = frozenset(
    {
        "bigquery_config",
        "ingestion_data_source_settings",
        "message_transforms",
        "schema_settings",
    }
)
FIXED = frozenset({"name", "topic", "filter", "enable_message_ordering"})


class Broker:
    """The calls, over a state that has been replayed.

    Args:
        state: topics, subscriptions and snapshots.
        clock: seconds since the epoch.
        record: takes every change, to be journaled.
        wake: called with a subscription's name when its pullers should look again.
    """

    def __init__(
        self, state: State, clock: Clock, record: Callable[[Change], None], wake: Callable[[str], None]
    ) -> None:
        self.state = state
        self._clock, self._record, self._wake = clock, record, wake
        self._sweep_at = clock() + SWEEP_S

    def subscription(self, name: str) -> Subscription:
        """A subscription, to take messages from; Refused (NOT_FOUND) where there is none."""
        subscription: Subscription = _known(self.state.subscriptions, name)
        return subscription

    def tick(self) -> None:
        """Ends leases and back-offs that are over, and now and then forgets what is too old; call it often."""
        for name, subscription in self.state.subscriptions.items():
            lapsed, woken = subscription.lapse()
            self._give_back(subscription, lapsed)
            if lapsed or woken:
                self._wake(name)
        if self._clock() >= self._sweep_at:
            self._sweep_at = self._clock() + SWEEP_S
            self._sweep()

    # -- topics ------------------------------------------------------------------------------------

    def create_topic(self, topic: Message) -> Message:
        _check_name(topic.name, "topics")
        _check_new(self.state.topics, topic.name)
        _check_supported(topic)
        self._commit({"op": "topic", "config": encoded(topic)})
        return topic

    def get_topic(self, request: Message) -> Message:
        return _known(self.state.topics, request.topic)

    def list_topics(self, request: Message) -> Message:
        return _page(request, "topics", _in_project(self.state.topics, request.project))

    def list_topic_subscriptions(self, request: Message) -> Message:
        _known(self.state.topics, request.topic)
        known = self.state.subscriptions.items()
        return _page(request, "subscriptions", sorted(n for n, s in known if s.config.topic == request.topic))

    def delete_topic(self, request: Message) -> Message:
        _known(self.state.topics, request.topic)
        self._commit({"op": "topic_deleted", "name": request.topic})
        return wire.Empty()

    def publish(self, request: Message) -> Message:
        _known(self.state.topics, request.topic)
        if not request.messages:
            raise invalid("no messages to publish")
        if any(not (message.data or message.attributes) for message in request.messages):
            raise invalid("each message must contain data or attributes")
        return wire.message_class("PublishResponse")(message_ids=self._publish(request.topic, request.messages))

    # -- subscriptions -----------------------------------------------------------------------------

    def create_subscription(self, config: Message) -> Message:
        _check_name(config.name, "subscriptions")
        _check_new(self.state.subscriptions, config.name)
        _known(self.state.topics, config.topic)
        config.ack_deadline_seconds = config.ack_deadline_seconds or 10
        if not config.HasField("message_retention_duration"):
            config.message_retention_duration.seconds = RETENTION_S
        if not config.HasField("expiration_policy"):
            config.expiration_policy.ttl.seconds = EXPIRATION_S
        config.state = wire.Subscription.State.Value("ACTIVE")
        _check_subscription(config)
        self._commit({"op": "subscription", "config": encoded(config)})
        return config

    def get_subscription(self, request: Message) -> Message:
        return self.subscription(request.subscription).config

    def update_subscription(self, request: Message) -> Message:
        if fixed := FIXED.intersection(request.update_mask.paths):
            raise invalid(f"{', '.join(sorted(fixed))} cannot be changed")
        config = wire.Subscription()
        config.CopyFrom(self.subscription(request.subscription.name).config)
        if not request.update_mask.IsValidForDescriptor(config.DESCRIPTOR):
            raise invalid("update_mask names a field that a subscription does not have")
        request.update_mask.MergeMessage(
            request.subscription, config, replace_message_field=True, replace_repeated_field=True
        )
        _check_subscription(config)
        self._commit({"op": "subscription", "config": encoded(config)})
        return config

    def list_subscriptions(self, request: Message) -> Message:
        known = _in_project(self.state.subscriptions, request.project)
        return _page(request, "subscriptions", [subscription.config for subscription in known])

    def delete_subscription(self, request: Message) -> Message:
        self.subscription(request.subscription)
        self._commit({"op": "subscription_deleted", "name": request.subscription})
        self._wake(request.subscription)
        return wire.Empty()

    def acknowledge(self, request: Message) -> Message:
        stale = self.ack(self.subscription(request.subscription), request.ack_ids)
        self._check_stale(request.subscription, stale)
        return wire.Empty()

    def modify_ack_deadline(self, request: Message) -> Message:
        subscription = self.subscription(request.subscription)
        stale = self.modify_leases(subscription, [(ack_id, request.ack_deadline_seconds) for ack_id in request.ack_ids])
        self._check_stale(request.subscription, stale)
        return wire.Empty()

    def ack(self, subscription: Subscription, ack_ids: Iterable[str]) -> list[str]:
        """Acknowledges messages; returns the ids whose lease was over, which may be delivered again."""
        deliveries, stale = subscription.leased(ack_ids)
        if deliveries:
            name = subscription.config.name
            numbers = [delivery.number for delivery in deliveries]
            self._commit({"op": "acked", "subscription": name, "numbers": numbers})
            self._wake(name)
        return stale

    def modify_leases(self, subscription: Subscription, seconds: Iterable[tuple[str, int]]) -> list[str]:
        """Lets leases end so many seconds from now, those with 0 at once; returns ids whose lease was over."""
        all_stale: list[str] = []
        for ack_id, lease_s in seconds:
            deliveries, stale = subscription.leased([ack_id])
            all_stale += stale
            if lease_s > 0:
                for delivery in deliveries:
                    subscription.extend(delivery, min(lease_s, 600))
            elif deliveries:
                self._give_back(subscription, deliveries)
                self._wake(subscription.config.name)
        return all_stale

    # -- snapshots ---------------------------------------------------------------------------------

    def create_snapshot(self, request: Message) -> Message:
        _check_name(request.name, "snapshots")
        _check_new(self.state.snapshots, request.name)
        subscription = self.subscription(request.subscription)
        config = wire.Snapshot(name=request.name, topic=subscription.config.topic, labels=request.labels)
        config.expire_time.FromNanoseconds(int((self._clock() + RETENTION_S) * 1e9))
        self._commit({"op": "snapshot", "config": encoded(config), "subscription": request.subscription})
        return config

    def delete_snapshot(self, request: Message) -> Message:
        _known(self.state.snapshots, request.snapshot)
        self._commit({"op": "snapshot_deleted", "name": request.snapshot})
        return wire.Empty()

    def seek(self, request: Message) -> Message:
        self.subscription(request.subscription)
        change: Change = {"op": "sought", "subscription": request.subscription}
        if request.WhichOneof("target") == "snapshot":
            _known(self.state.snapshots, request.snapshot)
            change["snapshot"] = request.snapshot
        elif request.WhichOneof("target") == "time":
            change["time"] = encoded(request.time)
        else:
            raise invalid("seek needs a time or a snapshot")
        self._commit(change)
        self._wake(request.subscription)
        return wire.message_class("SeekResponse")()

    # -- what they share ---------------------------------------------------------------------------

    def _commit(self, change: Change) -> None:
        self.state.apply(change)
        self._record(change)

    def _publish(self, topic: str, messages: Iterable[Message]) -> list[str]:
        published_at = Timestamp()
        published_at.FromNanoseconds(int(self._clock() * 1e9))
        ids = []
        for number, message in enumerate(messages, start=self.state.next_number):
            message.message_id = str(number)
            message.publish_time.CopyFrom(published_at)
            ids.append(message.message_id)
        self._commit({"op": "published", "topic": topic, "messages": [encoded(message) for message in messages]})
        for name, subscription in self.state.subscriptions.items():
            if subscription.config.topic == topic:
                self._wake(name)
        return ids

    def _give_back(self, subscription: Subscription, deliveries: Iterable[Delivery]) -> None:
        """Messages were not acknowledged: they wait for the next attempt, or go to the dead-letter topic."""
        dead_letter_topic = subscription.config.dead_letter_policy.dead_letter_topic
        for delivery in deliveries:
            if subscription.is_exhausted(delivery) and dead_letter_topic in self.state.topics:
                self._dead_letter(subscription, delivery, dead_letter_topic)
            else:
                subscription.give_back(delivery)

    def _dead_letter(self, subscription: Subscription, delivery: Delivery, topic: str) -> None:
        _, project, _, name = subscription.config.name.split("/")
        message = wire.PubsubMessage()
        message.CopyFrom(delivery.message)
        for key, value in {
            "DeliveryCount": str(delivery.attempts),
            "Subscription": name,
            "SubscriptionProject": project,
            "TopicPublishTime": delivery.message.publish_time.ToJsonString(),
        }.items():
            message.attributes[f"CloudPubSubDeadLetterSource{key}"] = value
        # Published first: a crash between the two leaves it twice, never lost.
        self._publish(topic, [message])
        self._commit({"op": "acked", "subscription": subscription.config.name, "numbers": [delivery.number]})

    def _check_stale(self, name: str, stale: list[str]) -> None:
        """With exactly-once delivery, an acknowledgement that came too late is an error for that id."""
        if stale and self.subscription(name).config.enable_exactly_once_delivery:
            message = "Some acknowledgement ids in the request were invalid."
            status = status_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message=message)
            reasons = dict.fromkeys(stale, "PERMANENT_FAILURE_INVALID_ACK_ID")
            status.details.add().Pack(
                error_details_pb2.ErrorInfo(
                    reason="EXACTLY_ONCE_ACKID_FAILURE", domain="pubsub.googleapis.com", metadata=reasons
                )
            )
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, message, status.SerializeToString())

    def _sweep(self) -> None:
        """Forgets old messages, snapshots and subscriptions that nobody uses any more."""
        now = self._clock()
        for name, subscription in list(self.state.subscriptions.items()):
            subscription.expire()
            ttl_s = subscription.config.expiration_policy.ttl.seconds
            if ttl_s and now - subscription.last_used > ttl_s:
                self._commit({"op": "subscription_deleted", "name": name})
                self._wake(name)
        for name, snapshot in list(self.state.snapshots.items()):
            if snapshot.config.expire_time.seconds < now:
                self._commit({"op": "snapshot_deleted", "name": name})


def _known(resources: dict[str, Any], name: str) -> Any:
    if name not in resources:
        raise not_found(name)
    return resources[name]


def _check_new(resources: dict[str, Any], name: str) -> None:
    if name in resources:
        raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Resource already exists in the project (resource={name}).")


def _check_name(name: str, collection: str) -> None:
    if not re.fullmatch(rf"projects/[^/]+/{collection}/(?!goog)[A-Za-z][\w.~+%-]{{2,254}}", name, re.ASCII):
        raise invalid(f"invalid name {name!r}: expected projects/<project>/{collection}/<3 to 255 letters, …>")


def _check_supported(config: Message) -> None:
    if unsupported := UNSUPPORTED.intersection(field.name for field, _ in config.ListFields()):
        message = f"the embedded Pub/Sub has no {', '.join(sorted(unsupported))}"
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, message)


def _check_subscription(config: Message) -> None:
    _check_supported(config)
    if not 10 <= config.ack_deadline_seconds <= 600:
        raise invalid(f"ack_deadline_seconds is {config.ack_deadline_seconds}; it must be from 10 to 600")
    if not 600 <= config.message_retention_duration.seconds <= EXPIRATION_S:
        raise invalid("message_retention_duration must be from 10 minutes to 31 days")
    if 0 < config.expiration_policy.ttl.seconds < DAY_S:
        raise invalid("expiration_policy.ttl must be at least 1 day")
    bucket = config.cloud_storage_config
    if bucket.bucket and not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", bucket.bucket):
        raise invalid(f"cloud_storage_config.bucket is {bucket.bucket!r}; expected a bucket's name")
    if ".." in bucket.filename_prefix or bucket.filename_prefix.startswith("/"):
        raise invalid(f"cloud_storage_config.filename_prefix is {bucket.filename_prefix!r}; it must stay in the bucket")
    if config.HasField("dead_letter_policy"):
        attempts = config.dead_letter_policy.max_delivery_attempts
        if attempts and not 5 <= attempts <= 100:
            raise invalid(f"max_delivery_attempts is {attempts}; it must be from 5 to 100")
    if config.filter:
        try:
            parse_filter(config.filter)
        except ValueError as error:
            raise invalid(str(error)) from None


def _in_project(resources: dict[str, Any], project: str) -> list[Any]:
    return [resources[name] for name in sorted(resources) if name.startswith(f"{project}/")]


def _page(request: Message, field: str, items: list[Any]) -> Message:
    """The response to a list request, whose token is the index of the next item."""
    if not re.fullmatch(r"\d{0,9}", request.page_token):
        raise invalid("page_token is none that this server gave")
    start = int(request.page_token or 0)
    end = start + (request.page_size if request.page_size > 0 else 1000)
    response = wire.message_class(type(request).DESCRIPTOR.name.removesuffix("Request") + "Response")()
    getattr(response, field).extend(items[start:end])
    if end < len(items):
        response.next_page_token = str(end)
    return response
