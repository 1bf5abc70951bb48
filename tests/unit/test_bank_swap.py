"""From one model's bank to the next, and what people say meanwhile; over a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from churnsaver.errors import BadInput
from churnsaver.message_counts import message_counts_key
from churnsaver.tasks import stop_tasks
from services.generator import bank as bank_module
from services.generator.bank import Bank
from services.generator.filling import SECONDS_PER_DAY
from services.generator.message import Verdict
from services.generator.store import FORMER_KEPT_S, KEPT_S
from tests.conftest import RedisServer
from tests.support.generator import (
    ScriptedEngine,
    ScriptedReview,
    build_bank,
    filled,
    running,
    until,
)
from tests.support.metrics import grows, sample

Build = Callable[..., Bank]
NEW_TEXTS = tuple(f"New words {i}: {{offer}} until {{expiry}}. {{opt_out}}" for i in range(10))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_S", "NEWS_S", "UPKEEP_S", "IDLE_S"):
        monkeypatch.setattr(bank_module, name, 0.02)


@pytest.fixture
async def build(redis_instance: RedisServer) -> AsyncIterator[Build]:
    """Builds banks that share a Redis."""
    clients: list[AsyncRedis] = []

    def build_one(engine: ScriptedEngine, review: ScriptedReview | None = None, **options: Any) -> Bank:
        clients.append(AsyncRedis.from_url(redis_instance.url, socket_timeout=2.0))
        return build_bank(clients[-1], engine, review or ScriptedReview(), **options)

    yield build_one
    for client in clients:
        await client.aclose()


@pytest.fixture
def redis(redis_instance: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_instance.url) as client:
        yield client


class Gated(ScriptedEngine):
    """Writes for some prompts, and for others when it may."""

    def __init__(self, prompts: int = 5, *, opened: bool = False, version: str = "scripted@2", **changes: Any) -> None:
        super().__init__(texts=NEW_TEXTS, version=version, **changes)
        self.prompts, self.may = prompts, asyncio.Event()
        if opened:
            self.may.set()

    async def write(self, prompt: str, count: int, seed: int) -> list[Any]:
        written = await super().write(prompt, count, seed)
        if len(self.seeds) > self.prompts:
            await self.may.wait()
        return written


def models(bank: Bank) -> set[str]:
    """Who wrote what the briefs get."""
    chosen = (bank.choose(brief, 1) for brief in bank.wanted.values())
    return {message.model for message, _ in filter(None, chosen)}


async def test_a_new_bank_takes_over_whole(build: Build, redis: Redis) -> None:
    """The former one's messages are given out until the last prompt is written, then the new one's alone."""
    former = await filled(build(ScriptedEngine()))
    engine = Gated()
    bank = build(engine, former=former)
    async with running(bank):
        await until(lambda: bank.briefs_filled >= 5)
        assert (models(bank), bank.filling) == ({"scripted@1"}, True)
        assert sample("generator_bank_swap_pending") == 1
        states = {entry.state.value for entry in bank.entries()}
        assert states == {"active", "next"}
        engine.may.set()
        await until(lambda: models(bank) == {"scripted@2"})
        assert {entry.state.value for entry in bank.entries()} == {"active"}
        await until(lambda: redis.get("cs:bank:served") == bank.version.encode())


async def test_a_bank_that_is_much_emptier_does_not_take_over(build: Build) -> None:
    """A model that can write for a few briefs only is no step forward; what it lacks does not go missing."""
    former = await filled(build(ScriptedEngine()))
    bank = build(
        ScriptedEngine(texts=NEW_TEXTS, version="scripted@2"), ScriptedReview(frozenset({"Subject"})), former=former
    )
    async with running(bank):
        await until(lambda: not bank.filling)
        assert bank.briefs_filled == 30
        assert models(bank) == {"scripted@1"}
        assert sample("generator_bank_briefs") == 45


@pytest.mark.parametrize("prompts", [0, 2])
async def test_a_bank_that_was_hardly_filled_is_not_waited_for(build: Build, prompts: int) -> None:
    """As after a start at which the vLLM server was not there yet: its successor gives out what it has so far."""
    former = build(Gated(prompts, version="scripted@1"))
    async with running(former):
        await until(lambda: former.briefs_filled == prompts)
    bank = build(Gated(), former=former)
    await bank.load()
    assert models(bank) == ({"scripted@1"} if prompts else set())
    async with running(bank):
        await until(lambda: models(bank) == {"scripted@2"})
        assert bank.filling


async def test_a_restart_in_the_middle_goes_on_serving_the_former_bank(build: Build, redis: Redis) -> None:
    """The process that begins knows from Redis which bank served; a replica hears when another takes over."""
    async with running(build(ScriptedEngine())):
        await until(lambda: redis.exists("cs:bank:served") == 1)
    engine = Gated()
    bank, replica = build(engine), build(Gated(opened=True))
    async with running(bank, replica):
        await until(lambda: bank.briefs_filled >= 5)
        assert models(bank) == models(replica) == {"scripted@1"}
        engine.may.set()
        await until(lambda: models(bank) == models(replica) == {"scripted@2"})


async def test_what_the_former_bank_does_until_the_end_is_taken_over(build: Build, redis: Redis) -> None:
    """A bank is prepared seconds before it serves; meanwhile the former one may settle, or hear a judgement."""
    oldest = await filled(build(ScriptedEngine()))
    engine = Gated()
    former = build(engine, former=oldest)
    async with running(former):
        await until(lambda: former.briefs_filled >= 5)
        bank = build(ScriptedEngine(texts=NEW_TEXTS, version="scripted@3"), former=former)
        assert models(bank) == {"scripted@1"}
        engine.may.set()
        await until(lambda: models(former) == {"scripted@2"} and not former._unkept)
        assert models(bank) == {"scripted@2"}
    redis.config_set("maxmemory", "1")
    await former.judge(former.entries()[0].message_id, Verdict.RETIRED, by="Ana", reason="rude")
    await bank.load()
    assert models(bank) == {"scripted@2"}
    assert bank._predecessor is None, "or all banks there ever were would stay in memory"
    redis.config_set("maxmemory", "0")
    async with running(bank):
        await until(lambda: redis.hlen("cs:bank:judgements") == 1)


async def test_going_back_takes_over_at_once(build: Build) -> None:
    """The bank of the version before is still in Redis."""
    former = await filled(build(ScriptedEngine()))
    newer = await filled(build(ScriptedEngine(texts=NEW_TEXTS, version="scripted@2"), former=former))
    engine = ScriptedEngine()
    again = build(engine, former=newer)
    async with running(again):
        await until(lambda: models(again) == {"scripted@1"})
    assert engine.seeds == []


async def test_what_was_superseded_is_kept_for_two_days(build: Build, redis: Redis) -> None:
    """Though a replica still looks at it. Who goes back to it makes it stay."""
    old, new = build(ScriptedEngine()), build(ScriptedEngine(texts=NEW_TEXTS, version="scripted@2"))

    def kept_s(bank: Bank) -> int:
        return int(redis.ttl(f"cs:bank:{bank.version}"))  # type: ignore[arg-type]

    async with running(old):
        await until(lambda: old._said)
        assert FORMER_KEPT_S < kept_s(old) <= KEPT_S
        async with running(new):
            await until(lambda: new._said and kept_s(old) <= FORMER_KEPT_S)
            await asyncio.sleep(0.2)
            assert kept_s(old) <= FORMER_KEPT_S < kept_s(new)
    again = build(ScriptedEngine(), former=new)
    async with running(again):
        await until(lambda: again._said)
        assert kept_s(new) <= FORMER_KEPT_S < kept_s(old)


async def test_what_is_said_of_a_message_reaches_every_replica(build: Build) -> None:
    """A retired message is not given out any more, and never written again; nor does the new bank serve it."""
    banks = [build(ScriptedEngine()), build(ScriptedEngine())]
    async with running(*banks):
        await until(lambda: all(not bank.filling for bank in banks))
        one = banks[0].entries()[0]
        with grows("generator_bank_retired_total", why="person"):
            assert await banks[0].judge(one.message_id, Verdict.RETIRED, by="Ana", reason="rude")
        await until(lambda: banks[1].is_retired(one.message_id))
        for bank in banks:
            assert all(bank.choose(one.brief, seed)[0].message_id != one.message_id for seed in range(40))  # type: ignore[index]
    later = await filled(build(ScriptedEngine(version="scripted@2"), former=banks[0]))
    assert [e.state.value for e in later.entries() if e.message_id == one.message_id] == ["retired"]
    fresh = build(ScriptedEngine())
    await fresh.load()
    assert fresh.is_retired(one.message_id)


async def test_a_judgement_holds_here_while_redis_is_away(
    build: Build, redis_instance: RedisServer, redis: Redis
) -> None:
    """Who asks is told that it is not stored; it is when Redis has room again."""
    bank = build(ScriptedEngine())
    async with running(bank):
        await until(lambda: not bank.filling)
        await until(lambda: not bank._unkept)
        redis.config_set("maxmemory", "1")
        one = bank.entries()[0]
        assert await bank.judge(one.message_id, Verdict.RETIRED, by="Ana", reason="rude") is False
        assert bank.is_retired(one.message_id)
        assert redis.hlen("cs:bank:judgements") == 0
        redis.config_set("maxmemory", "0")
        await until(lambda: redis.hlen("cs:bank:judgements") == 1)


async def test_what_is_damaged_while_it_runs_is_stored_again(build: Build, redis: Redis) -> None:
    """A retirement in the same news is heard; so is one whose own value was damaged, for memory still has it."""
    bank = build(ScriptedEngine())
    async with running(bank):
        await until(lambda: not bank.filling and not bank._unkept)
        one, other = bank.entries()[0], bank.entries()[-1]
        await bank.judge(one.message_id, Verdict.RETIRED, by="Ana", reason="rude")
        retired = json.loads(redis.hget("cs:bank:judgements", one.message_id))  # type: ignore[arg-type]
        said = retired | {"message_id": other.message_id, "brief": other.brief.key, "draft": other.draft}
        key = f"cs:bank:{bank.version}"
        with redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, other.brief.key, '[{"score": null}]')
            pipe.hset("cs:bank:judgements", one.message_id, json.dumps(retired | {"brief": [1]}))
            pipe.hset("cs:bank:judgements", other.message_id, json.dumps(said))
            pipe.xadd("cs:bank:news", {bank.version: other.brief.key})
            for each in (one, other):
                pipe.xadd("cs:bank:news", {"judged": each.message_id})
            pipe.execute()
        await until(lambda: bank.is_retired(other.message_id))
        await until(lambda: json.loads(redis.hget("cs:bank:judgements", one.message_id)) == retired)  # type: ignore[arg-type]
        await until(lambda: b"null" not in redis.hget(key, other.brief.key))  # type: ignore[operator]
        assert bank._own.held(other.brief.key)


@pytest.mark.parametrize(
    ("message_id", "by", "reason", "said"),
    [("none", "Ana", "rude", "bank list"), (None, " ", "rude", "by is empty"), (None, "Ana", "", "reason is empty")],
)
async def test_a_judgement_that_cannot_be_is_refused(
    build: Build, message_id: str | None, by: str, reason: str, said: str
) -> None:
    """Nothing is decided by nobody, or for no reason, or about nothing."""
    bank = await filled(build(ScriptedEngine()))
    with pytest.raises(BadInput, match=said):
        await bank.judge(message_id or bank.entries()[0].message_id, Verdict.RETIRED, by=by, reason=reason)


async def test_nothing_is_given_out_before_a_person_approves_it(build: Build) -> None:
    """Where the settings ask for it; a new model's messages wait while the former ones serve."""
    bank = build(ScriptedEngine(), approval="person")
    async with running(bank):
        await until(lambda: not bank.filling)
        assert (bank.briefs_filled, models(bank)) == (45, set())
        assert {entry.state.value for entry in bank.entries()} == {"waiting"}
        for entry in bank.entries():
            assert await bank.judge(entry.message_id, Verdict.APPROVED, by="Ana", reason="read it")
        assert models(bank) == {"scripted@1"}
    later = build(ScriptedEngine(texts=NEW_TEXTS, version="scripted@2"), approval="person", former=bank)
    async with running(later):
        await until(lambda: not later.filling)
        assert models(later) == {"scripted@1"}
        for entry in later.entries():
            if entry.state.value == "waiting":
                await later.judge(entry.message_id, Verdict.APPROVED, by="Ana", reason="read it")
        await until(lambda: models(later) == {"scripted@2"})


