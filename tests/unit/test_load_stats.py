"""Percentiles, summaries and targets of the load harness."""

from __future__ import annotations

from typing import Any

import pytest

from tests.load.stats import Sample, percentile, summarise


def sample(index: int, *, due_s: float, done_s: float, status: int = 200, **answer: Any) -> Sample:
    return Sample(index, due_s, due_s, done_s, status, answer or None)


def test_a_percentile_is_a_value_that_occurred() -> None:
    """Nearest rank: no interpolation between the last two of a short tail."""
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, p) for p in (50.0, 95.0, 99.0, 100.0)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 50.0) == percentile([7.0], 99.0) == 7.0
    assert percentile([30.0, 10.0, 20.0], 50.0) == 20.0


@pytest.mark.parametrize(("values", "percent"), [([], 50.0), ([1.0], 0.0), ([1.0], 100.5)])
def test_a_percentile_of_nothing_is_refused(values: list[float], percent: float) -> None:
    """An empty run has no latency, and no percent lies outside (0, 100]."""
    with pytest.raises(ValueError, match="percent"):
        percentile(values, percent)


def test_latency_counts_from_when_a_request_was_due() -> None:
    """A request that left late is charged for the wait: coordinated omission stays visible."""
    late = Sample(0, due_s=1.0, sent_s=1.9, done_s=2.0, status=200)
    assert late.latency_ms == pytest.approx(1000.0)
    assert summarise([[late]], 1.0).generator_late_p99_ms == pytest.approx(900.0)


def test_a_summary_separates_sources_modes_and_errors() -> None:
    """Failed requests are errors, never latencies; a contact without a message has its own name."""
    block = [
        sample(0, due_s=0.0, done_s=0.010, mode="policy", message={"source": "bank"}),
        sample(1, due_s=0.5, done_s=0.530, mode="policy", message=None),
        sample(
            2, due_s=1.0, done_s=1.002, mode="baseline", baseline_reason="kill_switch", message={"source": "template"}
        ),
        sample(3, due_s=1.5, done_s=1.600, status=503),
        Sample(4, 2.0, 2.0, 2.1, 0, error="ConnectionResetError"),
    ]
    summary = summarise([block], 2.0)
    assert summary.errors == 2
    assert summary.error_fraction == pytest.approx(0.4)
    assert summary.statuses == {"200": 3, "503": 1, "0": 1}
    assert summary.reasons == {"kill_switch": 1}
    assert {name: each.count for name, each in summary.by_source.items()} == {"bank": 1, "no_message": 1, "template": 1}
    assert {name: each.count for name, each in summary.by_mode.items()} == {"baseline": 1, "policy": 2}
    assert summary.latency is not None
    assert summary.latency.p50_ms == pytest.approx(10.0)


def test_the_pause_between_blocks_is_no_time() -> None:
    """Two blocks of one second at two a second are two seconds, however far apart they ran."""
    first = [sample(i, due_s=i / 2, done_s=i / 2 + 0.01) for i in range(2)]
    second = [sample(i, due_s=100 + i / 2, done_s=100 + i / 2 + 0.01) for i in range(2)]
    assert summarise([first, second], 2.0).achieved_rps == pytest.approx(2.0)


def test_a_slow_tail_lowers_the_achieved_rate() -> None:
    """Answers that come after the schedule has ended count against the rate."""
    block = [sample(i, due_s=i / 10, done_s=i / 10 + 1.0) for i in range(10)]
    assert summarise([block], 10.0).achieved_rps == pytest.approx(10 / 1.9)
