"""Decisions and outcomes on their way from Redis' outbox to Pub/Sub, whatever is away meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from google.pubsub_v1.types import PubsubMessage
from prometheus_client import REGISTRY

from churnsaver.events import PubSub
from churnsaver.events.clients import create_topic, open_subscriber
from churnsaver.settings import EventsSettings
from churnsaver.tasks import stop_tasks
from services.gateway import outbox
from services.gateway.ledger import OUTBOX, LedgerUnavailable
from services.gateway.outbox import Outbox, send_on
from services.gateway.upkeep import rebuild
from tests.conftest import RedisServer
from tests.support.gateway import Gateway, body, serving_gateway
from tests.support.pubsub import PubSubServer

SUBSCRIPTION = "projects/test-project/subscriptions/measuring"


class Reader:
    """Whoever measures: subscribed to both topics before anything is sent."""

    def __init__(self, server: PubSubServer) -> None:
        self.events = EventsSettings(
            project="test-project",
            topic="checkpoint-events",
            decisions_topic="decisions",
            outcomes_topic="outcomes",
            embedded=server.address,
        )

    async def subscribe(self) -> None:
        for topic in ("decisions", "outcomes"):
            pubsub = PubSub("test-project", topic, self.events.embedded)
            await create_topic(pubsub)
            async with open_subscriber(pubsub) as client:
                await client.create_subscription(name=f"{SUBSCRIPTION}-{topic}", topic=pubsub.topic_path, timeout=5)

    async def take(self, topic: str, count: int) -> list[dict[str, Any]]:
        """The next `count` messages."""
        found: list[PubsubMessage] = []
        name = f"{SUBSCRIPTION}-{topic}"
        async with asyncio.timeout(20), open_subscriber(PubSub("test-project", topic, self.events.embedded)) as client:
            while len(found) < count:
                answer = await client.pull(subscription=name, max_messages=count - len(found), timeout=5)
                found += [each.message for each in answer.received_messages]
                if ids := [each.ack_id for each in answer.received_messages]:
                    await client.acknowledge(subscription=name, ack_ids=ids, timeout=5)
        assert all(each.attributes["schema_version"] == "1" for each in found)
        return [json.loads(each.data) for each in found]


@pytest.fixture
async def reader(embedded: PubSubServer) -> Reader:
    reader = Reader(embedded)
    await reader.subscribe()
    return reader


@pytest.fixture
async def gateway(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with serving_gateway(redis_instance.url, tmp_path / "journal") as gateway:
        yield gateway


@contextlib.asynccontextmanager
async def sending(gateway: Gateway, reader: Reader) -> AsyncIterator[asyncio.Task[None]]:
    """While it lasts, this gateway sends on what its ledger holds."""
    task = asyncio.create_task(send_on(gateway.ledger, reader.events))
    yield task
    await stop_tasks([task])


async def ask(gateway: Gateway, method: str, path: str, content: Any = None) -> dict[str, Any]:
    async with gateway.client() as client:
        answer = await client.request(method, path, json=content)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def decide(gateway: Gateway, customer: str = "c1") -> str:
    answer = await ask(gateway, "POST", "/v1/retain", body(customer, f"for-{customer}"))
    return str(answer["decision_id"])


def metric(name: str, **labels: str) -> float:
    """What Prometheus would read now."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what cannot call us."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def emptied(gateway: Gateway) -> None:
    async with asyncio.timeout(20):
        while await gateway.redis.xlen(OUTBOX):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_records_arrive_as_they_stand(gateway: Gateway, reader: Reader) -> None:
    """A decision's message is its record with what was booked; an outcome's names the customer by pseudonym."""
    decision_id = await decide(gateway)
    await ask(gateway, "POST", "/v1/outcomes", {"decision_id": decision_id, "outcome": "accepted"})
    async with sending(gateway, reader):
        (sent,), (outcome,) = await reader.take("decisions", 1), await reader.take("outcomes", 1)
        await emptied(gateway)
    record = await gateway.records.get(decision_id)
    assert sent == {name: record[name] for name in sent.keys() - {"released_at_ms", "revision"}} | {
        "released_at_ms": None,
        "revision": sent["revision"],
    }
    assert sent["booking"] == "booked"
    assert "request_id" not in sent, "callers put anything into it"
    assert sent["propensity"]["total"] == pytest.approx(0.125)
    assert outcome == {
        "decision_id": decision_id,
        "customer_ref": record["customer_ref"],
        "outcome": "accepted",
        "at": record["outcomes"]["accepted"],
    }


async def test_what_becomes_of_a_decision_is_told_again(gateway: Gateway, reader: Reader) -> None:
    """Booked, then released; another one booked, then cancelled because the customer withdrew consent."""
    released, cancelled = await decide(gateway, "c1"), await decide(gateway, "c2")
    async with sending(gateway, reader):
        booked = await reader.take("decisions", 2)
        assert [each["booking"] for each in booked] == ["booked", "booked"]
        assert (await ask(gateway, "POST", f"/v1/decisions/{released}/release", {}))["action"] == "send"
        skipped = await ask(gateway, "POST", f"/v1/decisions/{cancelled}/release", {"consent": False})
        assert skipped["reason"] == "consent"
        later = {each["decision_id"]: each for each in await reader.take("decisions", 2)}
    assert all(each["revision"] < later[each["decision_id"]]["revision"] for each in booked)
    assert later[released]["booking"] == "released"
    assert later[released]["released_at_ms"] == int(gateway.now.timestamp() * 1000)
    assert later[cancelled]["booking"] == "cancelled"


