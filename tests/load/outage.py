"""What callers saw of one service that was killed and started again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from tests.load.audit import Exchange
from tests.load.stats import NO_MESSAGE, Sample, count, latency_of


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the failure table of ARCHITECTURE.md promises for one service.

    Attributes:
        degraded: whether an answer is as the table says while the service is down.
        normal: whether an answer shows that the service is back.
    """

    degraded: Callable[[Sample], bool]
    normal: Callable[[Sample], bool]


EXPECTED = {
    "decision": Expectation(
        lambda sample: sample.reason == "decision_unavailable",
        lambda sample: sample.mode == "policy",
    ),
    "generator": Expectation(
        lambda sample: sample.source in {"template", "bank", NO_MESSAGE},
        lambda sample: sample.source in {"model", "bank"},
    ),
    "shield": Expectation(
        lambda sample: sample.source in {"template", NO_MESSAGE},
        lambda sample: sample.source in {"model", "bank"},
    ),
    "redis": Expectation(
        lambda sample: sample.reason == "ledger_unavailable" and not sample.contact,
        lambda sample: sample.mode == "policy",
    ),
}


@dataclass(frozen=True, slots=True)
class Phase:
    """One service killed and started again. Times are seconds of the machine's monotonic clock.

    Attributes:
        ready_s: when the service listened again; None if it never did.
    """

    victim: str
    killed_s: float
    restarted_s: float
    ready_s: float | None
    exchanges: Sequence[Exchange]

    @property
    def samples(self) -> list[Sample]:
        return [exchange.sample for exchange in self.exchanges]

    def fresh(self) -> list[Sample]:
        """The first about each customer of this phase; later ones get stored answers."""
        first: dict[str, Sample] = {}
        for exchange in self.exchanges:
            first.setdefault(exchange.customer_id, exchange.sample)
        return list(first.values())


def describe(phase: Phase) -> dict[str, Any]:
    """What callers saw of one phase."""
    expected = EXPECTED[phase.victim]
    down = [sample for sample in phase.fresh() if phase.killed_s <= sample.due_s < phase.restarted_s]
    after = [sample for sample in phase.fresh() if sample.due_s >= phase.restarted_s]
    normal_s = min((sample.done_s for sample in after if expected.normal(sample)), default=None)
    down_latency = latency_of(down)
    return {
        "victim": phase.victim,
        "requests": len(phase.samples),
        "statuses": count(str(sample.status) for sample in phase.samples),
        "while_down": {
            "requests_about_new_customers": len(down),
            "as_the_failure_table_says": sum(map(expected.degraded, down)) / len(down) if down else None,
            "modes": count(sample.mode for sample in down),
            "reasons": count(sample.reason for sample in down if sample.reason),
            "sources": count(sample.source for sample in down),
            "contacted": sum(sample.contact for sample in down),
            "latency": asdict(down_latency) if down_latency else None,
        },
        "seconds": {
            "down_before_restart": phase.restarted_s - phase.killed_s,
            "restart_to_listening": _since(phase.restarted_s, phase.ready_s),
            "listening_to_first_normal_answer": _since(phase.ready_s, normal_s),
            "kill_to_first_normal_answer": _since(phase.killed_s, normal_s),
            "longest_without_an_answer": longest_gap_s(phase.samples),
        },
        "timeline": timeline(phase),
    }


def timeline(phase: Phase) -> list[dict[str, Any]]:
    """Second by second from the kill: how many new customers were answered how, and from which source."""
    by_second: dict[int, list[Sample]] = defaultdict(list)
    for sample in phase.fresh():
        by_second[int((sample.due_s - phase.killed_s) // 1)].append(sample)
    return [
        {
            "second": second,
            "reasons": count(sample.reason or sample.mode for sample in samples),
            "sources": count(sample.source for sample in samples),
        }
        for second, samples in sorted(by_second.items())
    ]


def longest_gap_s(samples: Sequence[Sample]) -> float:
    """The longest time in which requests were due and nobody got a 2xx answer."""
    answered = sorted([samples[0].due_s, *(sample.done_s for sample in samples if sample.ok)])
    return max((later - earlier for earlier, later in pairwise(answered)), default=0.0)


def _since(start_s: float | None, end_s: float | None) -> float | None:
    return None if start_s is None or end_s is None else end_s - start_s
