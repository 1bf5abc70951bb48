"""Slots and their values: finding them, and taking them out of a text before its own words are judged."""

from __future__ import annotations

import re
from collections.abc import Mapping

from churnsaver.domain.message import REQUIRED_SLOTS, SLOT_PATTERN

# Stands where a slot or its value was: no word, no digit, no space, so nothing matches across it.
BLANK = " \u25a1 "


def blank_slots(draft: str) -> str:
    """A draft's own words: every well-formed slot blanked, known or not."""
    return SLOT_PATTERN.sub(BLANK, draft)


def blank_values(text: str, slots: Mapping[str, str]) -> tuple[str, list[str]]:
    """A filled text's own words, and the required slots whose values do not stand in it.

    Each value is blanked once: what repeats an offer's price outside its slot is the text's own claim.
    The longest go first, and never inside a word, so that a short name cannot blank parts of the text.
    """
    missing = [name for name in REQUIRED_SLOTS if not slots.get(name, "").strip()]
    for name, value in sorted(slots.items(), key=lambda item: (-len(item[1]), item[0])):
        if not value.strip():
            continue
        pattern = rf"(?<!\w){re.escape(value)}(?!\w)"
        text, found = re.subn(pattern, lambda _: BLANK, text, count=1)
        if not found and name in REQUIRED_SLOTS:
            missing.append(name)
    return text, [name for name in REQUIRED_SLOTS if name in missing]
