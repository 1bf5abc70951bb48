"""What the gateway counts and times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from churnsaver.telemetry import LATENCY_BUCKETS_S
from services.gateway.contract import RetainResponse

DECISIONS = Counter(
    "retain_decisions_total",
    "Decisions, by mode, reason for the baseline, arm, contact and what the ledger said.",
    ["mode", "baseline_reason", "arm", "contact", "booking"],
)
SECONDS = Histogram(
    "retain_request_seconds", "Time to answer, by source of the message.", ["mode", "source"], buckets=LATENCY_BUCKETS_S
)
BLOCKED = Counter("retain_messages_blocked_total", "Contacts given up because no text passed the shield.")
REPEATS = Counter("retain_repeats_total", "Requests answered with an earlier answer.", ["kind"])
LEDGER_BUGS = Counter("ledger_commands_refused_total", "Commands that Redis refused for what they say: a bug.")
JOURNAL_FAILURES = Counter("journal_write_failures_total", "Records that the disk did not take.", ["file"])
OUTBOX_WAITING = Gauge("outbox_waiting_records", "Decisions and outcomes that Pub/Sub has not got yet.")
OUTBOX_OLDEST = Gauge("outbox_oldest_seconds", "For how long the oldest of them has waited.")
OUTBOX_PUBLISHED = Counter("outbox_published_total", "Decisions and outcomes that Pub/Sub took, by topic.", ["topic"])
BACKGROUND_FAILURES = Counter("background_failures_total", "Unexpected errors of background tasks.", ["task"])
KILL_SWITCH_ON = Gauge("kill_switch_on", "1 while requests get the baseline: switch on, forced or unknown.")
KILL_SWITCH_AGE = Gauge("kill_switch_age_seconds", "Time since the switch was last read from Redis.")


def count(answer: RetainResponse, booking: str) -> None:
    """Counts one decided request."""
    source = answer.message.source if answer.message else "none"
    DECISIONS.labels(
        answer.mode, answer.baseline_reason or "", answer.arm, str(answer.decision.contact).lower(), booking
    ).inc()
    SECONDS.labels(answer.mode, source).observe(answer.latency_ms["total"] / 1000.0)
    if answer.safety.verdict == "block":
        BLOCKED.inc()


@contextmanager
def timed(spent_ms: dict[str, float], step: str) -> Iterator[None]:
    """Adds the time of the block to `spent_ms[step]`."""
    started = time.perf_counter()
    try:
        yield
    finally:
        spent_ms[step] = spent_ms.get(step, 0.0) + (time.perf_counter() - started) * 1000.0
