"""What Redis holds of each of the bank's messages for gateway and generator: the one counts, the other decides.

A hash a message: `uses`, the contacts that were booked with it and not taken back since, and how many of them had
each outcome (`opted_out`, `accepted`, …). Each stands there twice, in all and by the day (UTC, since 1970) on which the
contact was booked: `20784:uses`. Nobody's name or pseudonym is in it, so that erasing a customer leaves the counts as
they are. The scripts in services/gateway/lua write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# What was decided about messages, a JSON object by message: the generator writes it, a release reads its `verdict`.
JUDGEMENTS = "cs:bank:judgements"
USES = "uses"
OPTED_OUT = "opted_out"


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """What is counted of a message.

    Attributes:
        total: by name.
        by_day: the same of the contacts that were booked on a day.
    """

    total: dict[str, int] = field(default_factory=dict)
    by_day: dict[int, dict[str, int]] = field(default_factory=dict)


def split_counts(stored: Mapping[str, int]) -> MessageCounts:
    """A message's hash, read; what is under no day's name counts in all."""
    found = MessageCounts()
    for name, count in stored.items():
        day, of_day, what = name.partition(":")
        if of_day and day.isdecimal():
            found.by_day.setdefault(int(day), {})[what] = count
        else:
            found.total[name] = count
    return found


def message_counts_key(message_id: str) -> str:
    """The key of a message's counts."""
    return f"cs:message:{message_id}"
