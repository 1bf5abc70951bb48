"""Push: messages sent to an endpoint over HTTP, where a 2xx answer is the acknowledgement."""

from __future__ import annotations

import asyncio
import base64
import json
from urllib.parse import urlsplit

import structlog

from churnsaver.events.embedded.bells import rung
from churnsaver.events.embedded.deliverers import Deliverers
from churnsaver.events.embedded.subscription import Delivery, Subscription

log = structlog.get_logger()

IN_FLIGHT = 16
ACKNOWLEDGED = frozenset({102, 200, 201, 202, 204})


class Pushers(Deliverers):
    """One task for each subscription that has an endpoint."""

    def destination(self, subscription: Subscription) -> str:
        """The endpoint."""
        return str(subscription.config.push_config.push_endpoint)

    async def deliver_all(self, subscription: Subscription) -> None:
        """Until cancelled: posts messages, a few at a time."""
        name = subscription.config.name
        slots = asyncio.Semaphore(IN_FLIGHT)
        async with asyncio.TaskGroup() as group:
            while True:
                bell = self._bells.bell(name)
                await slots.acquire()
                if taken := subscription.take(1, subscription.config.ack_deadline_seconds):
                    task = group.create_task(self._deliver(subscription, taken[0]))
                    task.add_done_callback(lambda _: slots.release())
                else:
                    slots.release()
                    await rung(bell, 60.0)

    async def _deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        ack_id, body = delivery.ack_id, push_body(subscription, delivery)
        try:
            async with asyncio.timeout(subscription.config.ack_deadline_seconds):
                status = await post(subscription.config.push_config.push_endpoint, body)
        except (OSError, ValueError, IndexError) as error:
            log.info("push.failed", subscription=subscription.config.name, reason=str(error))
            status = 0
        if status in ACKNOWLEDGED:
            self._broker.ack(subscription, [ack_id])
        else:
            self._broker.modify_leases(subscription, [(ack_id, 0)])


def push_body(subscription: Subscription, delivery: Delivery) -> bytes:
    """The JSON that the service posts (https://cloud.google.com/pubsub/docs/push)."""
    message = delivery.message
    wrapped = {
        "data": base64.b64encode(message.data).decode(),
        "attributes": dict(message.attributes),
        "messageId": message.message_id,
        "publishTime": message.publish_time.ToJsonString(),
    }
    if message.ordering_key:
        wrapped["orderingKey"] = message.ordering_key
    body = {"message": wrapped, "subscription": subscription.config.name}
    if subscription.config.HasField("dead_letter_policy"):
        body["deliveryAttempt"] = delivery.attempts
    return json.dumps(body).encode()


async def post(url: str, body: bytes) -> int:
    """Posts JSON and returns the status code; without proxies, and cancelled at once when the server stops.

    Raises:
        OSError, ValueError, IndexError: nobody there, or what answers is no HTTP server.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or (443 if secure else 80), ssl=secure)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = (
            f"POST {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()
