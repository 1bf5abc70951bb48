"""The rule on the customer's own name, which the caller's customers typed and nobody has read."""

from __future__ import annotations

from collections.abc import Iterator

from churnsaver.safety.lexicon import lexicon
from churnsaver.safety.normal import views
from churnsaver.safety.review import Finding, Review
from churnsaver.safety.subject import Subject

# The classifier judges by runs of letters, of which one or two words have too few: Zoë scores 0.87 and
# Harshit Kumar 0.93. Shorter names are held against the lists alone.
MIN_CLASSIFIED_WORDS = 3


def offensive_name(subject: Subject) -> Iterator[Finding]:
    """`name`: the first name insults, threatens, presses or speaks to its reader. The lists are the language's."""
    name = first_name(subject.review)
    lists = lexicon(subject.review.language)
    if not name or lists is None:  # a language without lists is a finding of its own
        return
    spellings = views(name)
    if spellings[0].split()[0] in lists.also_names:
        spellings = views(name.partition(" ")[2])
    for forbidden in (lists.profanity, lists.phrases, lists.never_names):
        if match := next(forbidden.search(spellings), None):
            yield Finding("name", "first_name is no name; send without it", match.words)
            return


def classified_name(review: Review) -> str | None:
    """The first name where it has words enough for the classifier; None otherwise."""
    name = first_name(review)
    return name if len(name.split()) >= MIN_CLASSIFIED_WORDS else None


def first_name(review: Review) -> str:
    """The value that fills `{first_name}`; empty for a draft and where nobody gave one."""
    return review.slots.get("first_name", "")
