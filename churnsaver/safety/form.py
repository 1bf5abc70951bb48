"""Rules on how a message looks: hidden characters, script, shouting, repetition."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from churnsaver.safety.review import Finding
from churnsaver.safety.slots import BLANK
from churnsaver.safety.subject import Subject

_LATIN_LANGUAGES = frozenset({"en", "es", "fr", "de", "it", "pt", "nl", "sv", "da", "no", "fi", "pl", "tr"})
_SCRIPTS = {"ru": "CYRILLIC", "uk": "CYRILLIC", "bg": "CYRILLIC", "el": "GREEK", "ar": "ARABIC", "he": "HEBREW"}

_WORD = re.compile(r"[^\W\d_]+")
_LETTERS_SPACED_OUT = re.compile(r"(?<!\w)\w(?:[ .\-_*~|/]{1,4}[^\W\d_]){4,}(?!\w)")
_HIDDEN_IN_A_WORD = re.compile(r"\w[\u00ad\u034f\u061c\u115f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+\w")
_STYLED = re.compile(r"[\U0001d400-\U0001d7ff\uff21-\uff3a\uff41-\uff5a\u24b6-\u24e9\U0001f130-\U0001f189]")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufff9-\ufffd\ue000-\uf8ff]")
_LOUD_MARKS = re.compile(r"[!?]{3,}|!!|[$£€*~#]{3,}|(?:[!?] ?){4,}")
_REPEATED_CHAR = re.compile(r"(\S)\1{5,}")
_REPEATED_WORD = re.compile(r"\b(\w{1,30})(?:\W{1,3}\1\b){2,}")
# Words that are written in capitals without shouting.
_ACRONYMS = frozenset({
    "STOP", "HELP", "END", "QUIT", "SMS", "MMS", "USA", "UK", "EU", "TV", "VIP", "PIN", "FAQ", "FAQS", "PDF",
    "ATM", "ID", "OK", "GPS", "LTE", "DSL", "VPN", "PC", "HD", "SIM", "APP", "GB", "MB", "AM", "PM", "EST", "PST",
    "GMT", "UTC", "USD", "EUR", "GBP", "IT", "API", "NFC", "QR", "CEO", "CET", "RSVP", "UHD",
})  # fmt: skip


def emptiness(subject: Subject) -> Iterator[Finding]:
    """`empty`: nothing to read."""
    if not _WORD.search(subject.own_words.replace(BLANK, " ")):
        yield Finding("empty", "has no words")


def control_characters(subject: Subject) -> Iterator[Finding]:
    """`control_chars`: characters that steer a display and are not read. Line feeds are fine."""
    if found := _CONTROL.search(subject.text):
        yield Finding("control_chars", f"holds U+{ord(found.group()):04X}")


def obfuscation(subject: Subject) -> Iterator[Finding]:
    """`obfuscation`: words spelled so that a filter misses them, whatever they say."""
    text = subject.own_words
    if found := _LETTERS_SPACED_OUT.search(text):
        yield Finding("obfuscation", "letters are spaced out", found.group())
    if text.isascii():
        return
    if found := _HIDDEN_IN_A_WORD.search(text):
        yield Finding("obfuscation", "invisible characters inside a word", repr(found.group()))
    if len(styled := _STYLED.findall(text)) >= 3:
        yield Finding("obfuscation", "letters from styled alphabets", "".join(styled[:20]))
    for word in _WORD.findall(text):
        if not word.isascii() and len({_script(ch) for ch in word}) > 1:
            yield Finding("obfuscation", "a word mixes alphabets", word)
            return


def script(subject: Subject) -> Iterator[Finding]:
    """`script`: words in another alphabet than the language's."""
    language = subject.review.language
    expected = "LATIN" if language in _LATIN_LANGUAGES else _SCRIPTS.get(language)
    if expected is None or (expected == "LATIN" and subject.own_words.isascii()):
        return
    for word in _WORD.findall(unicodedata.normalize("NFKC", subject.own_words)):
        if all(_script(ch) != expected for ch in word):
            yield Finding("script", f"a word is not in the {expected.title()} alphabet of {language}", word)
            return


def shouting(subject: Subject) -> Iterator[Finding]:
    """`shouting`: mostly capitals, or marks piled up."""
    text = subject.own_words
    if found := _LOUD_MARKS.search(text):
        yield Finding("shouting", "piles up exclamation or other marks", found.group())
    if text.count("!") > 3:
        yield Finding("shouting", f"{text.count('!')} exclamation marks; at most 3")
    words = [word for word in _WORD.findall(text) if len(word) > 1]
    loud = [word for word in words if word.isupper() and word not in _ACRONYMS]
    if len(loud) >= 3 and (len(loud) >= 0.4 * len(words) or len(loud) >= 6):
        yield Finding("shouting", "written in capitals", " ".join(loud[:6]))


def repetition(subject: Subject) -> Iterator[Finding]:
    """`repetition`: the same character, word or run of words over and over, as a model in a loop writes."""
    plain = subject.views[0]
    for pattern in (_REPEATED_CHAR, _REPEATED_WORD):
        if found := pattern.search(plain):
            yield Finding("repetition", "repeats itself", found.group()[:60])
            return
    words = _WORD.findall(plain)
    runs = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    if runs and (most := runs.most_common(1)[0])[1] >= 3:
        yield Finding("repetition", f"says the same words {most[1]} times", " ".join(most[0]))


@lru_cache(maxsize=4096)
def _script(ch: str) -> str:
    """The alphabet of a letter: the first word of its Unicode name, such as LATIN."""
    name = unicodedata.name(ch, "UNKNOWN").split()[0]
    return "LATIN" if name in ("FEMININE", "MASCULINE", "MICRO") else name
