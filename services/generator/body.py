"""What of the model's raw text may stand in a message: one or two plain sentences, or nothing.

A small model wanders. Candidates are cheap, so everything doubtful is rejected, each with a reason that is
counted; most of all any word that the approved texts do not use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from churnsaver.domain.message import MessageBook
from services.generator.prompt import Cell

MIN_CHARS, MAX_CHARS = 30, 160
MAX_SENTENCES = 2
# Common words that carry no claim, beside those of the approved texts.
PLAIN_WORDS = frozenset(
    """a about all and are as at be been being but by can do easier enjoy feel feels fits for from
    get give glad good grateful great had happy has have help here hope how if in is it its just keep kind know
    let like look lot love lovely made make makes making many may mean means more much need needs of on
    one or our ours out over part plan please pleased really right see share simple small smile so some
    still stay such sure take thank thankful thanks that the their them there these they thing things this
    through time to together truly trust trusting us use value very want was way we welcome well what when
    which while who wish with would year years you your yours appreciate delighted pleasure
    we're we've we'd it's you're you've let's that's""".split()  # noqa: SIM905
)
# What only some customers or offers may be told: a word of another's list makes the text say something untrue.
_SEGMENT_WORDS = {
    "new": frozenset({"join", "joined", "joining", "welcome", "start", "starting", "new", "began", "first", "months"}),
    "settled": frozenset({"still", "while", "since"}),
    "loyal": frozenset({"still", "while", "since", "year", "years", "long", "loyal", "loyalty"}),
}
_PURPOSE_WORDS = {
    "review": frozenset({"look", "looking", "check", "review", "suits", "fits"}),
    "discount": frozenset({"budget", "lighter", "easier", "easy", "kinder"}),
    "gift": frozenset({"extra", "gift", "treat"}),
}
# Words that any two sentences may share.
_SMALL_WORDS = frozenset(
    {
        "your",
        "you",
        "you've",
        "you're",
        "with",
        "have",
        "that",
        "this",
        "would",
        "they",
        "from",
        "them",
        "when",
        "what",
        "will",
    }
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]")
_WORD = re.compile(r"[a-z']+")
_NOT_PLAIN = re.compile(r"[^A-Za-z .,!?';’-]")
# A reply to somebody, not a note; thanks for what a customer does not do; slips of a small model.
_WRONG_VOICE = re.compile(
    r"\b(?:you(?:'re| are) welcome|hard work|see you|my|i|on budget|your customer|have (?:your|a) plan to be)\b"
    r"|\b(?:thank you|thanks|thankful|grateful|glad|happy) (?:so much )?for (?!your (?:trust|loyalty)\b"
    r"|(?:being with|joining|choosing|trusting|staying with) us\b|being here\b|being our customer\b"
    r"|(?:all )?(?:the|these|your) (?:many )?years\b)"
)


class Rejected(Exception):
    """A raw text that no message may be made of; `str()` is the reason's name."""


def body_of(raw: str, book: MessageBook, cell: Cell) -> str:
    """The free sentences in the model's raw text.

    Args:
        raw: as the model wrote it, opening included.
        cell: whom and what the text is for; a copy of one of its examples is not the model's own.

    Raises:
        Rejected: `unfinished`, `characters`, `length`, `voice`, `repetition`, `copied`, `unknown_word` or
            `off_brief`.
    """
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(raw.strip())][:MAX_SENTENCES]
    body = " ".join(sentences).replace("’", "'")
    if not sentences:
        raise Rejected("unfinished")
    if _NOT_PLAIN.search(body) or not body[0].isupper():
        raise Rejected("characters")
    if not MIN_CHARS <= len(body) <= MAX_CHARS:
        raise Rejected("length")
    lowered = body.lower()
    if _WRONG_VOICE.search(lowered):
        raise Rejected("voice")
    if _repeats(sentences):
        raise Rejected("repetition")
    if _canonical(body) in {_canonical(example) for example in book.examples[cell.segment][cell.purpose]}:
        raise Rejected("copied")
    words = set(_WORD.findall(lowered))
    if words - vocabulary(book):
        raise Rejected("unknown_word")
    if words & (_of_others(_SEGMENT_WORDS, cell.segment) | _of_others(_PURPOSE_WORDS, cell.purpose)):
        raise Rejected("off_brief")
    return body


def on_purpose(body: str, cell: Cell) -> bool:
    """Whether the body speaks of what the offer is for, and is more than a kind word."""
    return not _PURPOSE_WORDS[cell.purpose].isdisjoint(_WORD.findall(body.lower()))


def vocabulary(book: MessageBook) -> frozenset[str]:
    """The words that a body may use: those of the approved texts and the plain ones."""
    texts = [*book.bodies.values(), *(text for cell in book.examples.values() for e in cell.values() for text in e)]
    return _words(tuple(texts))


@lru_cache(maxsize=8)
def _words(texts: tuple[str, ...]) -> frozenset[str]:
    return PLAIN_WORDS | {word for text in texts for word in _WORD.findall(text.lower())}


def _of_others(lists: Mapping[str, frozenset[str]], own: str) -> frozenset[str]:
    return frozenset[str]().union(*lists.values()) - lists[own]


def _repeats(sentences: list[str]) -> bool:
    """The same three words twice, or two sentences that share a word that says something, in any form of it."""
    words = [_WORD.findall(sentence.lower()) for sentence in sentences]
    flat = [word for sentence in words for word in sentence]
    runs = [tuple(flat[i : i + 3]) for i in range(len(flat) - 2)]
    said = [{word[:4] for word in sentence if len(word) >= 4 and word not in _SMALL_WORDS} for sentence in words]
    return len(set(runs)) < len(runs) or sum(map(len, said)) > len(set().union(*said))


def _canonical(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))
