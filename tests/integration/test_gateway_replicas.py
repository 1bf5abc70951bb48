"""Several gateways on one Redis: what one knows, all must heed, after Redis lost everything and after an erasure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from churnsaver.tasks import stop_tasks
from services.gateway import upkeep
from services.gateway.case import pseudonym
from services.gateway.contract import KillSwitchRequest
from services.gateway.journal import Journal, OptOut
from services.gateway.ledger import Contact, contacts_key, opt_out_key, reserved_by_arm_key, reserved_key
from services.gateway.upkeep import keep_ledger
from tests.conftest import RedisServer
from tests.support.gateway import Gateway, body


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "ROUND_S", 0.05)
    monkeypatch.setattr(upkeep, "GATHERING_S", 0.4)


@pytest.fixture
async def replicas(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[list[Gateway]]:
    """Two, each with a journal of its own, on a ledger that is open."""
    replicas = [Gateway(redis_instance.url, tmp_path / name) for name in ("one", "two")]
    await replicas[0].kill_switch.write(KillSwitchRequest(state="off", reason="test"))
    async with keeping(*replicas):
        await opened(replicas[0])
        await told(*replicas)
    for gateway in replicas:
        await gateway.kill_switch.refresh()
    yield replicas
    for gateway in replicas:
        await gateway.close()


@asynccontextmanager
async def keeping(*gateways: Gateway) -> AsyncIterator[None]:
    """While it lasts, these gateways keep their ledger."""
    tasks = [asyncio.create_task(keep_ledger(gateway.ledger, gateway.journal)) for gateway in gateways]
    yield
    await stop_tasks(tasks)


async def opened(gateway: Gateway) -> str:
    """Waits for a ledger; returns its generation."""
    async with asyncio.timeout(5):
        while not (generation := await gateway.ledger.generation()):  # noqa: ASYNC110 - Redis does not call us
            await asyncio.sleep(0.01)
    return generation


async def told(*gateways: Gateway) -> None:
    """Waits until each has told the ledger what it knows."""
    async with asyncio.timeout(5):
        for gateway in gateways:
            while gateway.journal.progress.generation != await gateway.ledger.generation():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def opted_out(gateway: Gateway, customer: str) -> None:
    """Waits until the ledger knows of an opt-out."""
    async with asyncio.timeout(5):
        while (await state(gateway, customer))[0] != [True]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def ref(gateway: Gateway, customer: str) -> str:
    return pseudonym(gateway.settings.pseudonym_key, customer)


async def contact(gateway: Gateway, customer: str) -> str:
    """Books a contact through one gateway; returns the decision's id."""
    async with gateway.client() as client:
        answer = (await client.post("/v1/retain", json=body(customer, f"for-{customer}"))).json()
    assert answer["decision"]["contact"] is True
    return str(answer["decision_id"])


async def opt_out(gateway: Gateway, decision_id: str) -> None:
    async with gateway.client() as client:
        answer = await client.post("/v1/outcomes", json={"decision_id": decision_id, "outcome": "opted_out"})
    assert answer.status_code == 200


async def state(gateway: Gateway, *customers: str) -> tuple[list[bool], list[list[bytes]], int]:
    """Who opted out, who is contacted by which decisions, and what is reserved."""
    opted_out = [bool(await gateway.redis.exists(opt_out_key(ref(gateway, each)))) for each in customers]
    contacts = [await gateway.redis.zrange(contacts_key(ref(gateway, each)), 0, -1) for each in customers]
    reserved = int(await gateway.redis.get(reserved_key("default")) or 0)
    assert reserved == int(await gateway.redis.hget(reserved_by_arm_key("default"), "champion") or 0)
    return opted_out, contacts, reserved


async def test_a_lost_ledger_is_filled_by_all(replicas: list[Gateway]) -> None:
    """Opt-outs, contacts and reservations of both are there before anybody can be contacted again."""
    one, two = replicas
    first, second = await contact(one, "c1"), await contact(two, "c2")
    await opt_out(two, first)
    before = await state(one, "c1", "c2")
    assert before == ([True, False], [[first.encode()], [second.encode()]], 1200)
    await one.redis.flushall()
    async with keeping(one, two):
        await opened(one)
        assert await state(one, "c1", "c2") == before
        await told(one, two)
    assert await state(one, "c1", "c2") == before


async def test_who_comes_late_tells_what_it_knows(replicas: list[Gateway]) -> None:
    """A gateway that was away while the ledger was filled adds its own, once, and changes nothing of the others'."""
    one, two = replicas
    first, second = await contact(one, "c1"), await contact(two, "c2")
    await opt_out(two, second)
    await one.redis.flushall()
    async with keeping(one):
        generation = await opened(one)
    assert await state(one, "c1", "c2") == ([False, False], [[first.encode()], []], 600)
    async with keeping(one, two):
        await told(one, two)
    assert await one.ledger.generation() == generation
    assert await state(one, "c1", "c2") == ([False, True], [[first.encode()], [second.encode()]], 1200)


