"""The rule on when a message may arrive."""

from __future__ import annotations

from collections.abc import Iterator
from zoneinfo import ZoneInfo

import numpy as np

from churnsaver.domain.eligibility import hour_of_day, in_quiet_hours
from churnsaver.safety.review import Finding
from churnsaver.safety.subject import Subject


def quiet_hours(subject: Subject) -> Iterator[Finding]:
    """`quiet_hours`: would arrive at night in the recipient's zone, or the zone is unknown.

    Runs where a moment or a zone is given; a draft has neither.
    """
    send_at, timezone = subject.review.send_at, subject.review.timezone
    if send_at is None and timezone is None:
        return
    zone = _zone(timezone or "")
    if zone is None:
        yield Finding("quiet_hours", f"unknown time zone {timezone!r}; expected an IANA name such as Europe/Berlin")
        return
    quiet = subject.policy.quiet_hours
    if send_at is not None and in_quiet_hours(quiet, np.array([hour_of_day(send_at.astimezone(zone))]))[0]:
        local = send_at.astimezone(zone).strftime("%H:%M")
        yield Finding(
            "quiet_hours", f"{local} in {timezone} is within {quiet.start_hour}:00 to {quiet.end_hour}:00", local
        )


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no key at all; a folder of zones
        return None
