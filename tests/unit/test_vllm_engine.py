"""The vLLM engine against a server that speaks as vLLM does over real HTTP, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from churnsaver.checkpoints import Checkpoint, open_checkpoint, write_checkpoint
from churnsaver.domain.message import Brief
from churnsaver.errors import CheckpointError
from churnsaver.models.adapters import ADAPTER, ADAPTER_CONFIG, BASE, WRITER, Base
from churnsaver.models.language_model import GOLDEN_TOLERANCE_NATS
from churnsaver.reward import REWARD
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from churnsaver.settings import GeneratorSettings, load_message_books, load_serve_settings, load_world
from services.generator import bootstrap, vllm_engine, vllm_server
from services.generator.bootstrap import Shift
from services.generator.engine import Candidate, EngineFailed
from services.generator.generate import Writer
from services.generator.prompt import prompt
from services.generator.vllm_adapters import AdapterFolder
from services.generator.vllm_engine import VllmEngine
from services.generator.vllm_server import VllmServer
from tests.support.generator import ScriptedReview, ScriptedReward, build_bank
from tests.support.metrics import grows, sample
from tests.support.vllm import LOG_PROB, TEXT, StandIn, running

FAILURES = "generator_engine_failures_total"
BRIEF = Brief(segment="loyal", offer="discount_10", tone="plain", channel="sms", language="en")
WORLD = load_world()
OURS = Base(name="tiny", sha256="ab" * 32)


def writer_checkpoint(
    folder: Path, weights: bytes = b"weights", base: Base = OURS, log_prob: float = LOG_PROB
) -> Checkpoint:
    golden = [{"brief": BRIEF.model_dump(), "text": TEXT, "mean_log_prob": log_prob}]
    files = {
        ADAPTER: weights,
        ADAPTER_CONFIG: json.dumps({"peft_type": "LORA", "base_model_name_or_path": base.name}).encode(),
        BASE: base.model_dump_json().encode(),
        "golden.json": json.dumps(golden).encode(),
    }
    write_checkpoint(folder, WRITER, files, seed=42, metrics={})
    return open_checkpoint(folder, WRITER)


def settings(there: StandIn) -> GeneratorSettings:
    shipped = load_serve_settings().generator
    changes = {"url": there.url, "adapters": there.adapters, "max_concurrency": 2, "quantization": "none"}
    return GeneratorSettings.model_validate(shipped.model_dump() | {"engine": "vllm", "vllm": changes})


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[StandIn]:
    """A server that works, until a test says otherwise."""
    async with running(StandIn(OURS.served_name, tmp_path / "adapters")) as started:
        yield started


@pytest.fixture
async def server(there: StandIn) -> AsyncIterator[VllmServer]:
    client = VllmServer(settings(there).vllm)
    yield client
    await client.close()


@pytest.fixture
async def engine(there: StandIn, server: VllmServer, tmp_path: Path) -> AsyncIterator[VllmEngine]:
    opened = await VllmEngine.open(server, writer_checkpoint(tmp_path / "a"), settings(there), WORLD)
    yield opened
    await opened.close()


def build_writer(engine: VllmEngine) -> Writer:
    bank = build_bank(Redis(port=1), engine, ScriptedReview())
    return Writer(WORLD, load_message_books(), bank, engine, ScriptedReward(), ScriptedReview())


async def test_texts_are_asked_for_as_the_settings_say(there: StandIn, engine: VllmEngine) -> None:
    """The versioned name, the brief's ChatML as it is, seed, count and stop; ended is what stopped by itself."""
    told = prompt(BRIEF, WORLD)
    assert await engine.write(told, 3, 7) == [Candidate(TEXT, ended=True)] * 3
    asked, said = there.seen[-1], load_serve_settings().generator
    assert (asked["model"], asked["prompt"], asked["n"], asked["seed"]) == (engine.version, told, 3, 7)
    assert (asked["max_tokens"], asked["temperature"], asked["top_k"]) == (
        said.max_new_tokens,
        said.temperature,
        said.top_k,
    )
    assert asked["stop"] == ["<|im_end|>"]
    there.finish_reason = "length"
    assert await engine.write(told, 1, 7) == [Candidate(TEXT, ended=False)]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "broken"),
        ("503", "busy"),
        ("garbage", "garbage"),
        ("no json", "garbage"),
        ("count", "garbage"),
        ("cut", "away"),
    ],
)
async def test_a_server_that_misbehaves_is_counted_and_the_approved_text_stands_in(
    there: StandIn, engine: VllmEngine, fault: str, reason: str
) -> None:
    """None of it reaches the customer."""
    there.fault = fault
    with grows(FAILURES, reason=reason):
        answer = await build_writer(engine).write(BRIEF, 1, 5.0)
    assert answer.source == pb.MESSAGE_SOURCE_TEMPLATE
    there.fault = ""
    assert (await build_writer(engine).write(BRIEF, 1, 5.0)).source == pb.MESSAGE_SOURCE_MODEL


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("", "stop", "empty"),
        ("Thank you. " * 9, "stop", "repetition"),
        ("We have {offer}", "length", "unfinished"),
    ],
)
async def test_texts_that_are_no_drafts_are_counted_and_the_approved_text_stands_in(
    there: StandIn, engine: VllmEngine, text: str, finish_reason: str, reason: str
) -> None:
    """Four of them a request."""
    there.text, there.finish_reason = text, finish_reason
    with grows("generator_candidates_rejected_total", by=4, reason=reason):
        answer = await build_writer(engine).write(BRIEF, 1, 5.0)
    assert answer.source == pb.MESSAGE_SOURCE_TEMPLATE


