"""A review's text, prepared once for all rules."""

from __future__ import annotations

from dataclasses import dataclass

from churnsaver.safety.normal import views
from churnsaver.safety.review import MAX_REVIEW_CHARS, Policy, Review, Stage
from churnsaver.safety.slots import blank_slots, blank_values


@dataclass(frozen=True, slots=True)
class Subject:
    """What a rule looks at.

    Attributes:
        review: as it came.
        policy: what it is held against.
        text: the text, cut to MAX_REVIEW_CHARS.
        own_words: `text` with slots, or the values that fill them, blanked.
        views: `own_words` normalised, with tricks of spelling undone (see `normal.views`).
        missing: required slots whose values do not stand in a filled text; empty for a draft and where
            no values were given.
    """

    review: Review
    policy: Policy
    text: str
    own_words: str
    views: tuple[str, ...]
    missing: tuple[str, ...]

    @classmethod
    def of(cls, review: Review, policy: Policy) -> Subject:
        """Prepares `review`."""
        text = review.text[:MAX_REVIEW_CHARS]
        missing: list[str] = []
        if review.stage is Stage.DRAFT:
            own_words = blank_slots(text)
        elif review.slots:
            own_words, missing = blank_values(text, review.slots)
        else:
            own_words = text
        return cls(review, policy, text, own_words, views(own_words), tuple(missing))

    @property
    def is_draft(self) -> bool:
        return self.review.stage is Stage.DRAFT

    @property
    def knows_its_offer(self) -> bool:
        """Whether the offer's own words are blanked, so that any other price is the text's own claim."""
        return self.is_draft or bool(self.review.slots)
