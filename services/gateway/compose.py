"""From a decision to the words that a customer reads: the brief, the values of the slots, the template.

Offer, expiry and opt-out come from the decision and the approved texts alone (law 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from churnsaver.domain.message import Brief, MessageBook, fill, neutralise, segment_of
from churnsaver.domain.world import Offer


@dataclass(frozen=True, slots=True)
class Letter:
    """All that is needed to fill a draft for one customer."""

    brief: Brief
    book: MessageBook
    slots: Mapping[str, str]

    def filled(self, draft: str) -> str:
        """`draft` with the customer's values; KeyError for a slot that nobody defined."""
        return fill(draft, self.slots)

    @property
    def is_named(self) -> bool:
        """Whether it has the customer's name."""
        return self.slots["first_name"] != self.book.nameless

    def nameless(self) -> Letter:
        """This letter without the customer's name, the one value in it that nobody approved."""
        return replace(self, slots={**self.slots, "first_name": self.book.nameless})


def compose_letter(
    books: Mapping[str, MessageBook],
    *,
    language: str,
    channel: str,
    tone: str,
    tenure_months: float,
    offer: Offer,
    first_name: str | None,
    send_at: datetime,
    timezone: str,
    valid_days: int,
) -> Letter:
    """Brief and slot values of one decided contact. `language` is one of `books`."""
    book = books[language]
    expiry = send_at.astimezone(ZoneInfo(timezone)) + timedelta(days=valid_days)
    slots = {
        "first_name": neutralise(first_name or "") or book.nameless,
        "offer": offer.label_in(language),
        "expiry": expiry.strftime(book.expiry_format),
        "opt_out": book.opt_out[channel],
    }
    brief = Brief(segment=segment_of(tenure_months), offer=offer.id, tone=tone, channel=channel, language=language)
    return Letter(brief, book, slots)