async def test_a_restart_tells_nothing_again(replicas: list[Gateway], tmp_path: Path) -> None:
    """What another gateway cancelled since does not come back with a gateway that starts."""
    one, two = replicas
    first = await contact(one, "c1")
    async with two.client() as client:
        skipped = (await client.post(f"/v1/decisions/{first}/release", json={"consent": False})).json()
    assert skipped["reason"] == "consent"
    one.journal.close()
    one.journal = Journal(tmp_path / "one")
    async with keeping(one):
        await asyncio.sleep(0.3)
    assert await state(one, "c1") == ([False], [[]], 0)


async def test_released_elsewhere_stands_at_the_later_time(replicas: list[Gateway]) -> None:
    """Booked by one, released by the other: after a loss the rules count from when it was sent."""
    one, two = replicas
    decision_id = await contact(one, "c1")
    two.now = one.now.replace(minute=30)
    async with two.client() as client:
        assert (await client.post(f"/v1/decisions/{decision_id}/release")).json()["action"] == "send"
    await one.redis.flushall()
    async with keeping(one, two):
        await opened(one)
        await told(one, two)
    score = await one.redis.zscore(contacts_key(ref(one, "c1")), decision_id)
    assert score == two.now.timestamp() * 1000
    assert int(await one.redis.get(reserved_key("default"))) == 600


