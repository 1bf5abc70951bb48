"""The bank over a real Redis, with an engine and a shield that do as they are told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from churnsaver.domain.message import Brief
from churnsaver.domain.writing import SUBJECT
from churnsaver.tasks import stop_tasks
from services.generator import bank as bank_module
from services.generator.bank import Bank
from tests.conftest import RedisServer
from tests.support.generator import GOOD, ScriptedEngine, ScriptedReview, build_bank, draft_for
from tests.support.metrics import sample

NOWHERE = "redis://127.0.0.1:1/0"
Build = Callable[[str, ScriptedEngine, ScriptedReview], Bank]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "RETRY_S", 0.02)


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    """Builds banks, and closes their connections at the end."""
    clients: list[AsyncRedis] = []

    def build_at(url: str, engine: ScriptedEngine, review: ScriptedReview) -> Bank:
        clients.append(AsyncRedis.from_url(url, socket_timeout=0.5))
        return build_bank(clients[-1], engine, review)

    yield build_at
    for client in clients:
        await client.aclose()


async def filled(bank: Bank) -> Bank:
    await bank.load()
    await asyncio.wait_for(bank.fill(), 20)
    return bank


async def until_written(bank: Bank) -> None:
    """Until nothing more is written, though it may still wait to be stored."""
    while bank.filling:  # noqa: ASYNC110 - a flag that the service reports; nothing else waits for it
        await asyncio.sleep(0.02)


async def written(bank: Bank) -> Bank:
    """All that it writes where there is no Redis to store it."""
    filling = asyncio.create_task(bank.fill())
    await until_written(bank)
    await stop_tasks([filling])
    return bank


def contents(bank: Bank) -> list[tuple[str, str]]:
    return [(brief.key, message.draft) for brief, message in bank.entries()]


async def test_every_brief_gets_its_best_messages(build: Build, redis_instance: RedisServer) -> None:
    """All segments × offers × channels, as many as are wanted, the best by reward first, each reviewed once."""
    review = ScriptedReview()
    engine = ScriptedEngine()
    bank = await filled(build(redis_instance.url, engine, review))
    assert bank.briefs_filled == len(bank.wanted) == 45
    assert not bank.filling
    kept: dict[Brief, list[str]] = {}
    for brief, message in bank.entries():
        kept.setdefault(brief, []).append(message.draft)
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
    bank = await written(build(NOWHERE, engine, review))
    assert (bank.briefs_filled, review.seen) == (0, [])
    assert (sample("generator_candidates_rejected_total", reason=reason) or 0.0) > before


async def test_a_reward_that_is_not_sure_counts_less(build: Build) -> None:
    """Mean less standard deviation, as the writer was paid: what only one member likes ranks behind."""
    texts = ["Be sure: {offer}, {expiry}. {opt_out}", "A bit longer than it: {offer}, {expiry}. {opt_out}"]
    bank = await written(build(NOWHERE, ScriptedEngine(texts=texts), ScriptedReview()))
    drafts = [message.draft for brief, message in bank.entries() if brief == next(iter(bank.wanted.values()))]
    assert ["sure" in draft for draft in drafts] == [False, True]


async def test_what_the_shield_blocks_is_not_kept(build: Build, redis_instance: RedisServer) -> None:
    """A blocked draft gives way to the next best; where all are blocked the brief stays empty."""
    bank = await filled(build(redis_instance.url, ScriptedEngine(), ScriptedReview(frozenset({"pleasure"}))))
    assert not any("pleasure" in draft for _, draft in contents(bank))
    none = await filled(build(redis_instance.url, ScriptedEngine(version="other@1"), ScriptedReview(frozenset("e"))))
    assert none.briefs_filled == 0
    assert not none.filling


async def test_nothing_enters_while_the_shield_is_away(build: Build, redis_instance: RedisServer) -> None:
    """The bank waits for the review, and fills when the shield is back."""
    review = ScriptedReview(up=False)
    bank = build(redis_instance.url, ScriptedEngine(), review)
    filling = asyncio.create_task(bank.fill())
    await asyncio.sleep(0.2)
    assert bank.briefs_filled == 0
    assert bank.filling
    review.up = True
    await asyncio.wait_for(filling, 20)
    assert bank.briefs_filled == 45


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


async def test_damaged_entries_in_redis_are_written_again(build: Build, redis_instance: RedisServer) -> None:
    """Neither bad JSON nor other fields stop the service."""
    bank = await filled(build(redis_instance.url, ScriptedEngine(), ScriptedReview()))
    key, (first, second, *_) = f"cs:bank:{bank.version}", list(bank.wanted)
    with Redis.from_url(redis_instance.url) as redis:
        redis.hset(key, mapping={first: "{not json", second: '[{"text": "?"}]', "no|such|brief": "[]"})
        assert 0 < redis.ttl(key) <= bank_module.KEPT_S
    again = build(redis_instance.url, ScriptedEngine(), ScriptedReview())
    await again.load()
    assert again.briefs_filled == 43
    await filled(again)
    assert contents(again) == contents(bank)


async def test_it_fills_without_redis_and_stores_when_redis_is_back(build: Build, tmp_path: Path) -> None:
    """Messages are served from memory meanwhile."""
    server = RedisServer(tmp_path / "late")
    bank = build(server.url, ScriptedEngine(), ScriptedReview())
    await bank.load()
    filling = asyncio.create_task(bank.fill())
    await until_written(bank)
    assert bank.briefs_filled == 45
    server.start()
    try:
        await asyncio.wait_for(filling, 10)
        with Redis.from_url(server.url) as redis:
            assert redis.hlen(f"cs:bank:{bank.version}") == 45
    finally:
        server.kill()


async def test_an_engine_that_fails_leaves_the_bank_empty_but_ends_the_filling(build: Build) -> None:
    """The approved text stands in; the service lives."""
    bank = await filled(build(NOWHERE, ScriptedEngine(broken=True), ScriptedReview()))
    assert bank.briefs_filled == 0
    assert not bank.filling


async def test_the_choice_is_uniform_and_its_propensity_is_recorded(build: Build, redis_instance: RedisServer) -> None:
    """Same seed, same message; over seeds each comes as often as its propensity says."""
    bank = await filled(build(redis_instance.url, ScriptedEngine(), ScriptedReview()))
    brief = next(iter(bank.wanted.values()))
    chosen = [bank.choose(brief, seed) for seed in range(2000)]
    assert chosen == [bank.choose(brief, seed) for seed in range(2000)]
    counts = Counter(message.message_id for message, _ in filter(None, chosen))
    assert {propensity for _, propensity in filter(None, chosen)} == {0.5}
    assert len(counts) == 2
    assert min(counts.values()) > 900  # 1000 ± 22 each; this is 4.5 standard deviations
    assert sum(bank.uses.values()) == 4000


async def test_the_same_seed_fills_the_same_bank(build: Build) -> None:
    """The seed of each write depends on the prompt alone, not on what was written before it."""
    banks = [build(NOWHERE, engine, ScriptedReview()) for engine in (ScriptedEngine(), ScriptedEngine())]
    for bank in banks:
        await written(bank)
    assert contents(banks[0]) == contents(banks[1])
