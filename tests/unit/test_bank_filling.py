"""Filling the bank over a real Redis, with an engine and a shield that do as they are told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from churnsaver.domain.message import Brief
from churnsaver.domain.writing import SUBJECT
from services.generator import bank as bank_module
from services.generator import filling as filling_module
from services.generator import store as store_module
from services.generator.bank import Bank
from services.generator.engine import AWAY
from services.generator.filling import SECONDS_PER_DAY
from tests.conftest import RedisServer
from tests.support.generator import (
    GOOD,
    ScriptedEngine,
    ScriptedReview,
    build_bank,
    draft_for,
    filled,
    running,
    until,
)
from tests.support.metrics import sample

NOWHERE = "redis://127.0.0.1:1/0"
Build = Callable[..., Bank]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in (
        (bank_module, ("RETRY_S", "NEWS_S", "UPKEEP_S", "IDLE_S")),
        (filling_module, ("SHIELD_RETRY_S",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, 0.02)


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    """Builds banks, and closes their connections at the end."""
    clients: list[AsyncRedis] = []

    def build_at(url: str, engine: ScriptedEngine, review: ScriptedReview, **options: Any) -> Bank:
        clients.append(AsyncRedis.from_url(url, socket_timeout=0.5))
        return build_bank(clients[-1], engine, review, **options)

    yield build_at
    for client in clients:
        await client.aclose()


@pytest.fixture
def redis(redis_instance: RedisServer) -> Iterator[Redis]:
    """What a person sees of the same Redis."""
    with Redis.from_url(redis_instance.url) as client:
        yield client


def contents(bank: Bank) -> list[tuple[str, str]]:
    return [(entry.brief.key, entry.draft) for entry in bank.entries() if entry.message]


async def test_every_brief_gets_its_best_messages(build: Build, redis_instance: RedisServer) -> None:
    """All segments × offers × channels, as many as are wanted, the best by reward first, each reviewed once."""
    review = ScriptedReview()
    engine = ScriptedEngine()
    bank = await filled(build(redis_instance.url, engine, review))
    assert bank.briefs_filled == len(bank.wanted) == 45
    kept: dict[Brief, list[str]] = {}
    for entry in bank.entries():
        kept.setdefault(entry.brief, []).append(entry.draft)
    for brief, drafts in kept.items():
        assert drafts == [draft_for(brief.channel, text) for text in GOOD[:2]]
    assert set(review.seen) == {draft for drafts in kept.values() for draft in drafts}
    assert len(engine.seeds) == len(bank.prompts) == 27, "offers of one purpose share what is written"


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (ScriptedEngine(ended=False), "unfinished"),
        (ScriptedEngine(texts=[f"{SUBJECT}{text}" for text in GOOD]), "subject"),
        (ScriptedEngine(texts=[" "]), "empty"),
    ],
    ids=["cut off", "a subject too many", "empty"],
)
async def test_a_text_that_is_no_draft_is_counted_and_not_kept(
    build: Build, engine: ScriptedEngine, reason: str
) -> None:
    """None of them reaches the shield."""
    before = sample("generator_candidates_rejected_total", reason=reason) or 0.0
    review = ScriptedReview()
    bank = await filled(build(NOWHERE, engine, review))
    assert review.seen == []
    assert not any("Subject: It" in draft for _, draft in contents(bank))
    assert (sample("generator_candidates_rejected_total", reason=reason) or 0.0) > before


async def test_a_reward_that_is_not_sure_counts_less(build: Build) -> None:
    """Mean less standard deviation, as the writer was paid: what only one member likes ranks behind."""
    texts = ["Be sure: {offer}, {expiry}. {opt_out}", "A bit longer than it: {offer}, {expiry}. {opt_out}"]
    bank = await filled(build(NOWHERE, ScriptedEngine(texts=texts), ScriptedReview()))
    drafts = [entry.draft for entry in bank.entries() if entry.brief == next(iter(bank.wanted.values()))]
    assert ["sure" in draft for draft in drafts] == [False, True]


async def test_what_the_shield_blocks_is_not_kept(build: Build, redis_instance: RedisServer) -> None:
    """A blocked draft gives way to the next best; where all are blocked the brief stays empty."""
    bank = await filled(build(redis_instance.url, ScriptedEngine(), ScriptedReview(frozenset({"pleasure"}))))
    assert not any("pleasure" in draft for _, draft in contents(bank))
    none = await filled(build(redis_instance.url, ScriptedEngine(version="other@1"), ScriptedReview(frozenset("e"))))
    assert none.briefs_filled == 0


async def test_nothing_enters_while_the_shield_is_away(build: Build, redis_instance: RedisServer) -> None:
    """The bank waits for the review, and fills when the shield is back."""
    review = ScriptedReview(up=False)
    bank = build(redis_instance.url, ScriptedEngine(), review)
    async with running(bank):
        await asyncio.sleep(0.2)
        assert bank.briefs_filled == 0
        assert bank.filling
        review.up = True
        await until(lambda: bank.briefs_filled == 45)


async def test_a_restart_serves_from_redis_without_writing(build: Build, redis_instance: RedisServer) -> None:
    """The same version finds its messages; another model's does not."""
    first = await filled(build(redis_instance.url, ScriptedEngine(), ScriptedReview()))
    engine = ScriptedEngine()
    again = await filled(build(redis_instance.url, engine, ScriptedReview()))
    assert contents(again) == contents(first)
    assert engine.seeds == []
    other = build(redis_instance.url, ScriptedEngine(version="scripted@2"), ScriptedReview())
    await other.load()
    assert other.version != first.version
    assert other.briefs_filled == 0


