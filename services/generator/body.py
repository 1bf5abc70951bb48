"""What of the model's raw text may stand in a message: one or two plain sentences, or nothing.

A small model wanders. Candidates are cheap, so everything doubtful is rejected, each with a reason that is
counted; most of all any word that the approved texts do not use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from churnsaver.domain.message import MessageBook

MIN_CHARS, MAX_CHARS = 30, 160
MAX_SENTENCES = 2
# Common words that carry no claim, beside those of the approved texts.
PLAIN_WORDS = frozenset(
    """a about again all always and are as at be been being but by can do easier enjoy feel feels fits for from
    get give glad good grateful great had happy has have help here hope how if in is it its just keep kind know
    let like look lot love lovely made make makes making many may mean means more much need needs never of on
    one or our ours out over part plan please pleased really right see share simple small smile so some soon
    still stay such sure take thank thankful thanks that the their them there these they thing things this
    through time to together truly trust trusting us use value very want was way we welcome well what when
    which while who will wish with work would year years you your yours appreciate delighted pleasure support
    we're we've we'd it's you're you've let's that's""".split()  # noqa: SIM905
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]")
_WORD = re.compile(r"[a-z']+")
_NOT_PLAIN = re.compile(r"[^A-Za-z .,!?';’-]")
# A reply to somebody, not a note; or thanks for what a customer does not do.
_WRONG_VOICE = re.compile(
    r"\b(?:you(?:'re| are) welcome|hard work|for being (?:kind|good|great|a good)|see you|my|i)\b"
)


class Rejected(Exception):
    """A raw text that no message may be made of; `str()` is the reason's name."""


def body_of(raw: str, book: MessageBook, examples: Iterable[str]) -> str:
    """The free sentences in the model's raw text.

    Args:
        raw: as the model wrote it, opening included.
        examples: what the model was shown; a copy of one is not its own.

    Raises:
        Rejected: `unfinished`, `characters`, `length`, `voice`, `repetition`, `copied` or `unknown_word`.
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
    if _canonical(body) in {_canonical(example) for example in examples}:
        raise Rejected("copied")
    if set(_WORD.findall(lowered)) - vocabulary(book):
        raise Rejected("unknown_word")
    return body


def vocabulary(book: MessageBook) -> frozenset[str]:
    """The words that a body may use: those of the approved texts and the plain ones."""
    texts = [*book.bodies.values(), *(text for cell in book.examples.values() for e in cell.values() for text in e)]
    return _words(tuple(texts))


@lru_cache(maxsize=8)
def _words(texts: tuple[str, ...]) -> frozenset[str]:
    return PLAIN_WORDS | {word for text in texts for word in _WORD.findall(text.lower())}


def _repeats(sentences: list[str]) -> bool:
    """Two sentences that begin alike, or the same three words twice."""
    words = [_WORD.findall(sentence.lower()) for sentence in sentences]
    starts = [tuple(sentence[:2]) for sentence in words]
    flat = [word for sentence in words for word in sentence]
    runs = [tuple(flat[i : i + 3]) for i in range(len(flat) - 2)]
    return len(set(starts)) < len(starts) or len(set(runs)) < len(runs)


def _canonical(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))
