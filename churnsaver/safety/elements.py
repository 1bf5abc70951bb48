"""Rules on what must stand in a message: offer, expiry, opt-out, and no slot unfilled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from churnsaver.domain.message import REQUIRED_SLOTS, SLOTS, neutralise, slots_in
from churnsaver.safety.normal import plain
from churnsaver.safety.review import Finding
from churnsaver.safety.slots import blank_slots
from churnsaver.safety.subject import Subject

# How a person is told that messages can be stopped.
_OPT_OUT = re.compile(
    r"\b(?:stop to|(?:reply|text|send|txt|answer with) [\"']?stop|opt[ -]?out|unsubscribe|opting out"
    r"|(?:turn|switch) (?:\w+ ){0,3}off|(?:stop|manage|change|end) (?:\w+ ){0,3}(?:messages|texts|emails|e-mails"
    r"|notifications|alerts|settings|preferences|subscription)"
    r"|(?:in|your|notification|message) (?:settings|preferences)|no longer (?:wish|want) to (?:receive|get|hear))\b"
)
# "[Your Name]", "<first name>", "%NAME%", "$name", "<|im_start|>": placeholders of others' making, and marks of its own
# conversation, that a model writes.
_PLACEHOLDER = re.compile(
    r"\[[A-Za-z][A-Za-z _'/-]{0,40}\]|<[A-Za-z/|][^<>\n]{0,60}>|%[A-Za-z_]{2,30}%|\$\{?[A-Za-z_]{2,30}\}?"
    r"|\b(?:INSERT|TODO|TBD|XXX+|LOREM IPSUM)\b|_{3,}"
)
# A value that stands against a letter, a digit or another value is not found in the filled text.
_GLUED_SLOT = re.compile(r"[\w}]\{[a-z_]+\}|\{[a-z_]+\}[\w{]")
_DIGITS_IN_A_NAME = re.compile(r"\d")


def required_elements(subject: Subject) -> Iterator[Finding]:
    """`required_element`: offer, expiry and opt-out exactly once in a draft, by value in a filled text.

    A draft holds the name once at most and no slot right beside a word, as the filled text would not pass.
    """
    if subject.is_draft:
        counts = Counter(slots_in(subject.text))
        for name in REQUIRED_SLOTS:
            if counts[name] != 1:
                yield Finding("required_element", f"{{{name}}} must stand exactly once, stands {counts[name]} times")
        if counts["first_name"] > 1:
            yield Finding("required_element", f"{{first_name}} must stand once, stands {counts['first_name']} times")
        if glued := _GLUED_SLOT.search(subject.text):
            yield Finding("required_element", "a slot stands right beside a word or a slot", glued.group())
        return
    for name in subject.missing:
        yield Finding("required_element", f"the value of {name} does not stand in the text")
    opt_out = subject.review.slots.get("opt_out", subject.text)
    if "opt_out" not in subject.missing and not _OPT_OUT.search(plain(opt_out)):
        yield Finding("required_element", "does not say how to opt out, such as: Reply STOP to opt out.")


def slot_use(subject: Subject) -> Iterator[Finding]:
    """`slot`: unknown slots, braces and placeholders left over, or a name that is no name."""
    if subject.is_draft:
        for name in dict.fromkeys(slots_in(subject.text)):
            if name not in SLOTS:
                yield Finding("slot", f"unknown slot; the slots are {', '.join(SLOTS)}", f"{{{name}}}")
        left = blank_slots(subject.text)
    else:
        left = subject.text
    if found := re.search(r"[{}].{0,20}", plain(left)):
        yield Finding("slot", "a brace is left: an unfilled or malformed slot", found.group())
    if found := _PLACEHOLDER.search(subject.own_words):
        yield Finding("slot", "an unfilled placeholder", found.group())
    name = subject.review.slots.get("first_name", "")
    if name != neutralise(name) or _DIGITS_IN_A_NAME.search(name):
        yield Finding("slot", "first_name is not a plain name; neutralise it before filling", name[:40])