async def test_approved_messages_stay_until_new_ones_are_approved(build: Build) -> None:
    """However old they are: what waits is held beside them, and what was approved takes their place."""
    now = [1e9]
    texts = [f"Words {i}: {{offer}} until {{expiry}}. {{opt_out}}" for i in range(1000)]
    options: dict[str, Any] = {"clock": lambda: now[0], "max_age_days": 10.0, "engine_share": 1.0}
    bank = build(ScriptedEngine(texts=texts), approval="person", **options)
    async with running(bank):
        await until(lambda: not bank.filling)
        for entry in bank.entries():
            await bank.judge(entry.message_id, Verdict.APPROVED, by="Ana", reason="read it")
        now[0] += 10 * SECONDS_PER_DAY + 1
        await until(lambda: len(bank.entries()) == 2 * 90)
        assert bank._own.briefs_served == 45
        for entry in [each for each in bank.entries() if each.state.value == "waiting"]:
            await bank.judge(entry.message_id, Verdict.APPROVED, by="Ana", reason="read it")
        entries = [each for each in bank.entries() if each.message]
        assert len(entries) == 90
        assert {each.message.written_at for each in entries if each.message} == {now[0]}


async def test_what_was_approved_survives_a_replica_that_starts_while_redis_is_away(
    build: Build, redis_instance: RedisServer
) -> None:
    """It fills an empty bank with other words, which then wait beside those that everybody else gives out."""
    bank = build(ScriptedEngine(), approval="person")
    replica = build(ScriptedEngine(texts=NEW_TEXTS), approval="person")
    async with running(bank):
        await until(lambda: not bank.filling)
        one, *others = bank.entries()
        await bank.judge(one.message_id, Verdict.RETIRED, by="Ana", reason="rude")
        for entry in others:
            await bank.judge(entry.message_id, Verdict.APPROVED, by="Ana", reason="read it")
        redis_instance.kill()
        async with running(replica):
            await until(lambda: replica.briefs_filled == 45)
            assert replica._own.briefs_served == 0
            redis_instance.start()
            await until(lambda: replica._own.briefs_served == 45 and not replica._unkept)
            await until(lambda: dict(bank._own) == dict(replica._own))
            assert bank._own.briefs_served == 45
            waiting = [each for each in bank.entries() if each.state.value == "waiting"]
            assert [each.brief for each in waiting] == [one.brief], "in the place of what was retired"


