"""Google's clients over a channel that we open.

The generated clients are used, not the ones on top of them: those start threads for batches and leases,
which a few events a day do not need.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import google.auth
import grpc
from google.api_core.exceptions import AlreadyExists, GoogleAPICallError, NotFound
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from google.pubsub_v1 import PublisherAsyncClient, PublisherClient, SubscriberAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport, PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from google.pubsub_v1.types import PubsubMessage

from churnsaver.events.where import PubSub
from churnsaver.rpc.channels import CHANNEL_OPTIONS

CALL_TIMEOUT_S = 5.0
SCOPES = ["https://www.googleapis.com/auth/pubsub"]
# An address that settings give is on this machine or beside it, never behind a proxy.
DIRECT = [
    *CHANNEL_OPTIONS,
    ("grpc.enable_http_proxy", 0),
    # A stranger's message may have 10 MB; one that could not be received would come again and again.
    ("grpc.max_receive_message_length", 32 << 20),
]

# What a call raises while Pub/Sub is down, refuses, or has no credentials for us.
PubSubError = (GoogleAPICallError, GoogleAuthError)


@contextlib.asynccontextmanager
async def open_publisher(pubsub: PubSub) -> AsyncIterator[PublisherAsyncClient]:
    """A client to publish with; GoogleAuthError where the real service is meant and there are no credentials."""
    if pubsub.address is not None:
        transport = PublisherGrpcAsyncIOTransport(channel=grpc.aio.insecure_channel(pubsub.address, options=DIRECT))
    else:
        transport = PublisherGrpcAsyncIOTransport(credentials=await asyncio.to_thread(_credentials))
    try:
        yield PublisherAsyncClient(transport=transport)
    finally:
        await transport.close()


@contextlib.asynccontextmanager
async def open_subscriber(pubsub: PubSub) -> AsyncIterator[SubscriberAsyncClient]:
    """A client to pull with; GoogleAuthError as in `open_publisher`."""
    if pubsub.address is not None:
        transport = SubscriberGrpcAsyncIOTransport(channel=grpc.aio.insecure_channel(pubsub.address, options=DIRECT))
    else:
        transport = SubscriberGrpcAsyncIOTransport(credentials=await asyncio.to_thread(_credentials))
    try:
        yield SubscriberAsyncClient(transport=transport)
    finally:
        await transport.close()


@contextlib.contextmanager
def open_publisher_now(pubsub: PubSub) -> Iterator[PublisherClient]:
    """The same for code without an event loop."""
    if pubsub.address is not None:
        transport = PublisherGrpcTransport(channel=grpc.insecure_channel(pubsub.address, options=DIRECT))
    else:
        transport = PublisherGrpcTransport(credentials=_credentials())
    try:
        yield PublisherClient(transport=transport)
    finally:
        transport.close()


async def publish(client: PublisherAsyncClient, pubsub: PubSub, messages: list[PubsubMessage]) -> None:
    """Publishes in one request, and makes the topic where it is missing."""
    topic = pubsub.topic_path
    try:
        await client.publish(topic=topic, messages=messages, timeout=CALL_TIMEOUT_S, retry=None)
    except NotFound:
        await create_topic(pubsub)
        await client.publish(topic=topic, messages=messages, timeout=CALL_TIMEOUT_S, retry=None)


async def create_topic(pubsub: PubSub) -> None:
    """Makes the topic unless it is there."""
    async with open_publisher(pubsub) as client:
        with contextlib.suppress(AlreadyExists):
            await client.create_topic(name=pubsub.topic_path, timeout=CALL_TIMEOUT_S, retry=None)


def _credentials() -> Credentials:
    """This machine's credentials; looking for them may take seconds."""
    return google.auth.default(scopes=SCOPES)[0]
