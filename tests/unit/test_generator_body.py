"""What of a small model's text may stand in a message."""

from __future__ import annotations

import pytest

from churnsaver.domain.message import SEGMENTS
from churnsaver.settings import load_message_books, load_world
from services.generator.body import Rejected, body_of, on_purpose
from services.generator.engine import Candidate
from services.generator.prompt import OPENINGS, Cell, prompts
from services.generator.ranking import ranked_bodies

BOOK = load_message_books()["en"]
NEW_REVIEW = Cell("new", "review", "en")
LOYAL_GIFT = Cell("loyal", "gift", "en")
PURPOSES = sorted({offer.purpose for offer in load_world().offers})
CELLS = [Cell(segment, purpose, "en") for segment in SEGMENTS for purpose in PURPOSES]


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        ("It is lovely to have you with us.", "It is lovely to have you with us."),
        ("  We’re so glad to have you here!\n\nThis note is", "We're so glad to have you here!"),
        (
            "We are glad to have you. We would be happy to look at your plan. And then some. And more.",
            "We are glad to have you. We would be happy to look at your plan.",
        ),
    ],
)
def test_the_first_whole_sentences_are_kept(raw: str, body: str) -> None:
    """At most two sentences, without what follows them, and with plain apostrophes."""
    assert body_of(raw, BOOK, NEW_REVIEW) == body


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "unfinished"),
        ("We would be so happy to have you with us and", "unfinished"),
        ("We give you 50% of your plan for all the time.", "characters"),
        ("We would be happy to see you, [Name], with us here.", "characters"),
        ("We are glad to have you {first_name} here with us.", "characters"),
        ("**We are so glad** to have you here with us all.", "characters"),
        ("we are so glad to have you here with us all.", "characters"),
        ("We are so glad to have you here: мы рады.", "characters"),
        ("Thank you.", "length"),
        ("We are glad " + "and happy " * 20 + "to have you.", "length"),
        ("You're welcome, and we are so glad to have you.", "voice"),
        ("Thank you for your hard work with all of us.", "voice"),
        ("I am so glad to have you here with us all.", "voice"),
        ("Thank you for your love, it means a lot to us.", "voice"),
        ("We are so glad to have you. We are so glad to have you.", "repetition"),
        ("We're so glad you joined us. Thank you for joining us.", "repetition"),
        ("We are happy that you joined us. Let us take a look at your plan together.", "copied"),
        ("Congratulations, you have been chosen by all of us here.", "unknown_word"),
        ("We would be glad to refund your plan over time.", "unknown_word"),
        ("Sure, here is a note that we would like you to have.", "unknown_word"),
        ("Dear customer, we are so glad to have you here with us.", "unknown_word"),
        ("It is a pleasure to have you here for so many years.", "off_brief"),
        ("We are glad to have you, and we want your plan to be easy on your budget.", "off_brief"),
        ("It is a pleasure to have you here, and we want to give a little extra.", "off_brief"),
    ],
)
def test_whatever_is_doubtful_is_rejected(raw: str, reason: str) -> None:
    """Each fault of a small model has its reason, so that the metric says what it does wrong."""
    with pytest.raises(Rejected) as caught:
        body_of(raw, BOOK, NEW_REVIEW)
    assert str(caught.value) == reason


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_approved_examples_break_no_rule_but_that_of_copying(cell: Cell) -> None:
    """What the model is shown is what we accept, so a rule that refuses an example is too strict."""
    for example in BOOK.examples[cell.segment][cell.purpose]:
        with pytest.raises(Rejected, match="copied"):
            body_of(example, BOOK, cell)
        assert on_purpose(example, cell) or cell.purpose == "review"


def test_bodies_are_ranked_and_rejections_are_dropped() -> None:
    """On purpose first, then the model's own certainty; a guess and a copy do not appear; equals are one."""
    kind, fitting = "It is a pleasure to have you here with us.", "We hope a little extra makes you happy."
    candidates = [
        Candidate(kind, -0.1),
        Candidate(fitting, -0.9),
        Candidate(fitting, -0.8),
        Candidate("We are all so glad to have you here.", -3.0),
        Candidate("Buy our new phone and get rich at once.", -0.1),
    ]
    ranked = ranked_bodies(candidates, BOOK, LOYAL_GIFT)
    assert list(ranked) == [fitting, kind]
    assert ranked[fitting] == pytest.approx(0.2)


def test_a_prompt_holds_the_approved_examples_and_nothing_of_a_customer() -> None:
    """One conversation for all prompts of a cell, in ChatML, ending with the model's turn."""
    written = prompts(BOOK, LOYAL_GIFT, 8)
    (conversation,) = {prompt.conversation for prompt in written}
    assert all(example in conversation for example in BOOK.examples["loyal"]["gift"])
    assert "{" not in conversation
    assert conversation.endswith("<|im_start|>assistant\n")
    assert [prompt.opening for prompt in written] == [*OPENINGS, *OPENINGS[:2]]