async def test_an_approval_that_was_damaged_can_be_given_again(build: Build, redis: Redis) -> None:
    """It takes the place of what cannot be read, and never that of a retirement."""
    bank = build(ScriptedEngine(), approval="person")
    async with running(bank):
        await until(lambda: not bank.filling)
        one, other = (entry.message_id for entry in bank.entries()[:2])
        redis.hset("cs:bank:judgements", mapping={one: "{not json", other: '{"verdict": "retired"}'})
        for each in (one, other):
            assert await bank.judge(each, Verdict.APPROVED, by="Ana", reason="read it")
        assert json.loads(redis.hget("cs:bank:judgements", one))["verdict"] == "approved"  # type: ignore[arg-type]
        assert redis.hget("cs:bank:judgements", other) == b'{"verdict": "retired"}'


async def test_a_message_that_left_the_bank_can_be_retired(build: Build, redis: Redis) -> None:
    """Contacts may still be booked with it. There is nothing about it to approve."""
    bank = await filled(build(ScriptedEngine()))
    redis.hset(message_counts_key("gone"), "uses", 3)
    with pytest.raises(BadInput, match="bank list"):
        await bank.judge("gone", Verdict.APPROVED, by="Ana", reason="fine")
    assert await bank.judge("gone", Verdict.RETIRED, by="Ana", reason="rude")
    assert json.loads(redis.hget("cs:bank:judgements", "gone"))["verdict"] == "retired"  # type: ignore[arg-type]
    again = build(ScriptedEngine())
    await again.load()
    assert again.is_retired("gone")
    assert len(again.entries()) == len(bank.entries()) == 90


