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
# A draft is judged by its share of the asked language's own commonest words too, once it has so many to judge.
# A fifth of an English text's words are at the least, next to none of a foreign one's.
_FEWEST_WORDS = 3
_OWN_SHARE = 0.15


def other_language(subject: Subject) -> Iterator[Finding]:
    """`other_language`: more of another language's commonest words than of the one that was asked for.

    A draft, whose words are all the writer's, must speak the asked language: one such word is enough against it,
    and so are too few of its own. A filled text holds what people typed, so there it takes more.
    Alphabets are told apart by `script`. A language without a list is not judged.
    """
    known, expected = _function_words(), subject.review.language
    if expected not in known:
        return
    words = set(_WORD.findall(subject.own_words.lower()))
    own = words & known[expected]
    most, found = max(((each, (words & said) - own) for each, said in known.items()), key=lambda item: len(item[1]))
    if len(found) >= (1 if subject.is_draft else _TELLING) and len(found) > len(own):
        yield Finding("other_language", f"speaks {most}, not {expected}", " ".join(sorted(found)[:6]))
    elif subject.is_draft and len(words) >= _FEWEST_WORDS and len(own) < _OWN_SHARE * len(words):
        yield Finding(
            "other_language", f"has too few of the commonest words of {expected}", " ".join(sorted(words)[:6])
        )


@cache
def _function_words() -> Mapping[str, frozenset[str]]:
    """The lists of `data/function_words.yaml`, by BCP 47 primary subtag."""
    file = resources.files("churnsaver.safety") / "data" / "function_words.yaml"
    read: dict[str, list[str]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {language: frozenset(words) for language, words in read.items()}