async def test_damaged_entries_in_redis_are_written_again(
    build: Build, redis_instance: RedisServer, redis: Redis
) -> None:
    """Neither bad JSON, however deep, nor other fields, nor a name that is no text stop the service."""
    bank = await filled(build(redis_instance.url, ScriptedEngine(), ScriptedReview()))
    key, (first, second, *_) = f"cs:bank:{bank.version}", list(bank.wanted)
    redis.hset(key, mapping={first: "{not json", second: '[{"text": "?"}]', "no|such|brief": "[]"})
    damaged = {"message_id": [1], "verdict": "retired", "by": "x", "reason": "x", "at": 1.0, "brief": [1], "draft": "d"}
    redis.hset("cs:bank:judgements", mapping={"m": "{not json", "n": json.dumps(damaged), b"\xff": "[" * 100_000})
    redis.set("cs:bank:served", b"\xff")
    assert 0 < int(redis.ttl(key)) <= store_module.KEPT_S  # type: ignore[arg-type]
    again = build(redis_instance.url, ScriptedEngine(), ScriptedReview())
    await again.load()
    assert again.briefs_filled == 43
    async with running(again):
        await until(lambda: again.briefs_filled == 45)
    assert contents(again) == contents(bank)


@pytest.mark.parametrize(
    "changes",
    [
        {"score": None},
        {"score": "high"},
        {"score": float("inf")},
        {"message_id": [1]},
        {"message_id": None},
        {"written_at": "x"},
        {"draft": "Words that the shield has never seen. {offer} {expiry} {opt_out}"},
        {},
    ],
)
async def test_one_damaged_message_costs_that_message_only(
    build: Build, redis_instance: RedisServer, redis: Redis, changes: dict[str, Any]
) -> None:
    """A wrong type, another's words, or the same message twice: the rest of its brief is served, and it is written."""
    bank = await filled(build(redis_instance.url, ScriptedEngine(), ScriptedReview()))
    key, brief = f"cs:bank:{bank.version}", next(iter(bank.wanted))
    good, other = json.loads(redis.hget(key, brief))  # type: ignore[arg-type]
    redis.hset(key, brief, json.dumps([good, (other | changes) if changes else good]))
    again = build(redis_instance.url, ScriptedEngine(), ScriptedReview())
    await again.load()
    assert [each.message_id for each in again._own.held(brief)] == [good["message_id"]]
    async with running(again):
        # A lease that was renewed while its holder was cancelled runs for LEASE_MS.
        await until(lambda: contents(again) == contents(bank) and not again._unkept, 45.0)
    assert len({each["message_id"] for each in json.loads(redis.hget(key, brief))}) == 2  # type: ignore[arg-type]


async def test_it_fills_without_redis_and_stores_when_redis_is_back(build: Build, tmp_path: Path) -> None:
    """Messages are served from memory meanwhile."""
    server = RedisServer(tmp_path / "late")
    bank = build(server.url, ScriptedEngine(), ScriptedReview())
    async with running(bank):
        await until(lambda: not bank.filling)
        assert bank.briefs_filled == 45
        server.start()
        try:
            with Redis.from_url(server.url) as redis:
                await until(lambda: redis.hlen(f"cs:bank:{bank.version}") == 45)
        finally:
            server.kill()


