"""One message's story: bank, else the model in the time left, else the approved text."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock, Mock

import grpc
import pytest
from redis.asyncio import Redis

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.message import Brief
from churnsaver.errors import BadInput, CheckpointError, SettingsError
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2_grpc as shield_grpc
from churnsaver.settings import load_message_books, load_serve_settings, load_world
from services.generator import bootstrap
from services.generator import engine as engine_module
from services.generator.bank import Bank
from services.generator.bootstrap import check_books
from services.generator.engine import Candidate, InProcessEngine
from services.generator.generate import Writer
from services.generator.message import Judgement, Verdict, message_id
from services.generator.reviewing import ShieldReview, ShieldUnavailable
from tests.support.generator import GOOD, ScriptedEngine, ScriptedReview, ScriptedReward, build_bank
from tests.support.metrics import grows

BRIEF = Brief(segment="loyal", offer="discount_10", tone="warm", channel="sms", language="en")
BOOKS = load_message_books()


def build_writer(engine: ScriptedEngine | None = None, review: ScriptedReview | None = None, **settings: Any) -> Writer:
    """A writer whose bank is empty."""
    engine, review = engine or ScriptedEngine(), review or ScriptedReview()
    bank = build_bank(Redis(port=1), engine, review, **settings)  # nothing is loaded or filled, so it is never called
    return Writer(load_world(), BOOKS, bank, engine, ScriptedReward(), review)


async def test_with_time_left_the_model_writes() -> None:
    """The best draft that the shield passes."""
    answer = await build_writer().write(BRIEF, 0, 10.0)
    assert answer.source == pb.MESSAGE_SOURCE_MODEL
    assert answer.draft == GOOD[0]
    assert answer.model_version == "scripted@1"
    assert answer.propensity == 1.0


async def test_the_shield_has_the_last_word_on_a_live_draft() -> None:
    """A blocked draft gives way to the next best."""
    answer = await build_writer(review=ScriptedReview(frozenset({"pleasure"}))).write(BRIEF, 0, 10.0)
    assert answer.draft == GOOD[1]


@pytest.mark.parametrize(("time_left_s", "review_s"), [(0.3, 0.05), (600.0, 30.0)])
async def test_who_waits_longer_gives_the_shield_longer(time_left_s: float, review_s: float) -> None:
    """A busy machine's shield does not cost `generate` a message that is written already."""
    asked_s: list[float] = []

    class Slow(ScriptedReview):
        async def passes(self, draft: str, channel: str, language: str, timeout_s: float) -> bool:
            asked_s.append(timeout_s)
            return await super().passes(draft, channel, language, timeout_s)

    answer = await build_writer(review=Slow()).write(BRIEF, 0, time_left_s)
    assert (answer.source, asked_s) == (pb.MESSAGE_SOURCE_MODEL, [review_s])


async def test_words_that_were_retired_are_not_written_again() -> None:
    """Neither for the bank nor live: what a person took out stays out, whoever writes it."""
    writer = build_writer()
    retired = Judgement(message_id(BRIEF, GOOD[0]), Verdict.RETIRED, "Ana", "rude", 0.0, BRIEF.key, GOOD[0])
    writer.bank._hear(retired)
    assert (await writer.write(BRIEF, 0, 10.0)).draft == GOOD[1]


@pytest.mark.parametrize(
    ("engine", "review", "time_left_s"),
    [
        (ScriptedEngine(expected_s=1.0), ScriptedReview(), 1.2),
        (ScriptedEngine(expected_s=float("inf")), ScriptedReview(), 1e9),
        (ScriptedEngine(broken=True), ScriptedReview(), 10.0),
        (ScriptedEngine(ended=False), ScriptedReview(), 10.0),
        (ScriptedEngine(), ScriptedReview(up=False), 10.0),
        (ScriptedEngine(), ScriptedReview(frozenset("e")), 10.0),
    ],
    ids=["no time", "speed unknown", "engine broken", "nothing usable", "shield away", "shield blocks"],
)
async def test_the_approved_text_stands_in(engine: ScriptedEngine, review: ScriptedReview, time_left_s: float) -> None:
    """Whatever goes wrong, the customer gets words that a person approved, with every slot."""
    answer = await build_writer(engine, review).write(BRIEF, 0, time_left_s)
    assert answer.source == pb.MESSAGE_SOURCE_TEMPLATE
    assert answer.draft == BOOKS["en"].template(BRIEF)
    assert answer.model_version == ""