async def test_nothing_is_lost_while_pubsub_is_away(
    gateway: Gateway, reader: Reader, embedded: PubSubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Customers are answered, what waits is counted, and all of it arrives once Pub/Sub is back."""
    monkeypatch.setattr(outbox, "RETRY_S", (0.1, 0.2))
    monkeypatch.setattr("churnsaver.events.clients.CALL_TIMEOUT_S", 0.5)
    embedded.kill()
    async with sending(gateway, reader):
        ids = [await decide(gateway, f"c{number}") for number in range(150)]  # more than a batch
        await until(lambda: metric("outbox_waiting_records") == 150 and metric("outbox_oldest_seconds") > 0.2)
        embedded.start()
        arrived = Counter(each["decision_id"] for each in await reader.take("decisions", 150))
        await emptied(gateway)
        await until(lambda: metric("outbox_waiting_records") == 0)
    assert set(arrived) == set(ids)
    assert metric("outbox_oldest_seconds") == 0


async def test_redis_that_restarts_delays_and_loses_nothing(
    gateway: Gateway, reader: Reader, redis_instance: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the append-only file holds is sent when Redis is back."""
    monkeypatch.setattr(outbox, "RETRY_S", (0.1, 0.2))
    decision_id = await decide(gateway)
    redis_instance.kill()
    async with sending(gateway, reader):
        await asyncio.sleep(0.3)
        redis_instance.start()
        (sent,) = await reader.take("decisions", 1)
    assert sent["decision_id"] == decision_id


async def test_a_batch_that_was_cut_off_is_sent_again(
    gateway: Gateway, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between Pub/Sub's yes and Redis' deletion: at least once, never lost."""
    drop, tries = Outbox.drop, 0

    async def drop_later(self: Outbox, entries: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise LedgerUnavailable
        await drop(self, entries)

    monkeypatch.setattr(Outbox, "drop", drop_later)
    decision_id = await decide(gateway)
    async with sending(gateway, reader):
        twice = await reader.take("decisions", 2)
        await emptied(gateway)
    assert [each["decision_id"] for each in twice] == [decision_id, decision_id]


async def test_one_gateway_sends_and_another_takes_over(
    gateway: Gateway, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease keeps the second one back; it sends at once after a hand-over, and after the lease else."""
    monkeypatch.setattr(outbox, "LEASE_MS", 600)
    first, second = Outbox(gateway.ledger), Outbox(gateway.ledger)
    assert await first.is_ours()
    assert not await second.is_ours()
    assert await first.is_ours()
    await second.hand_over()  # not its own to give
    assert not await second.is_ours()
    await first.hand_over()
    assert await second.is_ours()
    ids = {await decide(gateway, f"c{number}") for number in range(3)}
    async with sending(gateway, reader):  # as if the second had died
        assert {each["decision_id"] for each in await reader.take("decisions", 3)} == ids


async def test_the_erased_are_not_told_of(gateway: Gateway, reader: Reader) -> None:
    """Neither decision nor outcome of a customer who was erased before they were sent, but the opt-out."""
    erased, kept = await decide(gateway, "c1"), await decide(gateway, "c2")
    for outcome in ("accepted", "opted_out"):
        await ask(gateway, "POST", "/v1/outcomes", {"decision_id": erased, "outcome": outcome})
    await ask(gateway, "DELETE", "/v1/customers/c1")
    async with sending(gateway, reader):
        (decision,), (outcome,) = await reader.take("decisions", 1), await reader.take("outcomes", 1)
        await emptied(gateway)
    assert decision["decision_id"] == kept
    assert outcome["outcome"] == "opted_out"


async def test_an_opt_out_of_a_lost_decision_is_told(gateway: Gateway, reader: Reader) -> None:
    """Redis came back empty: the journal knows whose decision it was, and the log of outcomes hears of it once."""
    decision_id = await decide(gateway)
    ref = (await gateway.records.get(decision_id))["customer_ref"]
    await gateway.redis.flushall()
    await rebuild(gateway.ledger, gateway.journal)
    for _ in range(2):
        await ask(gateway, "POST", "/v1/outcomes", {"decision_id": decision_id, "outcome": "opted_out"})
    async with sending(gateway, reader):
        (outcome,) = await reader.take("outcomes", 1)
        await emptied(gateway)
    assert outcome["customer_ref"] == ref


async def test_a_bug_does_not_end_it(gateway: Gateway, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody expected is counted and tried again."""
    monkeypatch.setattr(outbox, "RETRY_S", (0.1, 0.2))
    before = metric("background_failures_total", task="send_on")
    monkeypatch.setattr(Outbox, "messages", None)
    decision_id = await decide(gateway)
    async with sending(gateway, reader):
        await until(lambda: metric("background_failures_total", task="send_on") > before)
        monkeypatch.undo()
        (sent,) = await reader.take("decisions", 1)
    assert sent["decision_id"] == decision_id


async def test_a_sender_that_was_held_up_does_not_undo_what_a_later_one_told(
    gateway: Gateway, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read before the release and publishes after it: the lower revision gives it away."""
    monkeypatch.setattr(outbox, "LEASE_MS", 100)
    decision_id = await decide(gateway)
    slow = Outbox(gateway.ledger)
    assert await slow.is_ours()
    ((old,), _) = await slow.messages(await slow.oldest())
    await asyncio.sleep(0.15)
    await ask(gateway, "POST", f"/v1/decisions/{decision_id}/release", {})
    async with sending(gateway, reader):
        (new,) = await reader.take("decisions", 1)
    assert json.loads(old.data)["booking"] == "booked"
    assert new["booking"] == "released"
    assert json.loads(old.data)["revision"] < new["revision"]