async def test_an_erasure_reaches_every_journal(replicas: list[Gateway]) -> None:
    """One gateway is asked, the other had booked the contact: after a loss nothing of the customer comes back."""
    one, two = replicas
    await opt_out(one, await contact(one, "c1"))
    await contact(one, "c2")
    async with two.client() as client:
        await client.delete("/v1/customers/c1")
        await client.delete("/v1/customers/c2")
    async with keeping(one):
        async with asyncio.timeout(5):
            while any(isinstance(fact, Contact) for fact in one.journal.facts()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert one.journal.facts() == [OptOut(opt_out=ref(one, "c1"))]
    await one.redis.flushall()
    async with keeping(one, two):
        await opened(one)
        await told(one, two)
    assert await state(one, "c1", "c2") == ([True, False], [[], []], 0)


async def test_the_first_ledger_opens_at_once(redis_instance: RedisServer, tmp_path: Path) -> None:
    """A new installation waits for nobody."""
    gateway = Gateway(redis_instance.url, tmp_path / "new")
    async with keeping(gateway), asyncio.timeout(0.3):
        await opened(gateway)
    await gateway.close()


async def test_a_late_opt_out_is_heard_by_whichever_is_asked(replicas: list[Gateway]) -> None:
    """Redis lost the decision, and the gateway that is asked never knew it: the other told the ledger whose it was."""
    one, two = replicas
    decision_id = await contact(one, "c1")
    await one.redis.flushall()
    told_of = {"decision_id": decision_id, "outcome": "opted_out"}
    async with two.client() as client:
        assert (await client.post("/v1/outcomes", json=told_of)).status_code == 503, "the ledger is closed"
    async with keeping(one, two):
        await opened(one)
        await told(one, two)
    await opt_out(two, decision_id)
    assert (await state(one, "c1"))[0] == [True]
    async with two.client() as client:
        assert (await client.delete("/v1/customers/c1")).json()["deleted"] > 0
        assert (await client.post("/v1/outcomes", json=told_of)).status_code == 404
    assert await state(one, "c1") == ([True], [[]], 600)


async def test_an_opt_out_that_redis_refused_is_told_later(replicas: list[Gateway]) -> None:
    """A full Redis: the caller hears 503, the journal has it, and the ledger hears of it when there is room."""
    one, two = replicas
    decision_id = await contact(one, "c1")
    await one.redis.config_set("maxmemory", "1")
    async with one.client() as client:
        refused = await client.post("/v1/outcomes", json={"decision_id": decision_id, "outcome": "opted_out"})
    assert refused.status_code == 503
    await one.redis.config_set("maxmemory", "0")
    async with keeping(one, two):
        await opted_out(one, "c1")
    assert one.journal.untold == set()


async def test_opt_outs_come_before_a_long_journal_is_read(
    replicas: list[Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in memory: a ledger that opens while another gateway still reads its file knows them."""
    one, two = replicas
    await opt_out(two, await contact(two, "c1"))
    facts = two.journal.facts

    def slowly() -> list[OptOut | Contact]:
        time.sleep(1.5)
        return facts()

    monkeypatch.setattr(two.journal, "facts", slowly)
    await one.redis.flushall()
    async with keeping(one, two):
        await opened(one)
        assert two.journal.progress.generation != await one.ledger.generation(), "it still reads"
        assert (await state(one, "c1"))[0] == [True]


async def test_who_opted_out_has_no_standing_contact(replicas: list[Gateway]) -> None:
    """Asked again under another key after the opt-out: the contact that stood does not stand any more."""
    one, two = replicas
    await opt_out(one, await contact(one, "c1"))
    async with two.client() as client:
        answers = [(await client.post("/v1/retain", json=body("c1", f"again-{n}"))).json() for n in range(2)]
    assert [answer["decision"]["contact"] for answer in answers] == [False, False]
    assert answers[0]["decision_id"] == answers[1]["decision_id"], "what was decided after the opt-out stands"


async def test_erased_is_erased_from_the_append_only_file(replicas: list[Gateway], redis_instance: RedisServer) -> None:
    """The answers that were kept for replays hold the name; the file that Redis recovers from forgets them too."""
    one, _ = replicas
    customer = "jane.doe@example.com"
    await contact(one, customer)

    def on_disk() -> bool:
        return any(customer.encode() in path.read_bytes() for path in redis_instance.folder.rglob("*.aof"))

    assert on_disk()
    async with one.client() as client:
        await client.delete(f"/v1/customers/{customer}")
    async with asyncio.timeout(10):
        while on_disk():  # noqa: ASYNC110 - Redis writes the file anew beside
            await asyncio.sleep(0.1)


async def test_many_erasures_are_obeyed_a_batch_at_a_time(
    replicas: list[Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that was away for long reads them in pieces, and nothing else waits for it for ever."""
    monkeypatch.setattr(upkeep, "BATCH", 10)
    one, two = replicas
    await contact(one, "c1")
    for number in range(35):
        await two.ledger.erase(f"somebody-{number}")
    await two.ledger.erase(ref(one, "c1"))
    async with keeping(one):
        async with asyncio.timeout(5):
            while one.journal.facts():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_step_that_fails_keeps_no_other_from_its_work(
    replicas: list[Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes no erasure: opt-outs reach the ledger, and a lost ledger is filled, all the same."""
    one, two = replicas
    decision_id = await contact(one, "c1")

    async def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    await two.ledger.erase("somebody")
    monkeypatch.setattr(one.journal, "erase", full)
    one.journal.add_opt_out(ref(one, "c1"))
    await one.redis.flushall()
    await two.ledger.erase("somebody")
    async with keeping(one):
        await opened(one)
    assert await state(one, "c1") == ([True], [[decision_id.encode()]], 600)


async def test_opt_outs_are_told_again_after_a_failover(replicas: list[Gateway], redis_instance: RedisServer) -> None:
    """The Redis that answers now is another process, and may lack the last second of the one before."""
    one, _ = replicas
    async with keeping(one):
        await opt_out(one, await contact(one, "c1"))
        await opted_out(one, "c1")
        async with asyncio.timeout(5):
            while one.journal.untold:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await one.redis.delete(opt_out_key(ref(one, "c1")))
        redis_instance.kill()
        redis_instance.start()
        await opted_out(one, "c1")


async def test_a_ledger_that_is_filled_again_reserves_nothing_twice(replicas: list[Gateway]) -> None:
    """After a copy was put back: what it knows itself, cancelled or long past, is not added to what is reserved."""
    one, two = replicas
    kept, cancelled = await contact(one, "c1"), await contact(one, "c2")
    async with two.client() as client:
        await client.post(f"/v1/decisions/{cancelled}/release", json={"consent": False})
    await one.redis.delete(contacts_key(ref(one, "c1")))  # as a booking trims contacts of more than 28 days
    for _ in range(2):
        await one.redis.delete("cs:generation")
        async with keeping(one, two):
            await opened(one)
            await told(one, two)
    assert await state(one, "c1", "c2") == ([False, False], [[kept.encode()], []], 600)


async def test_an_opt_out_is_published_though_it_was_refused_first(replicas: list[Gateway]) -> None:
    """The ledger was closed; upkeep set the key meanwhile, which must not hide the news from those who measure."""
    one, two = replicas
    decision_id = await contact(one, "c1")
    await one.redis.flushall()
    told_of = {"decision_id": decision_id, "outcome": "opted_out"}
    async with one.client() as client:
        assert (await client.post("/v1/outcomes", json=told_of)).status_code == 503
        async with keeping(one, two):
            await opened(one)
            await opted_out(one, "c1")
        for _ in range(2):
            assert (await client.post("/v1/outcomes", json=told_of)).status_code == 200
    entries = [fields for _, fields in await one.redis.xrange("cs:outbox")]
    assert [fields[b"outcome"] for fields in entries if b"outcome" in fields] == [b"opted_out"]
