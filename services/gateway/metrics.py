"""What the gateway counts and times."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from churnsaver.telemetry import LATENCY_BUCKETS_S
from services.gateway.contract import Outcome, RetainResponse

DECISIONS = Counter(
    "retain_decisions_total",
    "Decisions, by mode, reason for the baseline, arm, contact and what the ledger said.",
    ["mode", "baseline_reason", "arm", "contact", "booking"],
)
SECONDS = Histogram(
    "retain_request_seconds", "Time to answer, by source of the message.", ["mode", "source"], buckets=LATENCY_BUCKETS_S
)
BLOCKED = Counter("retain_messages_blocked_total", "Contacts given up because no text passed the shield.")
CONTACTS = Counter(
    "retain_contacts_total",
    "Contacts booked, by campaign, offer, channel, source of the message and the shield's verdict.",
    ["campaign", "offer", "channel", "source", "verdict"],
)
RESERVED_CENTS = Counter(
    "retain_reserved_cents_total", "Cents reserved by booked contacts, as if all accepted.", ["campaign", "offer"]
)
CAMPAIGN_BUDGET_CENTS = Gauge("campaign_budget_cents", "What a campaign may spend.", ["campaign"])
CAMPAIGN_RESERVED_CENTS = Gauge(
    "campaign_reserved_cents", "What a campaign has reserved, as the ledger last said.", ["campaign"]
)
LANGUAGE_FALLBACKS = Counter(
    "retain_language_fallbacks_total", "Contacts in English, since nobody approved texts in the customer's language."
)
OUTCOMES = Counter("outcomes_total", "Outcomes recorded, each once.", ["outcome"])
RELEASES = Counter("releases_total", "Answers to release requests, `send` or why not.", ["answer"])
REPEATS = Counter("retain_repeats_total", "Requests answered with an earlier answer.", ["kind"])
LEDGER_BUGS = Counter("ledger_commands_refused_total", "Commands that Redis refused for what they say: a bug.")
JOURNAL_FAILURES = Counter("journal_write_failures_total", "Records that the disk did not take.", ["file"])
JOURNAL_WAITING = Gauge("journal_waiting_records", "Records on the disk that wait for Redis.")
OUTBOX_WAITING = Gauge("outbox_waiting_records", "Decisions and outcomes that Pub/Sub has not got yet.")
OUTBOX_OLDEST = Gauge("outbox_oldest_seconds", "For how long the oldest of them has waited.")
OUTBOX_PUBLISHED = Counter("outbox_published_total", "Decisions and outcomes that Pub/Sub took, by topic.", ["topic"])
BACKGROUND_FAILURES = Counter("background_failures_total", "Unexpected errors of background tasks.", ["task"])
KILL_SWITCH_ON = Gauge("kill_switch_on", "1 while requests get the baseline: switch on, forced or unknown.")
KILL_SWITCH_AGE = Gauge("kill_switch_age_seconds", "Time since the switch was last read from Redis.")
HTTP_REQUESTS = Counter(
    "gateway_http_requests_total", "HTTP requests answered, by method, route and status.", ["method", "route", "code"]
)
HTTP_SECONDS = Histogram(
    "gateway_http_request_seconds",
    "Time to answer an HTTP request, by method and route.",
    ["method", "route"],
    buckets=LATENCY_BUCKETS_S,
)

# Anybody may send any word as a method.
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

# There before their first event, so that a first increase is seen.
for _outcome in Outcome:
    OUTCOMES.labels(_outcome)
for _file in ("unsent.jsonl", "facts.jsonl", "progress.json"):
    JOURNAL_FAILURES.labels(_file)
for _task in ("kill_switch.poll", "kill_switch.push", "keep_ledger", "send_on"):
    BACKGROUND_FAILURES.labels(_task)


def count_http(method: str, route: str, code: int, seconds: float) -> None:
    """Counts one HTTP request."""
    requests, times = _http(method if method in METHODS else "other", route, code)
    requests.inc()
    times.observe(seconds)


@functools.cache  # a look-up of labels costs more than counting does
def _http(method: str, route: str, code: int) -> tuple[Counter, Histogram]:
    return HTTP_REQUESTS.labels(method, route, str(code)), HTTP_SECONDS.labels(method, route)


def count_contact(campaign: str, answer: RetainResponse, reserved_cents: int) -> None:
    """Counts one contact that was booked with its message."""
    offer, channel, message = answer.decision.offer, answer.decision.channel, answer.message
    assert message is not None
    CONTACTS.labels(campaign, offer, channel, message.source, answer.safety.verdict).inc()
    RESERVED_CENTS.labels(campaign, offer).inc(reserved_cents)


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