async def test_what_is_decided_is_heard_before_anything_may_be_written(build: Build) -> None:
    """At a swap the former engine ends first, which may take minutes."""
    bank = await filled(build(ScriptedEngine()))
    engine = ScriptedEngine(texts=NEW_TEXTS, version="scripted@2")
    later = build(engine, former=bank)
    await later.load()
    running_later = asyncio.create_task(later.run(asyncio.Event()))
    other = build(ScriptedEngine())
    await other.load()
    retired = other.entries()[0].message_id
    assert await other.judge(retired, Verdict.RETIRED, by="Ana", reason="rude")
    await until(lambda: later.is_retired(retired))
    assert engine.seeds == []
    await stop_tasks([running_later])


async def test_two_versions_do_not_argue_about_who_serves(build: Build, redis: Redis) -> None:
    """As in a canary's days: each says so once, and a restart of either changes nothing that the other gives out."""
    banks = [build(ScriptedEngine()), build(ScriptedEngine(texts=NEW_TEXTS, version="scripted@2"))]
    async with running(*banks):
        await until(lambda: all(bank._said for bank in banks))
        before = redis.xlen("cs:bank:news")
        await asyncio.sleep(0.5)
        assert redis.xlen("cs:bank:news") == before


async def test_a_retirement_that_redis_has_not_heard_survives_a_swap(build: Build, redis: Redis) -> None:
    """The new model's bank tells it."""
    bank = await filled(build(ScriptedEngine()))
    redis.config_set("maxmemory", "1")
    one = bank.entries()[0]
    await bank.judge(one.message_id, Verdict.RETIRED, by="Ana", reason="rude")
    redis.config_set("maxmemory", "0")
    assert redis.hlen("cs:bank:judgements") == 0
    async with running(build(ScriptedEngine(texts=NEW_TEXTS, version="scripted@2"), former=bank)):
        await until(lambda: redis.hlen("cs:bank:judgements") == 1)