async def test_what_redis_loses_is_stored_again(build: Build, redis_instance: RedisServer, redis: Redis) -> None:
    """Messages, who serves, and what people said."""
    bank = build(redis_instance.url, ScriptedEngine(), ScriptedReview())
    async with running(bank):
        await until(lambda: redis.get("cs:bank:served") == bank.version.encode())
        message_id = bank.entries()[0].message_id
        await bank.judge(message_id, bank_module.Verdict.APPROVED, by="Ana", reason="kind")
        redis.flushall()
        await until(lambda: redis.hlen(f"cs:bank:{bank.version}") == 45)
        await until(lambda: redis.hlen("cs:bank:judgements") == 1)
        await until(lambda: redis.get("cs:bank:served") == bank.version.encode())


async def test_a_full_redis_is_counted_and_serves_from_memory(
    build: Build, redis_instance: RedisServer, redis: Redis
) -> None:
    """It writes and gives out as if there were no Redis; what is stored later is all of it."""
    redis.config_set("maxmemory", "1")
    bank = build(redis_instance.url, ScriptedEngine(), ScriptedReview())
    before = sample("generator_bank_store_failures_total", reason="full") or 0.0
    async with running(bank):
        await until(lambda: not bank.filling)
        assert bank.choose(next(iter(bank.wanted.values())), 1) is not None
        assert redis.dbsize() == 0
        redis.config_set("maxmemory", "0")
        await until(lambda: redis.hlen(f"cs:bank:{bank.version}") == 45)
    assert (sample("generator_bank_store_failures_total", reason="full") or 0.0) > before


async def test_an_engine_that_fails_leaves_the_bank_empty_but_ends_the_filling(build: Build) -> None:
    """The approved text stands in; the service lives."""
    bank = await filled(build(NOWHERE, ScriptedEngine(broken=True), ScriptedReview()))
    assert bank.briefs_filled == 0


async def test_an_engine_that_is_back_is_asked_again_soon(build: Build) -> None:
    """Its outage is not the prompts' fault: they do not rest as those do that yield nothing."""
    engine = ScriptedEngine(broken=True)
    bank = await filled(build(NOWHERE, engine, ScriptedReview(), engine_share=1.0))
    engine.broken = False
    async with running(bank):
        assert bank.briefs_filled == 0  # those that failed a moment ago wait ENGINE_RETRY_S
        bank._filler._clock = lambda: time.time() + 11.0
        await until(lambda: bank.briefs_filled == len(bank.wanted))


async def test_the_first_filling_waits_for_an_engine_that_is_away(build: Build) -> None:
    """A server that starts for minutes uses up no tries, and then the filling has the whole engine."""
    engine = ScriptedEngine(broken=True, reason=AWAY)
    bank = build(NOWHERE, engine, ScriptedReview(), engine_share=0.0001)
    async with running(bank):
        await asyncio.sleep(1.0)
        assert bank.filling
        engine.broken = False
        await until(lambda: bank.briefs_filled == len(bank.wanted))


async def test_a_shield_that_stays_away_is_told(build: Build) -> None:
    """What could not be reviewed is counted, and the engine is asked for it again later."""
    review = ScriptedReview(up=False)
    bank = build(NOWHERE, ScriptedEngine(), review)
    async with running(bank):
        before = sample("generator_candidates_rejected_total", reason="unreviewed") or 0.0
        await until(lambda: (sample("generator_candidates_rejected_total", reason="unreviewed") or 0.0) > before)
        assert bank.filling


async def test_the_same_seed_fills_the_same_bank(build: Build) -> None:
    """The seed of each write depends on the prompt and what is held for it, not on what was written before it."""
    banks = [await filled(build(NOWHERE, engine, ScriptedReview())) for engine in (ScriptedEngine(), ScriptedEngine())]
    assert contents(banks[0]) == contents(banks[1])


async def test_replicas_do_not_write_the_same(build: Build, redis_instance: RedisServer) -> None:
    """One writes, the other takes what it has written; when the first ends, the other goes on."""
    engines = [ScriptedEngine(), ScriptedEngine()]
    first, second = (build(redis_instance.url, engine, ScriptedReview()) for engine in engines)
    async with running(second):
        async with running(first):
            await until(lambda: first.briefs_filled == second.briefs_filled == 45)
            await until(lambda: not first.filling and not second.filling)
            assert contents(first) == contents(second)
            assert sorted(len(engine.seeds) for engine in engines) == [0, 27]
            writer, other = (first, second) if engines[0].seeds else (second, first)
            await writer.judge(writer.entries()[0].message_id, bank_module.Verdict.RETIRED, by="Ana", reason="rude")
            await until(lambda: contents(other) == contents(writer) and len(contents(writer)) == 90)
        engines[1].seeds.clear()
        await second.judge(second.entries()[0].message_id, bank_module.Verdict.RETIRED, by="Ana", reason="rude")
        await until(lambda: bool(engines[1].seeds))


