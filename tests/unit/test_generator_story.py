"""One message's story: bank, else the model in the time left, else the approved text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from churnsaver.domain.message import Brief
from churnsaver.errors import BadInput, SettingsError
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from churnsaver.settings import load_message_books, load_world
from services.generator.bootstrap import check_books
from services.generator.generate import Writer
from services.generator.message import Judgement, Verdict, message_id
from tests.support.generator import GOOD, ScriptedEngine, ScriptedReview, ScriptedReward, build_bank

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
