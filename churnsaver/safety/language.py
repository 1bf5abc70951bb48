"""Which language a text speaks, by its commonest words: a rule against answers in another language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

import yaml

from churnsaver.safety.review import Finding
from churnsaver.safety.subject import Subject

_WORD = re.compile(r"[^\W\d_]+")
# So many different short words of another language are no loan and no name: "la dolce vita" has one.
_TELLING = 4


def other_language(subject: Subject) -> Iterator[Finding]:
    """`other_language`: more of another language's commonest words than of the one that was asked for.

    Alphabets are told apart by `script`. A language without a list is not judged.
    """
    known = _function_words()
    if subject.review.language not in known:
        return
    words = set(_WORD.findall(subject.own_words.lower()))
    own = words & known[subject.review.language]
    most, found = max(((each, (words & said) - own) for each, said in known.items()), key=lambda item: len(item[1]))
    if len(found) >= _TELLING and len(found) > len(own):
        expected = subject.review.language
        yield Finding("other_language", f"speaks {most}, not {expected}", " ".join(sorted(found)[:6]))


@cache
def _function_words() -> Mapping[str, frozenset[str]]:
    """The lists of `data/function_words.yaml`, by BCP 47 primary subtag."""
    file = resources.files("churnsaver.safety") / "data" / "function_words.yaml"
    read: dict[str, list[str]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {language: frozenset(words) for language, words in read.items()}
