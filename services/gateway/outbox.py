"""Sends decisions and outcomes on to Pub/Sub: what Redis' outbox holds, at least once, in order.

The scripts that change a decision add its id to the stream `cs:outbox`, so that nothing which was booked can
miss it. What is published is the record as it is when it is sent; a decision that is booked, released or
withdrawn later is published again, and of two messages about one decision the one of the higher revision holds.

Every gateway could do this, and the one that holds the lease does. Where a lease runs out during a long call,
two do for a moment, and some messages are sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from google.pubsub_v1 import PublisherAsyncClient
from google.pubsub_v1.types import PubsubMessage

from churnsaver.events import PubSub, find_pubsub
from churnsaver.events.clients import PubSubError, open_publisher, publish
from churnsaver.settings import EventsSettings
from services.gateway import metrics
from services.gateway.contract import Outcome
from services.gateway.ledger import OUTBOX, LedgerUnavailable, RedisLedger, available, decision_key

log = structlog.get_logger()

LEASE = "cs:outbox:sender"
LEASE_MS = 10_000
BATCH = 100  # of 4 KB, more or less; a request to Pub/Sub may have 10 MB
IDLE_S = 0.5
RETRY_S = (0.5, 15.0)  # the first wait after a failure, and the longest
SCHEMA_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the outbox: a decision that is new or has changed, or what came of one.

    Attributes:
        id: the stream's, which begins with the time in ms.
        outcome: its fields where it is one.
    """

    id: bytes
    decision_id: str
    outcome: Mapping[str, str] | None

    @classmethod
    def read(cls, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
        """An entry as Redis answers it."""
        read = {name.decode(): value.decode() for name, value in fields.items()}
        return cls(entry_id, read["decision"], read if "outcome" in read else None)

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - int(self.id.partition(b"-")[0]) / 1000.0)

    @property
    def revision(self) -> int:
        """The stream's id as one number that grows with it and that every reader of JSON can hold."""
        at_ms, _, number = self.id.partition(b"-")
        return int(at_ms) * 1000 + min(int(number), 999)


class Outbox:
    """The stream in Redis, and the lease on sending from it."""

    def __init__(self, ledger: RedisLedger) -> None:
        self._ledger = ledger
        self._token = uuid.uuid4().hex.encode()

    async def is_ours(self) -> bool:
        """Whether this gateway is to send: it holds the lease, or nobody does."""
        async with available():
            redis = self._ledger.redis
            if await redis.set(LEASE, self._token, nx=True, px=LEASE_MS):
                return True
            if await redis.get(LEASE) != self._token:
                return False
            return bool(await redis.pexpire(LEASE, LEASE_MS))

    async def hand_over(self) -> None:
        """Lets another gateway send at once."""
        async with available():
            if await self._ledger.redis.get(LEASE) == self._token:
                await self._ledger.redis.delete(LEASE)

    async def oldest(self) -> list[Entry]:
        """The first entries that wait, also told to Prometheus."""
        async with available(), self._ledger.redis.pipeline(transaction=False) as pipe:
            pipe.xlen(OUTBOX)
            pipe.xrange(OUTBOX, count=BATCH)
            waiting, found = await pipe.execute()
        entries = [Entry.read(entry_id, fields) for entry_id, fields in found]
        metrics.OUTBOX_WAITING.set(waiting)
        metrics.OUTBOX_OLDEST.set(entries[0].age_s if entries else 0.0)
        return entries

    async def messages(self, entries: Sequence[Entry]) -> tuple[list[PubsubMessage], list[PubsubMessage]]:
        """What is to be published of `entries`: decisions and outcomes.

        Of a customer who was erased, that is nothing but an opt-out.
        """
        ids = list(dict.fromkeys(entry.decision_id for entry in entries))
        async with available(), self._ledger.redis.pipeline(transaction=False) as pipe:
            for decision_id in ids:
                pipe.hmget(decision_key(decision_id), "record", "booking", "released_at_ms")
            stored = {name: fields for name, fields in zip(ids, await pipe.execute(), strict=True) if fields[0]}
        changed = {entry.decision_id: entry.revision for entry in entries if entry.outcome is None}
        decisions = [
            _decision(*stored[name], revision=revision) for name, revision in changed.items() if name in stored
        ]
        outcomes = [entry.outcome for entry in entries if entry.outcome is not None]
        told = (each for each in outcomes if each["decision"] in stored or each["outcome"] == Outcome.OPTED_OUT)
        return decisions, [_outcome(each) for each in told]

    async def drop(self, entries: Sequence[Entry]) -> None:
        """Forgets entries that Pub/Sub has."""
        async with available():
            await self._ledger.redis.xdel(OUTBOX, *(entry.id for entry in entries))


def _decision(record: bytes, booking: bytes, released_at_ms: bytes | None, *, revision: int) -> PubsubMessage:
    document: dict[str, Any] = orjson.loads(record)
    document.pop("request_id", None)  # the caller's, who may have put anything into it
    released = int(released_at_ms) if released_at_ms else None
    return _message({**document, "booking": booking.decode(), "released_at_ms": released, "revision": revision})


def _outcome(fields: Mapping[str, str]) -> PubsubMessage:
    at = datetime.fromtimestamp(int(fields["at_ms"]) / 1000.0, UTC).isoformat(timespec="milliseconds")
    told = {"decision_id": fields["decision"], "customer_ref": fields["customer"], "outcome": fields["outcome"]}
    return _message({**told, "at": at})


def _message(document: dict[str, Any]) -> PubsubMessage:
    """One line of JSON; a file of them is a file of records."""
    attributes = {"schema_version": SCHEMA_VERSION, "decision_id": document["decision_id"]}
    return PubsubMessage(data=orjson.dumps(document), attributes=attributes)


async def send_on(ledger: RedisLedger, events: EventsSettings) -> None:
    """Until cancelled: publishes what waits, whichever of Redis and Pub/Sub is away meanwhile."""
    outbox, pubsub = Outbox(ledger), find_pubsub(events)
    topics = replace(pubsub, topic=events.decisions_topic), replace(pubsub, topic=events.outcomes_topic)
    wait_s, down = RETRY_S[0], False
    try:
        while True:
            try:
                await outbox.oldest()  # what waits is told also where Pub/Sub cannot be opened
                async with open_publisher(pubsub) as client:
                    while True:
                        full = await _send_batch(outbox, client, topics)
                        if down:
                            log.info("outbox.sending_again")
                        wait_s, down = RETRY_S[0], False
                        await asyncio.sleep(0.0 if full else IDLE_S)
            except (LedgerUnavailable, *PubSubError) as error:
                if not down:
                    log.warning("outbox.waiting", reason=str(error) or type(error).__name__)
            except Exception:
                # Nobody would start this task again, and without it the outbox only grows.
                metrics.BACKGROUND_FAILURES.labels("send_on").inc()
                log.exception("outbox.failed")
            down = True
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_S[1])
    finally:
        with contextlib.suppress(LedgerUnavailable):  # then the lease runs out
            await outbox.hand_over()


async def _send_batch(outbox: Outbox, client: PublisherAsyncClient, topics: tuple[PubSub, PubSub]) -> bool:
    """Publishes the oldest entries if it is this gateway's turn; whether more may wait."""
    entries = await outbox.oldest()
    if not entries or not await outbox.is_ours():
        return False
    for topic, messages in zip(topics, await outbox.messages(entries), strict=True):
        if messages:
            await publish(client, topic, messages)
            metrics.OUTBOX_PUBLISHED.labels(topic.topic).inc(len(messages))
    await outbox.drop(entries)
    return len(entries) == BATCH
