"""What is reviewed, what a review finds, and what it is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from churnsaver.domain.world import QuietHours, World

# Longer texts are refused, and only this much of them is read, so that no input can stall a review.
MAX_REVIEW_CHARS = 4_000


class Stage(StrEnum):
    """Which text it is: a slotted draft, or the filled text that would be sent."""

    DRAFT = "draft"
    FILLED = "filled"


@dataclass(frozen=True, slots=True)
class Review:
    """One message to review.

    Attributes:
        text: slotted for a draft, filled otherwise.
        stage: which of the two it is.
        channel: decides the length limit.
        language: BCP 47 primary subtag; decides the phrase lists and the script.
        slots: values that fill the slots of a filled text. Without them, the rules that compare the text
            with its offer, expiry and name cannot run, and an opt-out is looked for by its wording.
        send_at: the moment of sending, aware; None where it is not known yet.
        timezone: the recipient's IANA zone; None where it is not known yet.
    """

    text: str
    stage: Stage
    channel: str
    language: str = "en"
    slots: Mapping[str, str] = field(default_factory=dict)
    send_at: datetime | None = None
    timezone: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason not to send: the rule's name, a sentence for a person, the words it was found in."""

    rule: str
    message: str
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers and lists that the rules hold a message against.

    Attributes:
        max_chars: longest text by channel, in characters.
        quiet_hours: hours of the recipient's day in which nothing is sent.
        offer_chars: longest words of any offer, which a draft must leave room for.
        allowed_link_hosts: hosts that a message may link to, their subdomains included.
    """

    max_chars: Mapping[str, int]
    quiet_hours: QuietHours
    offer_chars: int
    allowed_link_hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, world: World, allowed_link_hosts: frozenset[str] = frozenset()) -> Policy:
        """The policy of a world's channels, offers and contact rules."""
        return cls(
            max_chars={name: channel.max_chars for name, channel in world.channels.items()},
            quiet_hours=world.contact_rules.quiet_hours,
            offer_chars=max(len(label) for offer in world.offers for label in offer.label.values()),
            allowed_link_hosts=allowed_link_hosts,
        )