async def test_an_answer_that_never_ends_is_late(
    there: StandIn, server: VllmServer, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often another byte of it comes."""
    for name in ("SILENCE_S", "ANSWER_S"):
        monkeypatch.setattr(vllm_server, name, 0.2)
    there.fault = "drip"
    async with asyncio.timeout(5.0):
        for asked in (server.base(), engine.write("x", 1, 1)):
            with grows(FAILURES, reason="late"), pytest.raises(EngineFailed, match="late"):
                await asked
        for _ in range(vllm_server.MISSES):
            await server.look()
    assert not server.up


async def test_an_oversized_answer_is_garbage(there: StandIn, engine: VllmEngine) -> None:
    """It is not read to its end; a text that no channel carries is not looked at for what it repeats."""
    there.text = "word " * 300_000
    with pytest.raises(EngineFailed, match=r"garbage.*longer than"):
        await engine.write("x", 1, 1)
    there.text = "We have {offer}. " + " ".join(map(str, range(2_000)))
    with grows("generator_candidates_rejected_total", by=4, reason="length"):
        await build_writer(engine).write(BRIEF, 1, 5.0)


async def test_a_prompt_that_is_too_long_does_not_load_the_adapter_anew(there: StandIn, engine: VllmEngine) -> None:
    """The adapter is not to blame."""
    there.fault, asked = "long", len(there.seen)
    for _ in range(2):
        with pytest.raises(EngineFailed, match=r"refused.*context length"):
            await engine.write("x", 1, 1)
    assert len(there.seen) == asked + 2


async def goes_and_comes_back(server: VllmServer) -> None:
    """As it sees it: nobody listens, then somebody does."""
    url, server._client.base_url = server._client.base_url, "http://127.0.0.1:1"
    await server.look()
    server._client.base_url = url
    await server.look()


async def test_a_server_that_is_back_with_another_base_is_noticed(
    there: StandIn, server: VllmServer, engine: VllmEngine
) -> None:
    """Its words would be another model's."""
    there.served_name = "other@000000000000"
    await goes_and_comes_back(server)
    with pytest.raises(EngineFailed, match=r"refused.*has\s+other@0"):
        await engine.write("x", 1, 1)
    there.served_name = OURS.served_name
    await goes_and_comes_back(server)
    assert await engine.write("x", 1, 1)


async def test_a_server_that_refused_the_adapter_is_not_asked_again_at_once(
    there: StandIn, server: VllmServer, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write would copy the files and try the golden messages; after a while one finds out."""
    there.log_prob -= 1.0
    await goes_and_comes_back(server)
    with pytest.raises(EngineFailed, match=r"refused.*golden message"):
        await engine.write("x", 1, 1)
    asked = len(there.seen)
    with pytest.raises(EngineFailed, match=r"refused.*golden message"):
        await engine.write("x", 1, 1)
    assert (len(there.seen), engine.expected_s) == (asked, float("inf"))
    with grows(FAILURES, reason="away"):
        await build_writer(engine).write(BRIEF, 1, 5.0)
    there.log_prob = LOG_PROB
    monkeypatch.setattr(vllm_engine, "LOAD_AGAIN_S", 0.0)
    assert engine.expected_s < float("inf")
    assert await engine.write("x", 1, 1)


@pytest.mark.parametrize("same", [True, False], ids=["here", "elsewhere"])
async def test_going_back_to_an_adapter_that_is_let_go_of_keeps_it(
    there: StandIn, server: VllmServer, tmp_path: Path, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unloading takes its time."""
    checkpoint, said, may = writer_checkpoint(tmp_path / "b"), server._said, asyncio.Event()
    first = await VllmEngine.open(server, checkpoint, settings(there), WORLD)

    async def slow(method: str, path: str, *rest: Any) -> Any:
        if "unload" in path:
            await may.wait()
        return await said(method, path, *rest)

    monkeypatch.setattr(server, "_said", slow)
    closing = asyncio.create_task(first.close())
    await asyncio.sleep(0.1)
    back = server if same else VllmServer(settings(there).vllm)
    again = await VllmEngine.open(back, checkpoint, settings(there), WORLD)
    may.set()
    await closing
    assert await again.write("x", 1, 1)
    await again.close()
    assert list(there.adapters.iterdir()) == []
    if not same:
        await back.close()


def test_who_comes_while_another_lets_go_of_an_adapter_keeps_it(tmp_path: Path) -> None:
    """Engines open on the loop while others are closed in threads."""
    folder = AdapterFolder(tmp_path)
    holding = threading.Thread(target=folder.hold, args=("one",))

    class Watched(Counter[str]):
        def __delitem__(self, adapter: object) -> None:
            holding.start()
            holding.join(0.2)
            super().__delitem__(adapter)

    folder._held = Watched()
    folder.hold("one")
    folder.let_go("one")
    holding.join()
    assert folder.is_used("one")


def test_a_folder_that_is_taken_away_while_it_is_written_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the last other generator that used it, which has just seen no mark."""
    leaving, coming = AdapterFolder(tmp_path / "adapters"), AdapterFolder(tmp_path / "adapters")
    checkpoint = writer_checkpoint(tmp_path / "a")
    touch = Path.touch
    raced: list[Path] = []

    def touch_late(path: Path) -> None:
        if not raced:
            raced.append(path)
            leaving.remove(checkpoint.version)
        touch(path)

    monkeypatch.setattr(Path, "touch", touch_late)
    coming.hold(checkpoint.version)
    coming.put(checkpoint, "base")
    assert leaving.is_used(checkpoint.version)
    assert (coming.path / checkpoint.version / ADAPTER).read_bytes() == b"weights"
    assert len(raced) == 1


async def test_watching_goes_on_whatever_fails(server: VllmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would start it again; and adapters come while marks are renewed in a thread."""
    monkeypatch.setattr(vllm_server, "WATCH_S", 0.01)
    looks: list[int] = []

    async def look() -> None:
        looks.append(1)
        raise RuntimeError("unheard of")

    monkeypatch.setattr(server, "look", look)
    server.adapters.hold("one")
    monkeypatch.setattr(Path, "touch", lambda *_: server.adapters.hold(f"another-{len(server.adapters._held)}"))
    server.adapters.renew()
    assert len(server.adapters._held) == 2
    watching = asyncio.create_task(server.watch())
    async with asyncio.timeout(5.0):
        while len(looks) < 3:  # noqa: ASYNC110 - nothing tells of a look
            await asyncio.sleep(0.01)
    watching.cancel()


async def test_the_callers_deadline_aborts_the_request(there: StandIn, engine: VllmEngine) -> None:
    """A slow server is told to stop, by the closed connection, and the approved text is there in time."""
    there.fault = "slow"
    writer = build_writer(engine)
    with grows(FAILURES, reason="late"):
        answer = await asyncio.wait_for(writer.write(BRIEF, 1, 0.3), 5.0)
    assert answer.source == pb.MESSAGE_SOURCE_TEMPLATE
    for _ in range(100):
        if there.aborted:
            break
        await asyncio.sleep(0.02)
    assert (there.aborted, there.writing) == (1, 0)


async def test_what_cannot_be_done_in_time_is_not_begun(there: StandIn, engine: VllmEngine) -> None:
    """A queue that is longer than the deadline is shed before it grows; after a while somebody tries again."""
    there.fault = "slow"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.write("x", 1, 1), 0.3)
    assert engine.expected_s >= 0.3
    asked = len(there.seen)
    with grows(FAILURES, reason="busy"):
        await build_writer(engine).write(BRIEF, 1, 0.3)
    assert len(there.seen) == asked


async def test_what_was_measured_long_ago_is_forgotten(
    there: StandIn, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was slow once is tried again, by one write at a time."""
    await engine.write("x", 1, 1)
    quick_s = engine.expected_s
    there.fault = "slow"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.write("x", 1, 1), 5 * quick_s)
    assert engine.expected_s >= 5 * quick_s
    monkeypatch.setattr(vllm_server, "FORGET_S", 0.0)
    assert engine.expected_s == 0.0
    trying = asyncio.create_task(engine.write("x", 1, 1))
    await asyncio.sleep(0)
    assert engine.expected_s >= 5 * quick_s  # one tries, the others wait for what it finds
    there.fault = ""
    assert await trying


async def test_no_more_is_asked_at_once_than_the_settings_say(there: StandIn, engine: VllmEngine) -> None:
    """Two at a time; who waits makes the expected time longer."""
    await engine.write("x", 1, 1)
    alone_s = engine.expected_s
    writes = [asyncio.create_task(engine.write("x", 1, seed)) for seed in range(6)]
    await asyncio.sleep(0)
    assert engine.expected_s == pytest.approx(alone_s * (1 + 4 / 2))
    await asyncio.gather(*writes)
    assert there.most == 2


async def test_the_servers_own_figures_are_ours(
    there: StandIn, server: VllmServer, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue over all engines, the fullest cache; a server that is away is not waited for, a busy one is."""
    there.waiting = 3.0
    await server.look()
    names, series = ("up", "running", "waiting", "kv_cache_use"), {"server": server.url}
    assert [sample(f"generator_engine_{name}", **series) for name in names] == [1, 0, 4, 0.5]
    there.silent = True
    monkeypatch.setattr(vllm_server, "ANSWER_S", 0.05)
    for _ in range(2):
        await server.look()
    assert (sample("generator_engine_up", **series), server.up) == (1, True)  # busy, it seems
    await server.look()
    assert (sample("generator_engine_up", **series), server.up) == (0, False)
    there.silent = False
    monkeypatch.setattr(vllm_server, "ANSWER_S", 5.0)
    await server.look()
    assert server.up
    server._client.base_url = "http://127.0.0.1:1"
    await server.look()
    assert [sample(f"generator_engine_{name}", **series) for name in names] == [0, 0, 0, 0]
    assert engine.expected_s == float("inf")
    with grows(FAILURES, reason="away"):
        await build_writer(engine).write(BRIEF, 1, 5.0)


async def test_a_server_that_has_much_to_say_of_itself_is_up(
    there: StandIn, server: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than an answer may be long; what is not ours to read is not parsed, for that would hold up requests."""
    parsed: list[int] = []

    def counted(exposition: str) -> Any:
        parsed.append(len(exposition.splitlines()))
        return text_string_to_metric_families(exposition)

    monkeypatch.setattr(vllm_server, "text_string_to_metric_families", counted)
    there.waiting, there.other_metrics = 3.0, 40_000
    for _ in range(vllm_server.MISSES):
        await server.look()
    assert server.up
    assert sample("generator_engine_waiting", server=server.url) == 4
    assert set(parsed) == {8}


async def test_an_adapter_is_swapped_and_the_old_one_unloaded_when_drained(
    there: StandIn, server: VllmServer, engine: VllmEngine, tmp_path: Path
) -> None:
    """Both are there until the last text of the old one is written."""
    checkpoint = writer_checkpoint(tmp_path / "b", b"other weights")
    other = await VllmEngine.open(server, checkpoint, settings(there), WORLD)
    last = asyncio.create_task(engine.write("x", 1, 1))
    await asyncio.sleep(0)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    assert there.loaded == {engine.version, other.version}
    assert await last == [Candidate(TEXT, ended=True)]
    await closing
    assert there.loaded == {other.version}
    assert [path.name for path in there.adapters.iterdir()] == [other.version]
    with pytest.raises(EngineFailed, match="was replaced"):
        await engine.write("x", 1, 1)
    assert await other.write("x", 1, 1)
    await other.close()
    assert (there.loaded, list(there.adapters.iterdir())) == (set(), [])


async def test_one_adapter_of_two_engines_stays_until_both_are_closed(
    there: StandIn, server: VllmServer, engine: VllmEngine, tmp_path: Path
) -> None:
    """When only the reward model is swapped, the adapter is the same."""
    checkpoint = writer_checkpoint(tmp_path / "again")
    again = await VllmEngine.open(server, checkpoint, settings(there), WORLD)
    await engine.close()
    assert there.loaded == {again.version}
    assert await again.write("x", 1, 1)
    await again.close()
    assert there.loaded == set()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": Base(name="tiny", sha256="cd" * 32)}, r"adapter is for tiny@cdcdcdcdcdcd, the server .* tiny@abab"),
        ({"weights": b"broken"}, "cannot load the adapter .*could not be loaded"),
        ({"log_prob": LOG_PROB - 2 * GOLDEN_TOLERANCE_NATS}, r"golden message .* log-probability of -0\.500"),
    ],
    ids=["another base", "weights that are none", "another model's words"],
)
async def test_a_refused_adapter_leaves_no_trace(
    there: StandIn, server: VllmServer, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    """One sentence says why, and neither the server nor the folder has it."""
    checkpoint = writer_checkpoint(tmp_path / "bad", **changes)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=said):
        await VllmEngine.open(server, checkpoint, settings(there), WORLD)
    assert there.loaded == set()
    assert not there.adapters.exists() or not list(there.adapters.iterdir())


async def test_an_adapter_that_the_server_has_lost_is_loaded_anew(there: StandIn, engine: VllmEngine) -> None:
    """It was started anew, and somebody took the folder away."""
    (there.adapters / engine.version / ADAPTER_CONFIG).unlink()
    there.loaded.clear()
    with grows(FAILURES, reason="refused"), pytest.raises(EngineFailed, match="does not exist"):
        await engine.write("x", 1, 1)
    assert await engine.write("x", 1, 1) == [Candidate(TEXT, ended=True)]


async def test_generators_that_share_a_server_leave_each_other_their_adapters(
    there: StandIn, server: VllmServer, engine: VllmEngine, tmp_path: Path
) -> None:
    """One that ends, or whose try fails, takes nothing away from another; the last one does."""
    replica = VllmServer(settings(there).vllm)
    same = await VllmEngine.open(replica, writer_checkpoint(tmp_path / "same"), settings(there), WORLD)
    await engine.close()
    assert there.loaded == {same.version}
    assert await same.write("x", 1, 1)
    await same.close()
    assert (there.loaded, list(there.adapters.iterdir())) == (set(), [])
    await replica.close()


async def test_what_a_killed_generator_left_behind_is_taken_away(
    there: StandIn, server: VllmServer, engine: VllmEngine, tmp_path: Path
) -> None:
    """Once its marks are old; what is used here stays, for its marks are renewed."""
    killed = VllmServer(settings(there).vllm)
    left = await VllmEngine.open(killed, writer_checkpoint(tmp_path / "b", b"other weights"), settings(there), WORLD)
    await killed.close()
    await server._tidy()
    assert there.loaded == {engine.version, left.version}
    for path in (there.adapters, *there.adapters.glob("*"), *there.adapters.glob("*/.used-*")):
        os.utime(path, (0.0, 0.0))
    server._renewed_at = float("-inf")
    await server._tidy()
    assert there.loaded == {engine.version}
    assert [path.name for path in there.adapters.iterdir()] == [engine.version]


@pytest.mark.parametrize("bad", [False, True], ids=["a good adapter", "a bad adapter"])
async def test_a_server_that_comes_later_gets_the_adapter_then(
    tmp_path: Path, bad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generator starts without it and serves its bank; a bad adapter is refused when the server is there."""
    monkeypatch.setattr(bootstrap, "RewardModel", SimpleNamespace(load=lambda *_, **__: ScriptedReward()))
    monkeypatch.setattr(bootstrap, "OPEN_AGAIN_S", 0.05)
    there = StandIn(OURS.served_name, tmp_path / "adapters")
    server, redis = VllmServer(settings(there).vllm), Redis(port=1)
    one = writer_checkpoint(tmp_path / "a", log_prob=LOG_PROB - bad)
    whole = load_serve_settings().model_copy(update={"generator": settings(there)})
    shift = Shift(whole, WORLD, load_message_books(), ScriptedReview(), redis, server)
    checkpoints, again = {WRITER: one, REWARD: one}, asyncio.Event()
    first = await asyncio.to_thread(shift.prepare, checkpoints, None)
    await shift.change(None)
    assert (await first.write(BRIEF, 1, 5.0)).source == pb.MESSAGE_SOURCE_TEMPLATE
    opening = asyncio.create_task(shift.open_later(again.set))
    async with running(there):
        await asyncio.wait_for(again.wait(), 5.0)
        if bad:
            with pytest.raises(CheckpointError, match="golden message"):
                await asyncio.to_thread(shift.prepare, checkpoints, first)
            assert there.loaded == set()
        else:
            second = await asyncio.to_thread(shift.prepare, checkpoints, first)
            await shift.change(first)
            assert (await second.write(BRIEF, 1, 5.0)).source == pb.MESSAGE_SOURCE_MODEL
            await asyncio.wait_for(opening, 5.0)
        await shift.end()
    opening.cancel()
    await server.close()
    await redis.aclose()


async def test_a_swap_waits_for_a_server_that_is_away(server: VllmServer, engine: VllmEngine, tmp_path: Path) -> None:
    """It is refused, and the follower tries it again."""
    server._client.base_url = "http://127.0.0.1:1"
    with pytest.raises(EngineFailed, match="away"):
        await VllmEngine.open(server, writer_checkpoint(tmp_path / "b", b"other"), engine._settings, WORLD)


async def test_a_shift_swaps_adapters(
    there: StandIn, server: VllmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer on duty is followed by the next at once, also while it writes its last; at the end no adapter is left.

    The adapter that was replaced goes once the last text of it is written.
    """
    monkeypatch.setattr(bootstrap, "RewardModel", SimpleNamespace(load=lambda *_, **__: ScriptedReward()))
    whole = load_serve_settings().model_copy(update={"generator": settings(there)})
    shift = Shift(whole, WORLD, load_message_books(), ScriptedReview(), Redis(port=1), server)
    assert shift.kinds == (WRITER, REWARD)
    one, other = writer_checkpoint(tmp_path / "a"), writer_checkpoint(tmp_path / "b", b"other weights")
    first = await asyncio.to_thread(shift.prepare, {WRITER: one, REWARD: one}, None)
    await shift.change(None)
    second = await asyncio.to_thread(shift.prepare, {WRITER: other, REWARD: one}, first)
    assert there.loaded == {one.version, other.version}
    there.fault = "slow"
    there.seen.clear()
    last = asyncio.create_task(first.engine.write("x", 1, 1))
    await asyncio.sleep(0)
    async with asyncio.timeout(20.0):
        await shift.change(first)
        await until(lambda: other.version in {each["model"] for each in there.seen})
        assert there.loaded == {one.version, other.version}
        there.fault = ""
        assert await last == [Candidate(TEXT, ended=True)]
        await until(lambda: there.loaded == {other.version})
    assert await second.engine.write("x", 1, 1)
    await shift.end()
    assert there.loaded == set()


async def until(happened: Callable[[], bool]) -> None:
    while not happened():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.01)


def test_every_reason_is_there_before_its_first_failure() -> None:
    """So that a first increase is seen."""
    known = {each.labels["reason"] for family in REGISTRY.collect() for each in family.samples if each.name == FAILURES}
    assert known == {"away", "broken", "busy", "garbage", "late", "refused"}
