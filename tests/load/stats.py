"""What a run of requests amounts to: percentiles, errors and rates, by where the message came from."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

NO_MESSAGE = "no_message"
FAILED = "failed"
PERCENTS = (50.0, 95.0, 99.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of an open-loop run. Times are seconds of the machine's monotonic clock.

    Attributes:
        index: position in the plan; it names the body that was sent.
        due_s: when the schedule wanted it sent; latency counts from here, so that a stalled server is
            charged for every request that had to wait for it (coordinated omission stays visible).
        sent_s: when it left; `sent_s - due_s` is what the generator itself was late.
        done_s: when the last byte of the answer, or the failure, came.
        status: HTTP status, or 0 where none came.
        answer: the parsed JSON object, or None.
        error: what broke the connection, or None.
    """

    index: int
    due_s: float
    sent_s: float
    done_s: float
    status: int
    answer: dict[str, Any] | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def latency_ms(self) -> float:
        return (self.done_s - self.due_s) * 1000.0

    @property
    def mode(self) -> str:
        """`policy`, `baseline`, or `failed`."""
        return str((self.answer or {}).get("mode", FAILED)) if self.ok else FAILED

    @property
    def reason(self) -> str | None:
        """Why the baseline answered, or None."""
        return (self.answer or {}).get("baseline_reason")

    @property
    def contact(self) -> bool:
        return bool(((self.answer or {}).get("decision") or {}).get("contact"))

    @property
    def source(self) -> str:
        """`model`, `bank`, `template`; `no_message` where nobody is contacted; `failed`."""
        if not self.ok:
            return FAILED
        return str(((self.answer or {}).get("message") or {}).get("source", NO_MESSAGE))


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies of some requests, in milliseconds from when each was due."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One run, or several of the same target joined.

    Attributes:
        offered_rps: requests that the schedule asked for in each second.
        achieved_rps: 2xx answers in each second until the last answer came.
        errors: requests that got no 2xx answer.
        generator_late_p99_ms: how late the generator itself was; large values void the run.
        latency: of every 2xx answer.
        by_source, by_mode: the same, by message source and by mode.
        statuses, reasons: how many answers had each HTTP status and each baseline reason.
    """

    offered_rps: float
    achieved_rps: float
    requests: int
    errors: int
    generator_late_p99_ms: float
    latency: Latency | None
    by_source: dict[str, Latency]
    by_mode: dict[str, Latency]
    statuses: dict[str, int]
    reasons: dict[str, int]

    @property
    def error_fraction(self) -> float:
        return self.errors / self.requests if self.requests else 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value with at least `percent` % at or below it.

    It is a latency that really occurred and never flatters a short tail, as interpolation can.
    Source: ISO 3534-1; ValueError for no values.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    if not 0.0 < percent <= 100.0:
        raise ValueError(f"percent is {percent}; expected 0 < percent <= 100")
    ordered = sorted(values)
    return ordered[math.ceil(percent / 100.0 * len(ordered)) - 1]


def latency_of(samples: Iterable[Sample]) -> Latency | None:
    """Percentiles of the 2xx answers among `samples`; None where there is none."""
    values = [sample.latency_ms for sample in samples if sample.ok]
    if not values:
        return None
    p50, p95, p99 = (percentile(values, percent) for percent in PERCENTS)
    return Latency(len(values), p50, p95, p99, max(values))


def group_latency(samples: Iterable[Sample], key: Callable[[Sample], str]) -> dict[str, Latency]:
    """Percentiles of the 2xx answers, by `key`."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.ok:
            groups[key(sample)].append(sample)
    return {name: found for name, group in sorted(groups.items()) if (found := latency_of(group))}


def summarise(blocks: Sequence[Sequence[Sample]], offered_rps: float) -> Summary:
    """Joins blocks of one target at one rate; the pauses between blocks do not count as time.

    Args:
        blocks: runs in the order in which they were made; each at least one sample.
        offered_rps: the arrival rate of each.
    """
    samples = [sample for block in blocks for sample in block]
    busy_s = sum(_busy_seconds(block, offered_rps) for block in blocks)
    succeeded = sum(sample.ok for sample in samples)
    return Summary(
        offered_rps=offered_rps,
        achieved_rps=succeeded / busy_s,
        requests=len(samples),
        errors=len(samples) - succeeded,
        generator_late_p99_ms=percentile([(sample.sent_s - sample.due_s) * 1000.0 for sample in samples], 99.0),
        latency=latency_of(samples),
        by_source=group_latency(samples, lambda sample: sample.source),
        by_mode=group_latency(samples, lambda sample: sample.mode),
        statuses=count(str(sample.status) for sample in samples),
        reasons=count(sample.reason for sample in samples if sample.ok and sample.reason),
    )


def count(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, most frequent first."""
    return dict(Counter(values).most_common())


def _busy_seconds(block: Sequence[Sample], offered_rps: float) -> float:
    # The last request's own slot belongs to the schedule even when its answer is quick.
    scheduled_s = len(block) / offered_rps
    return max(scheduled_s, max(sample.done_s for sample in block) - block[0].due_s)
