"""Metrics of this process, as Prometheus would read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY


def sample(name: str, **labels: str) -> float | None:
    """The value of one series; None where it does not exist."""
    return REGISTRY.get_sample_value(name, labels)


@contextmanager
def grows(name: str, by: float = 1.0, **labels: str) -> Iterator[None]:
    """Asserts that a series is `by` higher after the block; one that did not exist counts as 0."""
    before = sample(name, **labels) or 0.0
    yield
    after = sample(name, **labels) or 0.0
    assert after - before == by, f"{name}{labels} went from {before:g} to {after:g}"
