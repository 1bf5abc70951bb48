"""Texts as a reader sees them: look-alike letters, hidden characters and tricks of spelling undone.

Phrases are matched against every *view* of a text. The first is the plain one; each further view undoes
one more trick and exists only where it changes anything, so ordinary text has one view.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import chain

# Letters of other scripts, and phonetic ones, that look like Latin letters; after Unicode TS #39's
# confusables (https://www.unicode.org/reports/tr39/), cut to what can spell English.
_LOOK_ALIKES = {
    "a": "аαᴀɑɐ", "b": "вьβʙƀ", "c": "сϲᴄɔ", "d": "ԁᴅđ", "e": "еєεᴇǝ", "f": "ꜰƒ", "g": "ԍɡɢց", "h": "һнʜհħ",
    "i": "іιɪıɩ", "j": "јϳᴊ", "k": "кκᴋ", "l": "ӏʟłǀ", "m": "мᴍɯ", "n": "пиηɴռո", "o": "оοᴏօø", "p": "рρᴘ",
    "q": "ԛգ", "r": "гʀɹ", "s": "ѕꜱ", "t": "тτᴛ", "u": "υᴜս", "v": "νѵᴠʋ", "w": "ԝшωᴡ", "x": "хχ", "y": "уγʏ",
    "z": "ζᴢ", "'": "’‘‛´", '"': "“”„«»", "-": "–—‐‑‒−",
}  # fmt: skip
# First letters of the alphabets in squares, circles and flags, which NFKC leaves alone.
_ENCLOSED_A = (0x1F130, 0x1F150, 0x1F170, 0x1F1E6)


def _translation() -> dict[int, str]:
    table = {ord(odd): latin for latin, odds in _LOOK_ALIKES.items() for odd in odds}
    for first in _ENCLOSED_A:
        table |= {first + i: chr(ord("a") + i) for i in range(26)}
    return table


_TO_LATIN = _translation()
_SPACES = re.compile(r"\s+")
_SPACED_OUT = re.compile(r"(?<![a-z0-9@$])[a-z0-9@$](?:[ .\-_*~|/]{1,4}[a-z0-9@$]){3,}(?![a-z0-9@$])")
_WORD_GAP = re.compile(r"[ .\-_*~|/]{2,}")
_SEPARATORS = re.compile(r"[^a-z0-9@$]+")
_INSIDE_A_WORD = re.compile(r"(?<=[a-z])[.\-_*~|^]{1,3}(?=[a-z])")
_LEET_TOKEN = re.compile(r"[a-z0-9@$!|+]{2,}")
_BARE_NUMBER = re.compile(r"(?<![\w@$])[013457]{1,3}(?![\w@$])")
_LEET = str.maketrans("03457@$8+", "oeastasbt")
_LEET_I = str.maketrans("1!|", "iii")
_LEET_L = str.maketrans("1!|", "lll")
_STRETCHED, _DOUBLED = re.compile(r"([a-z])\1{2,}"), re.compile(r"([a-z])\1+")


def plain(text: str) -> str:
    """Lower case, NFKC, look-alikes as Latin letters, no accents, no invisible characters, single spaces.

    >>> plain("Fr\u0435\u200be  Caf\u00e9")
    'free cafe'
    """
    return _SPACES.sub(" ", _latin(text))


def views(text: str) -> tuple[str, ...]:
    """The plain text first, then each different text that undoing a trick of spelling gives."""
    latin = _latin(text)
    base = _SPACES.sub(" ", latin)
    joined = (base, _SPACES.sub(" ", _SPACED_OUT.sub(_join, latin)), _INSIDE_A_WORD.sub("", base))
    decoded = chain.from_iterable(map(_decoded, _distinct(joined)))
    unstretched = chain.from_iterable(
        (view, _STRETCHED.sub(r"\1\1", view), _STRETCHED.sub(r"\1", view)) for view in _distinct(decoded)
    )
    return _distinct(unstretched)


def is_stretched(view: str) -> bool:
    """Whether a letter stands three times in a row."""
    return _STRETCHED.search(view) is not None


def squash(view: str) -> str:
    """Every doubled letter single, for lists whose phrases are squashed alike: "willll youu" is "wil you"."""
    return _DOUBLED.sub(r"\1", view)


class _Unmarked(dict[int, int | None]):
    """For `str.translate`: characters without marks, formats and unassigned ones; each is looked up once."""

    def __missing__(self, code: int) -> int | None:
        self[code] = None if unicodedata.category(chr(code)) in ("Mn", "Cf", "Co", "Cn") else code
        return self[code]


_UNMARKED = _Unmarked()


def _latin(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
        text = text.translate(_UNMARKED).translate(_TO_LATIN)
    return text.lower()


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _join(match: re.Match[str]) -> str:
    words = [_SEPARATORS.sub("", word) for word in _WORD_GAP.split(match.group())]
    # "g e t a f r e e": a one-letter word before the trick would hide its first letter.
    return " ".join(f"{word} {word[1:]}" if word[0] in "ai" and len(word) > 3 else word for word in words)


def _decoded(view: str) -> tuple[str, ...]:
    """The view, and where it holds leetspeak, each reading of it, with and without its bare numbers."""
    readings = [_deleet(view, ones) for ones in (_LEET_I, _LEET_L)]
    if readings == [view, view]:
        return (view,)
    return (view, *readings, *(_read_numbers(view, ones) for ones in (_LEET_I, _LEET_L)))


def _read_numbers(view: str, ones: dict[int, int]) -> str:
    table = _LEET | ones
    return _deleet(_BARE_NUMBER.sub(lambda digits: digits.group().translate(table), view), ones)


def _deleet(view: str, ones: dict[int, int]) -> str:
    def decode(match: re.Match[str]) -> str:
        token = match.group()
        word = token.rstrip("!|+")
        if word.isalpha() or not any(ch.isalpha() for ch in word):
            return token
        return word.translate(_LEET | ones) + token[len(word) :]

    return _LEET_TOKEN.sub(decode, view)