async def test_a_retirement_wins_over_an_approval_that_redis_came_back_with(build: Build, redis: Redis) -> None:
    """From a snapshot; a replica that starts later would give the message out again."""
    bank = build(ScriptedEngine())
    async with running(bank):
        await until(lambda: not bank.filling)
        one = bank.entries()[0].message_id
        await bank.judge(one, Verdict.APPROVED, by="Ana", reason="read it")
        approved = redis.hget("cs:bank:judgements", one)
        await bank.judge(one, Verdict.RETIRED, by="Ana", reason="rude")
        redis.hset("cs:bank:judgements", one, approved)  # type: ignore[arg-type]
        redis.xadd("cs:bank:news", {"judged": one})
        await until(lambda: json.loads(redis.hget("cs:bank:judgements", one))["verdict"] == "retired")  # type: ignore[arg-type]


async def test_outcomes_retire_a_message_on_every_replica(build: Build, redis: Redis) -> None:
    """What the gateway counts is read by the replica that writes; the others hear of it."""
    banks = [build(ScriptedEngine()), build(ScriptedEngine())]
    async with running(*banks):
        await until(lambda: all(not bank.filling for bank in banks))
        bad, good = banks[0].entries()[:2]
        assert bad.brief == good.brief
        with grows("generator_bank_retired_total", why="evidence"):
            redis.hset(message_counts_key(good.message_id), mapping={"20000:uses": 300, "20000:opted_out": 3})
            redis.hset(message_counts_key(bad.message_id), mapping={"20000:uses": 300, "20000:opted_out": 30})
            await until(lambda: all(bank.is_retired(bad.message_id) for bank in banks))
        assert not any(bank.is_retired(good.message_id) for bank in banks)
        [entry] = [each for each in banks[1].entries() if each.message_id == bad.message_id]
        assert entry.judgement is not None
        assert (entry.judgement.by, "30 of 300 against 3 of 300" in entry.judgement.reason) == ("evidence", True)


async def test_outcomes_do_not_judge_again_what_a_person_retires_meanwhile(
    build: Build, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks is told the person's name and reason."""
    bank = await filled(build(ScriptedEngine()))
    bad, good = bank.entries()[:2]
    redis.hset(message_counts_key(good.message_id), mapping={"20000:uses": 300, "20000:opted_out": 3})
    redis.hset(message_counts_key(bad.message_id), mapping={"20000:uses": 300, "20000:opted_out": 30})
    counts = bank._store.counts

    async def and_meanwhile(message_ids: list[str]) -> Any:
        counted = await counts(message_ids)
        await bank.judge(bad.message_id, Verdict.RETIRED, by="Ana", reason="rude")
        return counted

    monkeypatch.setattr(bank._store, "counts", and_meanwhile)
    await bank._weigh()
    assert json.loads(redis.hget("cs:bank:judgements", bad.message_id))["by"] == "Ana"  # type: ignore[arg-type]
