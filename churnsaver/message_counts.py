"""What Redis holds of each of the bank's messages for gateway and generator: the one counts, the other decides.

A hash a message: `uses`, the contacts that were booked with it and not taken back since, and how many of them had
each outcome (`opted_out`, `accepted`, …). Nobody's name or pseudonym is in it, so that erasing a customer leaves the
counts as they are. The scripts in services/gateway/lua write it.
"""

from __future__ import annotations

# What was decided about messages, a JSON object by message: the generator writes it, a release reads its `verdict`.
JUDGEMENTS = "cs:bank:judgements"
USES = "uses"
OPTED_OUT = "opted_out"


def message_counts_key(message_id: str) -> str:
    """The key of a message's counts."""
    return f"cs:message:{message_id}"