async def test_nothing_that_nobody_approved_is_written_live() -> None:
    """Where the settings ask for a person's approval, the approved text stands in until something is approved."""
    engine = ScriptedEngine()
    answer = await build_writer(engine, approval="person").write(BRIEF, 0, 10.0)
    assert answer.source == pb.MESSAGE_SOURCE_TEMPLATE
    assert engine.seeds == []


@pytest.mark.parametrize(
    ("code", "away"),
    [("UNAVAILABLE", True), ("DEADLINE_EXCEEDED", True), ("RESOURCE_EXHAUSTED", False), ("INVALID_ARGUMENT", False)],
)
async def test_a_draft_that_the_shield_cannot_be_asked_about_is_blocked(code: str, away: bool) -> None:
    """It would be written for ever if the shield were taken for away."""

    class Shield(shield_grpc.ShieldServiceServicer):
        async def Review(self, request: Any, context: Any) -> Any:
            await context.abort(grpc.StatusCode[code], "no")

    server = grpc.aio.server()
    shield_grpc.add_ShieldServiceServicer_to_server(Shield(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(ShieldUnavailable) if away else contextlib.nullcontext():
            assert not await ShieldReview(channel).passes("{offer}", "sms", "en", 5.0)
    await server.stop(None)


async def test_nothing_goes_on_where_the_bank_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody waits for any more would go on writing after its engine was replaced."""
    writer, ended = build_writer(), asyncio.Event()

    async def run(*_: Any) -> None:
        await asyncio.sleep(0.01)
        raise ValueError("unheard of")

    async def write(*_: Any, **__: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(Bank, "run", run)
    monkeypatch.setattr(Bank, "load", AsyncMock())
    monkeypatch.setattr(writer.engine, "write", write)
    with pytest.raises(ValueError, match="unheard of"):
        await bootstrap._keep_bank(writer, opened())
    assert ended.is_set()


async def test_a_first_write_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it fails with; and it waits until the engine before has ended."""
    writer, may_write = build_writer(), asyncio.Event()
    run, write = AsyncMock(), AsyncMock(side_effect=ValueError("unheard of"))
    monkeypatch.setattr(Bank, "run", run)
    monkeypatch.setattr(Bank, "load", AsyncMock())
    monkeypatch.setattr(writer.engine, "write", write)
    kept = asyncio.create_task(bootstrap._keep_bank(writer, may_write))
    await asyncio.sleep(0.05)
    run.assert_awaited_once()
    write.assert_not_awaited()
    may_write.set()
    await kept
    write.assert_awaited_once()


def opened() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def test_what_judging_takes_is_reckoned_with() -> None:
    """It has no queue to look into: where it took too long for the time left, nothing is written."""

    class SlowReward(ScriptedReward):
        def scores(self, briefs: Any, drafts: Any) -> Any:
            time.sleep(0.3)
            return super().scores(briefs, drafts)

    engine = ScriptedEngine()
    writer = replace(build_writer(engine), reward=SlowReward())
    assert (await writer.write(BRIEF, 0, 10.0)).source == pb.MESSAGE_SOURCE_MODEL
    assert (await writer.write(BRIEF, 0, 0.3)).source == pb.MESSAGE_SOURCE_TEMPLATE
    assert len(engine.seeds) == 1


class Files:
    """A model whose files may go, and come back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = True
        monkeypatch.setattr(engine_module, "load_language_model", self.load)
        monkeypatch.setattr(engine_module, "check_golden_texts", Mock())

    def load(self, folder: Path, threads: int) -> tuple[Any, Any]:
        if not self.there:
            raise CheckpointError(f"{folder}: cannot be loaded")
        result = SimpleNamespace(sequences=[["a", "<|im_end|>"]], sequences_ids=[[1, 2]])
        model = Mock(generate_batch=lambda starts, **_: [result] * len(starts))
        return model, Mock(encode=lambda *_, **__: Mock(tokens=["a"]), decode=lambda *_, **__: GOOD[0])


async def test_a_model_whose_files_are_gone_is_an_engine_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before is given out, the approved text stands in after, until the files are back."""
    files = Files(monkeypatch)
    checkpoint = SimpleNamespace(version="generator@1", path=Path("nowhere"))
    engine = InProcessEngine(cast("Checkpoint", checkpoint), load_serve_settings().generator)
    files.there = False
    assert await engine.write("x", 1, 1) == [Candidate(GOOD[0], ended=True)]
    writer = Writer(load_world(), BOOKS, build_writer().bank, engine, ScriptedReward(), ScriptedReview())
    with grows("generator_engine_failures_total", reason="broken"):
        assert (await writer.write(BRIEF, 0, 10.0)).source == pb.MESSAGE_SOURCE_TEMPLATE
    files.there = True
    assert (await writer.write(BRIEF, 0, 10.0)).source == pb.MESSAGE_SOURCE_MODEL
    await engine.close()


async def test_no_time_is_spent_where_there_is_not_enough() -> None:
    """A model that could not finish is not started."""
    engine = ScriptedEngine(expected_s=1.0)
    await build_writer(engine).write(BRIEF, 0, 1.2)
    assert engine.seeds == []


@pytest.mark.parametrize(
    ("asked", "spoken"),
    [("xx", "en"), ("en-GB", "en"), ("en_US", "en"), ("EN", "en"), ("de-Latn-CH", "de"), ("d", "en")],
)
async def test_a_language_without_approved_texts_falls_back_and_says_so(asked: str, spoken: str) -> None:
    """RFC 4647's lookup: ever shorter tags, then English."""
    writer = build_writer(ScriptedEngine(expected_s=99.0))
    writer = replace(writer, books={**BOOKS, "de": BOOKS["en"].model_copy(update={"nameless": "du"})})
    answer = await writer.write(BRIEF.model_copy(update={"language": asked}), 0, 1.0)
    assert answer.language == spoken
    assert answer.draft == writer.books[spoken].template(BRIEF)


@pytest.mark.parametrize(
    ("field", "mend"),
    [("segment", "settled"), ("offer", "bonus_pack"), ("channel", "push"), ("tone", "warm"), ("reason", "price")],
)
async def test_an_unknown_value_is_named_with_those_that_exist(field: str, mend: str) -> None:
    """The caller is told the field and what it may be."""
    with pytest.raises(BadInput, match=rf"brief\.{field} is 'odd'.*{mend}"):
        await build_writer().write(BRIEF.model_copy(update={field: "odd"}), 0, 1.0)
    with pytest.raises(BadInput) as said:
        await build_writer().write(BRIEF.model_copy(update={field: "odd" * 100_000}), 0, 1.0)
    assert len(str(said.value)) < 500  # gRPC has no room for more


def test_a_language_without_approved_texts_stops_the_start() -> None:
    """The setting is named, and the file that lacks the texts."""
    check_books(BOOKS, ["en"])
    with pytest.raises(SettingsError, match=r"generator\.languages names 'fr'.*messages\.yaml"):
        check_books(BOOKS, ["en", "fr"])


async def test_a_language_that_the_model_does_not_write_gets_the_approved_text() -> None:
    """Approved texts may stand for more languages than the model was tuned on."""
    books = {**BOOKS, "de": BOOKS["en"]}
    writer = replace(build_writer(), books=books)
    answer = await writer.write(BRIEF.model_copy(update={"language": "de"}), 0, 10.0)
    assert answer.source == pb.MESSAGE_SOURCE_TEMPLATE
