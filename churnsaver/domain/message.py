"""Briefs, slots and approved texts: what a message may be made of.

The model writes with slots and never sees a name, an offer's price or a date (law 3). The gateway fills
the slots from the decision alone, so no other process but the shield ever sees a filled text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field

from churnsaver.domain.world import Frozen

SLOTS = ("first_name", "offer", "expiry", "opt_out")
REQUIRED_SLOTS = ("offer", "expiry", "opt_out")
SLOT_PATTERN = re.compile(r"\{([a-z_]+)\}")
MAX_NAME_CHARS = 40

# Everything that could end a slot, open a link or hide text in a value that comes from outside.
_NOT_IN_A_NAME = re.compile(r"[^\w\s'.\-]", re.UNICODE)


class Brief(Frozen):
    """What the writer is told: no personal data. Messages are written and kept per brief.

    Attributes:
        reason: why the customer may leave, one of `churnsaver.domain.writing.REASONS`.
    """

    segment: str
    offer: str
    tone: str
    channel: str
    language: str
    reason: str = "general"

    @property
    def key(self) -> str:
        return "|".join((self.segment, self.offer, self.tone, self.channel, self.language, self.reason))


class Frame(Frozen):
    """An approved text for one channel with a `{body}`."""

    text: str


class MessageBook(Frozen):
    """The approved texts of one language, for where no written message is at hand.

    Attributes:
        frames: by channel; each must hold `{body}` and every slot of REQUIRED_SLOTS.
        bodies: by segment, the approved default body; no slots.
        opt_out: by channel, the words that fill `{opt_out}`.
        nameless: what fills `{first_name}` where the caller gave none.
        expiry_format: strftime format of `{expiry}`.
    """

    frames: Annotated[dict[str, Frame], Field(min_length=1)]
    bodies: Annotated[dict[str, str], Field(min_length=1)]
    opt_out: dict[str, str]
    nameless: str
    expiry_format: str

    def draft(self, channel: str, body: str) -> str:
        """The channel's frame around `body`, slots unfilled."""
        return self.frames[channel].text.replace("{body}", body)

    def template(self, brief: Brief) -> str:
        """The approved text for `brief` that needs no model, slots unfilled."""
        body = self.bodies.get(brief.segment) or next(iter(self.bodies.values()))
        return self.draft(brief.channel, body)


# Has approved texts everywhere, so that nobody is left without one.
FALLBACK_LANGUAGE = "en"
# No language is told apart by more, and looking through them takes the square of their number.
_MAX_SUBTAGS = 8


def spoken_language(tag: str, languages: Iterable[str]) -> str | None:
    """The one of `languages` that is nearest to a tag: pt-BR, else pt (RFC 4647, 3.4); None where there is none.

    >>> spoken_language("pt_br", ["en", "pt"]), spoken_language("fr", ["en", "pt"])
    ('pt', None)
    """
    known = {language.lower(): language for language in languages}
    subtags = tag.lower().replace("_", "-").split("-", _MAX_SUBTAGS)[:_MAX_SUBTAGS]
    shorter = ("-".join(subtags[:length]) for length in range(len(subtags), 0, -1))
    return next((known[each] for each in shorter if each in known), None)


SEGMENTS = ("new", "settled", "loyal")


def segment_of(tenure_months: float) -> str:
    """The segment that a brief names: how long the customer has been one."""
    if tenure_months < 6:
        return "new"
    return "settled" if tenure_months < 36 else "loyal"


def neutralise(value: str) -> str:
    """A slot value from outside as plain text: no markup, no braces, no control or bidi characters.

    >>> neutralise("Ana{offer}<b>")
    'Anaofferb'
    """
    text = unicodedata.normalize("NFC", " ".join(value.split()))
    text = "".join(ch for ch in text if unicodedata.category(ch)[0] != "C")
    return " ".join(_NOT_IN_A_NAME.sub("", text).split())[:MAX_NAME_CHARS].rstrip()


def slots_in(text: str) -> list[str]:
    """Names of the slots in a draft, in order, repeats included."""
    return SLOT_PATTERN.findall(text)


def fill(draft: str, values: Mapping[str, str]) -> str:
    """`draft` with every slot replaced by its value; values are never scanned for slots themselves.

    Raises KeyError for a slot that has no value: a slot must not reach a customer.
    """
    return SLOT_PATTERN.sub(lambda match: values[match.group(1)], draft)
