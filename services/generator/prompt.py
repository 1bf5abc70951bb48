"""From a brief to what the model reads: a conversation in which it has written such sentences before.

A model of 135 million parameters follows examples far better than instructions, so the approved examples
of the brief's segment and purpose are its own earlier answers, and it is asked for another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from churnsaver.domain.message import MessageBook

SYSTEM = "You write short, warm and honest notes from a company to its customer."
CUSTOMER = {
    "new": "who has just joined us",
    "settled": "who has been with us for a while",
    "loyal": "who has been with us for many years",
}
WISH = {
    "review": "We would be glad to look over the plan together",
    "discount": "We want the plan to be easy on the budget",
    "gift": "A little extra says thank you",
}
ANOTHER = "Write another one."
# How an answer may begin; left to itself the model begins nearly all of them alike.
OPENINGS = ("", "We", "Thank you for", "It", "We are", "We would")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation up to the model's turn, and how its answer begins."""

    conversation: str
    opening: str


@dataclass(frozen=True, slots=True)
class Cell:
    """What the free sentences of a message depend on; briefs that differ in nothing else share them."""

    segment: str
    purpose: str
    language: str


def prompts(book: MessageBook, cell: Cell, count: int) -> list[Prompt]:
    """`count` prompts for one cell: the same conversation with each opening in turn."""
    question = f"Write a short note to a customer {CUSTOMER[cell.segment]}. {WISH[cell.purpose]}."
    turns = [_turn("system", SYSTEM)]
    for i, example in enumerate(book.examples[cell.segment][cell.purpose]):
        turns += [_turn("user", ANOTHER if i else question), _turn("assistant", example)]
    conversation = "".join(turns) + _turn("user", ANOTHER) + "<|im_start|>assistant\n"
    return [Prompt(conversation, OPENINGS[i % len(OPENINGS)]) for i in range(count)]


def _turn(role: str, text: str) -> str:
    """One turn in ChatML, which the model was tuned on."""
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"
