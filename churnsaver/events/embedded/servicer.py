"""gRPC: hands calls to the broker, answers when the journal is on the disk, and waits for messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from churnsaver.events.embedded import wire
from churnsaver.events.embedded.bells import Bells, rung
from churnsaver.events.embedded.broker import Broker
from churnsaver.events.embedded.journal import Journal
from churnsaver.events.embedded.subscription import Subscription
from churnsaver.events.embedded.wire import Message, Refused
from churnsaver.tasks import stop_tasks

PULL_S = 25.0
MAX_MESSAGES = 1000

# In the protos, requests that create or change a whole resource are the resource.
REQUESTS = {"CreateTopic": "Topic", "CreateSubscription": "Subscription"}
Call = Callable[[Message], Message]


class Servicer:
    """The services Publisher and Subscriber."""

    def __init__(self, broker: Broker, journal: Journal, bells: Bells) -> None:
        self._broker, self._journal, self._bells = broker, journal, bells

    def register(self, server: grpc.aio.Server) -> None:
        """Adds both services to `server`."""
        broker = self._broker
        publisher = (
            broker.create_topic,
            broker.get_topic,
            broker.list_topics,
            broker.list_topic_subscriptions,
            broker.delete_topic,
            broker.publish,
        )
        subscriber = (
            broker.create_subscription,
            broker.get_subscription,
            broker.update_subscription,
            broker.list_subscriptions,
            broker.delete_subscription,
            broker.modify_ack_deadline,
            broker.acknowledge,
            broker.create_snapshot,
            broker.delete_snapshot,
            broker.seek,
        )
        waiting = {
            "Pull": _unary("Pull", self._pull),
            "StreamingPull": grpc.stream_stream_rpc_method_handler(
                self._streaming_pull,
                request_deserializer=wire.StreamingPullRequest.FromString,
                response_serializer=wire.StreamingPullResponse.SerializeToString,
            ),
        }
        for service, calls, others in (("Publisher", publisher, {}), ("Subscriber", subscriber, waiting)):
            handlers = dict(others)
            for call in calls:
                name = call.__name__.title().replace("_", "")  # create_topic answers CreateTopic
                handlers[name] = _unary(name, self._journaled(call))
            generic = grpc.method_handlers_generic_handler(f"google.pubsub.v1.{service}", handlers)
            server.add_generic_rpc_handlers((generic,))

    def _journaled(self, call: Call) -> Callable[[Message, Any], Awaitable[Message]]:
        """The call, answered when whatever it changed is on the disk."""

        async def answer(request: Message, context: Any) -> Message:
            response = call(request)
            await self._journal.synced()
            return response

        return answer

    async def _pull(self, request: Message, context: Any) -> Message:
        """Answers with the first messages there are, or with none when the caller will wait no longer."""
        remaining_s = context.time_remaining()
        wait_s = 0.0 if request.return_immediately else min(PULL_S, (remaining_s or PULL_S) - 0.1)
        end = time.monotonic() + wait_s
        while True:
            bell = self._bells.bell(request.subscription)
            subscription = self._broker.subscription(request.subscription)
            lease_s = subscription.config.ack_deadline_seconds
            taken = subscription.take(min(request.max_messages, MAX_MESSAGES), lease_s)
            left_s = end - time.monotonic()
            if taken or left_s <= 0 or self._bells.closed:
                received = [subscription.received(delivery) for delivery in taken]
                return wire.message_class("PullResponse")(received_messages=received)
            await rung(bell, left_s)

    async def _streaming_pull(self, requests: AsyncIterator[Message], context: Any) -> AsyncIterator[Message]:
        try:
            first = await anext(aiter(requests))
            stream = _Stream(first, self._broker.subscription(first.subscription))
            yield stream.properties()
            reader = asyncio.create_task(self._read(requests, stream))
            try:
                async for response in self._stream_messages(stream, reader):
                    yield response
            finally:
                await stop_tasks([reader])
        except Refused as refused:
            await _abort(context, refused)

    async def _stream_messages(self, stream: _Stream, reader: asyncio.Task[None]) -> AsyncIterator[Message]:
        """Messages as they come and as the client has room for them, until it ends the stream."""
        reader.add_done_callback(lambda _: self._bells.ring(stream.name))
        while not reader.done():
            bell = self._bells.bell(stream.name)
            if self._bells.closed:
                raise Refused(grpc.StatusCode.UNAVAILABLE, "the embedded Pub/Sub stops")
            if self._broker.subscription(stream.name) is not stream.subscription:
                raise wire.not_found(stream.name)  # deleted, and made again since
            if received := stream.take():
                yield wire.StreamingPullResponse(received_messages=received)
            else:
                await rung(bell, PULL_S)
        reader.result()

    async def _read(self, requests: AsyncIterator[Message], stream: _Stream) -> None:
        """Takes what the client says on the stream: acknowledgements and leases."""
        async for request in requests:
            stream.lease_s = request.stream_ack_deadline_seconds or stream.lease_s
            self._broker.ack(stream.subscription, request.ack_ids)
            leases = zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=False)
            self._broker.modify_leases(stream.subscription, leases)


class _Stream:
    """One streaming pull: whose messages, for how long they are leased, and how many the client has.

    Attributes:
        lease_s: the client may change it while the stream is open.
    """

    def __init__(self, first: Message, subscription: Subscription) -> None:
        self.name, self.subscription = first.subscription, subscription
        self.lease_s = first.stream_ack_deadline_seconds
        if not 10 <= self.lease_s <= 600:
            raise wire.invalid("stream_ack_deadline_seconds must be from 10 to 600")
        self._max_messages = first.max_outstanding_messages if first.max_outstanding_messages > 0 else MAX_MESSAGES
        self._max_bytes = first.max_outstanding_bytes if first.max_outstanding_bytes > 0 else 1 << 30
        self._outstanding: dict[str, int] = {}  # bytes by ack_id

    def properties(self) -> Message:
        """The first response, by which the client knows how to acknowledge."""
        config = self.subscription.config
        properties = wire.StreamingPullResponse.SubscriptionProperties(
            exactly_once_delivery_enabled=config.enable_exactly_once_delivery,
            message_ordering_enabled=config.enable_message_ordering,
        )
        return wire.StreamingPullResponse(subscription_properties=properties)

    def take(self) -> list[Message]:
        """Leases what the client has room for."""
        is_leased = self.subscription.is_leased
        self._outstanding = {ack_id: size for ack_id, size in self._outstanding.items() if is_leased(ack_id)}
        if sum(self._outstanding.values()) >= self._max_bytes:
            return []
        room = min(self._max_messages - len(self._outstanding), MAX_MESSAGES)
        taken = self.subscription.take(room, self.lease_s)
        self._outstanding |= {delivery.ack_id: len(delivery.message.data) for delivery in taken}
        return [self.subscription.received(delivery) for delivery in taken]


def _unary(name: str, answer: Callable[[Message, Any], Awaitable[Message]]) -> grpc.RpcMethodHandler[Message, Message]:
    async def handle(request: Message, context: Any) -> Message:
        try:
            return await answer(request, context)
        except Refused as refused:
            await _abort(context, refused)

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=wire.message_class(REQUESTS.get(name, f"{name}Request")).FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )


async def _abort(context: Any, refused: Refused) -> None:
    """Ends the call with a status; raises."""
    metadata = (("grpc-status-details-bin", refused.details),) if refused.details else ()
    await context.abort(refused.code, str(refused), metadata)