async def test_what_is_asked_for_most_is_written_first(build: Build) -> None:
    """Before anything was asked for, the order is that of the offers."""
    prompts: list[str] = []

    class Watched(ScriptedEngine):
        async def write(self, prompt: str, count: int, seed: int) -> list[Any]:
            prompts.append(prompt)
            return await super().write(prompt, count, seed)

    bank = build(NOWHERE, Watched(), ScriptedReview())
    loved = list(bank.wanted.values())[-1]
    for seed in range(3):
        assert bank.choose(loved, seed) is None
    await filled(bank)
    assert loved in bank.prompts[prompts[0]]


async def test_there_is_room_for_so_many_messages(build: Build) -> None:
    """The briefs that are asked for most have theirs; when others come into demand, they take the room."""
    bank = build(NOWHERE, ScriptedEngine(), ScriptedReview(), max_messages=8, engine_share=1.0)
    *_, loved = bank.wanted.values()
    async with running(bank):
        await until(lambda: not bank.filling)
        assert 0 < len(contents(bank)) <= 8
        assert loved.key not in dict(contents(bank))
        bank.choose(loved, 1)
        await until(lambda: bank.choose(loved, 1) is not None)
        assert 0 < len(contents(bank)) <= 8


async def test_what_there_is_no_room_for_is_not_written_again_and_again(build: Build) -> None:
    """A brief that is asked for holds the room of those that share its prompt, and not of a prompt asked for less."""
    engine = ScriptedEngine()
    bank = build(NOWHERE, engine, ScriptedReview(), max_messages=8, engine_share=1.0)
    alone = [briefs[0] for briefs in bank.prompts.values() if len(briefs) == 1]
    shared = next(briefs for briefs in bank.prompts.values() if len(briefs) == 3)
    async with running(bank):
        await until(lambda: alone[0].key in dict(contents(bank)))
        for brief, times in ((alone[0], 2), (shared[0], 5), (alone[-1], 4)):
            for seed in range(times):
                bank.choose(brief, seed)
        wanted = {brief.key for brief in (*shared, alone[-1])}
        await until(lambda: set(dict(contents(bank))) == wanted)
        written = len(engine.seeds)
        await asyncio.sleep(0.3)
        assert (len(engine.seeds), len(contents(bank))) == (written, 8)


async def test_old_messages_are_replaced_by_new_ones(build: Build, redis_instance: RedisServer) -> None:
    """They are given out until then; new words come, because the seed depends on what is held."""
    now = [1e9]
    texts = [f"Words {i}: {{offer}} until {{expiry}}. {{opt_out}}" for i in range(1000)]
    engine = ScriptedEngine(texts=texts)
    bank = build(
        redis_instance.url, engine, ScriptedReview(), clock=lambda: now[0], max_age_days=10.0, engine_share=1.0
    )
    async with running(bank):
        await until(lambda: not bank.filling)
        before = contents(bank)
        now[0] += 10 * SECONDS_PER_DAY + 1
        await until(lambda: all(entry.message.written_at == now[0] for entry in bank.entries() if entry.message))
        assert len(contents(bank)) == len(before) == 90
        assert len(set(contents(bank)) & set(before)) < 45


async def test_refilling_keeps_to_its_share_of_the_engine(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write of 50 ms is followed by three times as much pause at a share of a quarter; the first filling has none."""

    class Slow(ScriptedEngine):
        async def write(self, prompt: str, count: int, seed: int) -> list[Any]:
            await asyncio.sleep(0.05)
            return await super().write(prompt, count, seed)

    monkeypatch.setattr(filling_module, "REST_S", 0.0)
    engine = Slow(texts=GOOD[:1])  # one message where two are wanted: it is never done
    bank = build(NOWHERE, engine, ScriptedReview(), engine_share=0.25)
    async with running(bank):
        await until(lambda: not bank.filling)
        before = len(engine.seeds)
        await asyncio.sleep(2.0)
        assert 4 <= len(engine.seeds) - before <= 10


async def test_a_brief_that_cannot_be_written_rests(build: Build) -> None:
    """After some tries its prompt is left alone for a while, so that the engine is free."""
    engine = ScriptedEngine(texts=GOOD[:1])
    bank = build(NOWHERE, engine, ScriptedReview(), engine_share=1.0)
    async with running(bank):
        await until(lambda: len(engine.seeds) == filling_module.MAX_TRIES * len(bank.prompts))
        await asyncio.sleep(0.2)
        assert len(engine.seeds) == filling_module.MAX_TRIES * len(bank.prompts)
