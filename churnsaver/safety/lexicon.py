"""Forbidden wording: the lists in `data/`, compiled to one pattern each."""

from __future__ import annotations

import re
import string
from collections import deque
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

# A gap does not end a sentence. In a text whose spelling was unscrambled it may be gone: "actnow".
_GAP, _LOOSE_GAP = r"(?:[^\w.!?]{1,3})", r"(?:[^\w.!?]{0,3})"
_NUMBER = (
    r"(?:\d{1,6}(?:[.,]\d{1,3})?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty"
    r"|thirty|forty|fifty|hundred|thousand|a few|a couple(?: of)?)"
)
_WORDS = r"(?:[\w'%-]{1,24}[^\w.!?]{1,3}){0,3}"
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


class PhraseList:
    """Phrases by kind, matched in one pass over a text that `normal.plain` has normalised.

    One alternation of all phrases would try each of them at each word. So there is one alternation for each
    character that a phrase can start with, and a word is only held against its own.
    """

    def __init__(self, phrases: dict[str, list[str]], gap: str = _GAP) -> None:
        by_start: dict[str, dict[str, list[str]]] = {}
        for kind, entries in phrases.items():
            for entry in entries:
                pattern = _compile(entry, gap)
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
            firsts, skippable = {ch for ch in _STARTS if at_start and re.fullmatch(part, ch)}, False
        while tokens and tokens[0][0] in "?{":
            skippable |= tokens.popleft().startswith(("?", "{0"))
        if at_start:
            starts, at_start = starts | firsts, skippable
    return starts, empty or at_start


def _mask(word: str) -> str:
    """`fuck*` also as f*ck, f#ck, f@cks."""
    stem, star, _ = word.partition("*")
    masked = "".join(_MASKED_VOWEL.get(ch, ch) for ch in stem) if "(" not in stem and "?" not in stem else stem
    return masked + (r"\w{0,12}" if star else "")


def _read(name: str) -> dict[str, list[str]] | None:
    file = resources.files("churnsaver.safety") / "data" / name
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The lists of one language, each for ordinary and for unscrambled text."""

    phrases: PhraseList
    loose_phrases: PhraseList
    profanity: PhraseList
    loose_profanity: PhraseList


@cache
def lexicon(language: str) -> Lexicon | None:
    """The lists of a language (BCP 47 primary subtag); None where it has none."""
    if not language.isalpha():
        return None
    phrases, words = _read(f"phrases.{language}.yaml"), _read(f"profanity.{language}.yaml")
    if not phrases or not words:
        return None
    whole = [_mask(word) if word.endswith("*") else word for word in words["whole"]]
    profanity = {"profanity": [*map(_mask, words["masked"]), *whole]}
    return Lexicon(
        PhraseList(phrases), PhraseList(phrases, _LOOSE_GAP), PhraseList(profanity), PhraseList(profanity, _LOOSE_GAP)
    )
