"""Forbidden wording: the lists in `data/`, compiled to one pattern each."""

from __future__ import annotations

import re
import string
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

import yaml

from churnsaver.safety.normal import is_stretched, squash

# A gap does not end a sentence. In a text whose spelling was unscrambled it may be gone: "actnow".
_GAP, _LOOSE_GAP = r"(?:[^\w.!?]{1,3})", r"(?:[^\w.!?]{0,3})"
_NUMBER = (
    r"(?:\d{1,6}(?:[.,]\d{1,3})?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty"
    r"|thirty|forty|fifty|hundred|thousand|a few|a couple(?: of)?)"
)
_WORDS = r"(?:[\w'%-]{1,24}[^\w.!?]{1,3}){0,3}"
_CONTRACTIONS = {
    "don't": "(?:don't|dont|do not)",
    "can't": "(?:can't|cant|cannot|can not)",
    "won't": "(?:won't|wont|will not)",
    "you're": "(?:you're|youre|you are)",
    "they're": "(?:they're|theyre|they are)",
}
_PLAIN_GROUP = re.compile(r"(?<!\\)\((?!\?)")
_TOKEN = re.compile(r"\\.|\[(?:\\.|[^\]])*\]|\(\?:|\{\d+(?:,\d*)?\}|.")
_WORD_START = re.compile(r"(?<!\w)\S")
_STARTS = string.digits + string.ascii_lowercase + string.punctuation
_MASKED_VOWEL = {vowel: f"[{vowel}*#@!.\\-_]" for vowel in "aeiou"}


@dataclass(frozen=True, slots=True)
class Match:
    """Where a list matched: its kind (`urgency`, `threat`, …) and the words."""

    kind: str
    words: str


Phrases = Mapping[str, Sequence[str]]


class PhraseList:
    """Phrases by kind, matched in one pass over a text that `normal.plain` has normalised.

    One alternation of all phrases would try each of them at each word. So there is one alternation for each
    character that a phrase can start with, and a word is only held against its own.
    """

    def __init__(self, phrases: Phrases, gap: str = _GAP, *, squashed: bool = False) -> None:
        by_start: dict[str, dict[str, list[str]]] = {}
        for kind, entries in phrases.items():
            for entry in entries:
                pattern = squash(_compile(entry, gap)) if squashed else _compile(entry, gap)
                for start in _starts(deque(_TOKEN.findall(pattern)))[0]:
                    by_start.setdefault(start, {}).setdefault(kind, []).append(pattern)
        self._by_start = {start: _alternation(kinds) for start, kinds in by_start.items()}

    def search(self, text: str) -> list[Match]:
        """Every match, left to right, without overlaps."""
        matches: list[Match] = []
        end = 0
        for word in _WORD_START.finditer(text):
            pattern = self._by_start.get(word.group())
            if pattern is None or word.start() < end:
                continue
            if found := pattern.match(text, word.start()):
                matches.append(Match(str(found.lastgroup), found.group()))
                end = found.end()
        return matches


def _alternation(kinds: dict[str, list[str]]) -> re.Pattern[str]:
    groups = "|".join(f"(?P<{kind}>{'|'.join(patterns)})" for kind, patterns in kinds.items())
    return re.compile(rf"(?:{groups})(?!\w)")


def _compile(phrase: str, gap: str) -> str:
    if any(" " in part for part in _TOKEN.findall(phrase) if part.startswith("[")):
        raise ValueError(f"a class of characters must not hold a space: {phrase}")
    # Inner groups must not capture: `lastgroup` is to name the kind.
    pattern = _PLAIN_GROUP.sub("(?:", phrase)
    for short, forms in _CONTRACTIONS.items():
        pattern = pattern.replace(short, forms)
    return pattern.replace("<w>", _WORDS).replace("<n>", _NUMBER).replace(" ", gap)


def _starts(tokens: deque[str]) -> tuple[set[str], bool]:
    """The characters that the pattern can match first, up to its end or `)`, and whether it can match nothing.

    `tokens` are those of _TOKEN; they are consumed.
    """
    starts: set[str] = set()
    empty, at_start = False, True
    while tokens and (part := tokens.popleft()) != ")":
        if part == "|":
            empty, at_start = empty or at_start, True
            continue
        if part == "(?:":
            firsts, skippable = _starts(tokens)
        else:
            firsts, skippable = set(_first_characters(part) if at_start else ()), False
        while tokens and tokens[0][0] in "?{":
            skippable |= tokens.popleft().startswith(("?", "{0"))
        if at_start:
            starts, at_start = starts | firsts, skippable
    return starts, empty or at_start


@cache
def _first_characters(part: str) -> frozenset[str]:
    """The characters that one literal, escape or class matches."""
    pattern = re.compile(part)
    return frozenset(ch for ch in _STARTS if pattern.fullmatch(ch))


def _mask(word: str) -> str:
    """`fuck*` also as f*ck, f#ck, f@cks."""
    stem, star, _ = word.partition("*")
    masked = "".join(_MASKED_VOWEL.get(ch, ch) for ch in stem) if "(" not in stem and "?" not in stem else stem
    return masked + (r"\w{0,12}" if star else "")


def _read(name: str) -> dict[str, list[str]] | None:
    file = resources.files("churnsaver.safety") / "data" / name
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None


class Spellings:
    """Phrases as they are written, as a trick of spelling leaves them, and as stretched letters leave them.

    The last two are compiled when a text first needs them; few do, and each takes a third of a second.
    """

    def __init__(self, phrases: Phrases, stretchable: Phrases) -> None:
        self._phrases, self._stretchable = phrases, stretchable
        self._written = PhraseList(phrases)

    @cached_property
    def _unscrambled(self) -> PhraseList:
        return PhraseList(self._phrases, _LOOSE_GAP)

    @cached_property
    def _squashed(self) -> PhraseList:
        return PhraseList(self._stretchable, _LOOSE_GAP, squashed=True)

    def search(self, views: Sequence[str]) -> Iterator[Match]:
        """Matches in each of `normal.views`, the plain one first."""
        yield from self._written.search(views[0])
        for view in views[1:]:
            yield from self._unscrambled.search(view)
        if is_stretched(views[0]):
            for view in dict.fromkeys(map(squash, views)):
                yield from self._squashed.search(view)


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The lists of one language.

    Attributes:
        phrases: pressure, manipulation and claims.
        profanity: profanity, slurs and plain threats.
        never_names: words that a message may hold and nobody is called.
        also_names: words of `profanity` that are first names.
    """

    phrases: Spellings
    profanity: Spellings
    never_names: Spellings
    also_names: frozenset[str]


@cache
def lexicon(language: str) -> Lexicon | None:
    """The lists of a language (BCP 47 primary subtag); None where it has none."""
    if not language.isalpha():
        return None
    phrases, words = _read(f"phrases.{language}.yaml"), _read(f"profanity.{language}.yaml")
    if not phrases or not words:
        return None
    masked = [_mask(word) for word in words["masked"]]
    whole = [_mask(word) if word.endswith("*") else word for word in words["whole"]]
    # Short words squashed are other words: "ass" is "as". Only masked ones and sayings may be stretched.
    stretchable = [*masked, *(saying for saying in whole if " " in saying)]
    profanity = Spellings({"profanity": [*masked, *whole]}, {"profanity": stretchable})
    never_names = {"never_names": words["never_names"]}
    return Lexicon(
        phrases=Spellings(phrases, phrases),
        profanity=profanity,
        never_names=Spellings(never_names, never_names),
        also_names=frozenset(words["also_names"]),
    )
