"""Which message a brief gets: by reward, with exploration, at a propensity that is told."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from churnsaver.domain.message import Brief
from services.decision.decide import draw
from services.generator.message import BankMessage, Judgement, Judgements, Verdict, message_id
from services.generator.shelf import Shelf, choice_chances

BRIEF = "a brief"


def message(name: str, score: float) -> BankMessage:
    return BankMessage(name, f"{name} says {{offer}}", score, "scripted@1", 0.0)


def judgement(name: str, verdict: Verdict) -> Judgement:
    return Judgement(name, verdict, "Ana", "because", 0.0, BRIEF, "draft")


@pytest.fixture
def judgements() -> Judgements:
    return Judgements("none")


@pytest.fixture
def shelf(judgements: Judgements) -> Shelf:
    """Three messages; people prefer the first to the second two to one."""
    shelf = Shelf(judgements, exploration=0.3)
    shelf.put(BRIEF, [message("b", 0.0), message("a", float(np.log(2.0))), message("c", -20.0)])
    return shelf


def test_messages_are_chosen_as_often_as_people_prefer_them(shelf: Shelf) -> None:
    """And each, however bad, with its part of the exploration."""
    chances = choice_chances(np.array([np.log(2.0), 0.0]), exploration=0.3)
    assert chances == pytest.approx([0.7 * 2 / 3 + 0.15, 0.7 / 3 + 0.15])
    assert choice_chances(np.array([1e4, 0.0]), exploration=0.3) == pytest.approx([0.85, 0.15])


def test_the_propensity_is_how_often_a_message_comes(shelf: Shelf) -> None:
    """Same seed, same message; over seeds each as often as it says."""
    chosen = [shelf.choose(BRIEF, seed) for seed in range(4000)]
    assert chosen == [shelf.choose(BRIEF, seed) for seed in range(4000)]
    counts = Counter((each.message_id, chance) for each, chance in filter(None, chosen))
    assert len(counts) == 3
    assert sum(chance for _, chance in counts) == pytest.approx(1.0)
    for (_, chance), count in counts.items():
        assert abs(count - 4000 * chance) < 4.5 * np.sqrt(4000 * chance * (1 - chance))


def test_the_choice_does_not_hang_on_the_action(shelf: Shelf) -> None:
    """Action and message come from one seed; were they drawn alike, the product of propensities would be wrong."""
    half = [seed for seed in range(4000) if draw(np.array([0.5, 0.5]), seed) == 0]
    first = sum(each.message_id == "a" for each, _ in filter(None, (shelf.choose(BRIEF, seed) for seed in half)))
    chance = shelf.chance(BRIEF, "a")
    assert abs(first - len(half) * chance) < 4.5 * np.sqrt(len(half) * chance * (1 - chance))


def test_a_retired_message_is_gone_for_good(shelf: Shelf, judgements: Judgements) -> None:
    """Neither what is said later nor a filling brings it back."""
    judgements.add(judgement("a", Verdict.RETIRED))
    shelf.judged("a")
    judgements.add(judgement("a", Verdict.APPROVED))
    shelf.put(BRIEF, [message("a", 9.0), message("b", 0.0)])
    assert {each.message_id for each, _ in filter(None, (shelf.choose(BRIEF, seed) for seed in range(50)))} == {"b"}
    assert (shelf.chance(BRIEF, "a"), shelf.messages, shelf.find("a")) == (0.0, 1, None)
    judgements.add(judgement("b", Verdict.RETIRED))
    shelf.judged("b")
    assert shelf.choose(BRIEF, 1) is None
    assert (shelf.briefs, shelf.briefs_served, shelf.messages) == (0, 0, 0)


def test_a_message_waits_for_its_approval_where_one_is_asked_for() -> None:
    """It is held, and not given out."""
    judgements = Judgements("person")
    shelf = Shelf(judgements, exploration=0.3)
    shelf.put(BRIEF, [message("a", 1.0), message("b", 0.0)])
    assert shelf.choose(BRIEF, 1) is None
    assert (shelf.briefs, shelf.briefs_served, shelf.messages) == (1, 0, 2)
    judgements.add(judgement("b", Verdict.APPROVED))
    shelf.judged("b")
    assert shelf.choose(BRIEF, 1) == (message("b", 0.0), 1.0)


def test_the_same_words_for_another_brief_are_another_message() -> None:
    """What suits a loyal customer may not suit a new one."""
    brief = Brief(segment="new", offer="check_in", tone="warm", channel="sms", language="en")
    assert message_id(brief, "Hello") == message_id(brief, "Hello")
    assert message_id(brief, "Hello") != message_id(brief.model_copy(update={"segment": "loyal"}), "Hello")
