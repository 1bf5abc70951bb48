"""Rules on how much a channel carries: characters, an SMS's segments, an e-mail's subject."""

from __future__ import annotations

from collections.abc import Iterator

from churnsaver.domain.message import SLOT_PATTERN
from churnsaver.domain.writing import SUBJECT_CHANNELS, split_subject
from churnsaver.safety.review import MAX_REVIEW_CHARS, Finding
from churnsaver.safety.subject import Subject

# What a slot is likely to take up in a filled text; the filled text's own length is what counts.
_TYPICAL_SLOT_CHARS = {"first_name": 12, "expiry": 11, "opt_out": 50}
# A line of an e-mail should have no more (RFC 5322, 2.1.1), and mail readers show less of a subject.
MAX_SUBJECT_CHARS = 78

SEGMENTED_CHANNELS = frozenset({"sms"})
# The default alphabet of SMS and its extension, whose characters take two places (3GPP TS 23.038, 6.2.1).
_GSM_7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_7_EXTENSION = frozenset("\f^{}\\[~]|€")


def length(subject: Subject) -> Iterator[Finding]:
    """`length`: longer than the channel carries, in characters. A draft's slots count as when filled."""
    channel = subject.review.channel
    limit = subject.policy.max_chars.get(channel)
    if limit is None:
        known = ", ".join(subject.policy.max_chars)
        yield Finding("length", f"unknown channel {channel!r}; the channels are {known}")
        return
    n_chars = len(subject.review.text)
    if n_chars <= MAX_REVIEW_CHARS:
        n_chars = len(_as_filled(subject))
    if n_chars > limit:
        yield Finding("length", f"{n_chars} characters; {channel} carries at most {limit}")


def sms_segments(subject: Subject) -> Iterator[Finding]:
    """`sms_segments`: takes more segments, each of which is paid for, than the longest text in plain letters does.

    One character outside of GSM-7 (ł, a curly quote, an emoji) halves what a segment holds.
    """
    limit = subject.policy.max_chars.get(subject.review.channel)
    if limit is None or subject.review.channel not in SEGMENTED_CHANNELS:
        return
    text = _as_filled(subject)
    needed, allowed = segments(text), segments("x" * limit)
    if needed > allowed:
        odd = "".join(sorted({ch for ch in text if ch not in _GSM_7 and ch not in _GSM_7_EXTENSION}))
        because = f", as it holds {odd[:20]!r}" if odd else ""
        yield Finding("sms_segments", f"takes {needed} segments{because}; at most {allowed}", odd[:20])


def subject_length(subject: Subject) -> Iterator[Finding]:
    """`subject_length`: a subject that mail readers cut off."""
    if subject.review.channel not in SUBJECT_CHANNELS:
        return
    said, _ = split_subject(_as_filled(subject))
    if said and len(said) > MAX_SUBJECT_CHARS:
        yield Finding("subject_length", f"a subject of {len(said)} characters; at most {MAX_SUBJECT_CHARS}")


def segments(text: str) -> int:
    """SMS that carry `text`: 160 places of GSM-7 or 70 UTF-16 units, 153 or 67 where several are joined (TS 23.040).

    No character is split between two of them.

    >>> segments("x" * 160), segments("x" * 161), segments("ł" + "x" * 69), segments("€" * 80)
    (1, 2, 1, 1)
    >>> segments("x" * 152 + "€" + "x" * 152)
    3
    """
    if all(ch in _GSM_7 or ch in _GSM_7_EXTENSION for ch in text):
        sizes, alone, joined = [1 + (ch in _GSM_7_EXTENSION) for ch in text], 160, 153
    else:
        sizes, alone, joined = [1 + (ord(ch) > 0xFFFF) for ch in text], 70, 67
    if sum(sizes) <= alone:
        return 1
    needed, places = 1, 0
    for size in sizes:
        if places + size > joined:
            needed, places = needed + 1, 0
        places += size
    return needed


def _as_filled(subject: Subject) -> str:
    """A filled text as it is; a draft with letters in place of its slots."""
    if not subject.is_draft:
        return subject.text
    expected = {**_TYPICAL_SLOT_CHARS, "offer": subject.policy.offer_chars}
    return SLOT_PATTERN.sub(lambda slot: "x" * expected.get(slot.group(1), 0), subject.text)
