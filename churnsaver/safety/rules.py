"""All rules, in the order of their findings, and the review that runs them and fails closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from churnsaver.safety.elements import required_elements, slot_use
from churnsaver.safety.form import control_characters, emptiness, obfuscation, repetition, script, shouting
from churnsaver.safety.language import other_language
from churnsaver.safety.leaks import links, personal_data
from churnsaver.safety.length import length, sms_segments, subject_length
from churnsaver.safety.names import offensive_name
from churnsaver.safety.review import Finding, Policy, Review
from churnsaver.safety.subject import Subject
from churnsaver.safety.timing import quiet_hours
from churnsaver.safety.wording import forbidden_phrases, invented_price, profane_words

log = structlog.get_logger()

Rule = Callable[[Subject], Iterable[Finding]]

RULES: tuple[Rule, ...] = (
    emptiness,
    length,
    sms_segments,
    subject_length,
    control_characters,
    required_elements,
    slot_use,
    forbidden_phrases,
    profane_words,
    offensive_name,
    invented_price,
    personal_data,
    links,
    obfuscation,
    script,
    other_language,
    shouting,
    repetition,
    quiet_hours,
)


def review_with_rules(review: Review, policy: Policy, rules: Iterable[Rule] = RULES) -> list[Finding]:
    """What the fast rules find; empty when the message may be sent.

    It fails closed: where a rule raises, the finding `internal_error` names it and the error is logged.
    """
    try:
        subject = Subject.of(review, policy)
    except Exception as error:
        return [failed("preparation", error)]
    findings: list[Finding] = []
    for rule in rules:
        try:
            findings.extend(rule(subject))
        except Exception as error:
            findings.append(failed(rule.__name__, error))
    return findings


def failed(what: str, error: Exception) -> Finding:
    """The finding that blocks a message whose review broke. The text itself is not logged."""
    log.error("shield.rule_failed", rule=what, error=type(error).__name__, exc_info=error)
    return Finding("internal_error", f"the {what} check failed; the message is blocked")
