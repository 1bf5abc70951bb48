"""The targets of issue 2 and of the service levels, checked against what bench measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One figure beside its target; `measured` is None where nothing of the kind occurred."""

    what: str
    measured: float | None
    target: str
    met: bool


def checks(document: Mapping[str, Any]) -> list[Check]:
    """Every target that a bench report can answer."""
    policy, baseline = document["targets"]["policy"], document["targets"]["baseline"]
    ratio = document["ratio_to_floor"].get("policy", {})
    errors = (policy["errors"] + baseline["errors"]) / (policy["requests"] + baseline["requests"])
    bank = policy["by_source"].get("bank") or {}
    latency = policy["latency"] or {}
    flips = document["kill_switch"]["route"]
    return [
        _at_most("policy p50 / floor p50", ratio.get("p50_ms"), 1.5),
        _at_most("policy p95 / floor p95", ratio.get("p95_ms"), 1.5),
        _at_most("policy p95, ms", latency.get("p95_ms"), 500.0),
        _at_most("policy p99, ms", latency.get("p99_ms"), 1_000.0),
        _at_most("bank path p99, ms", bank.get("p99_ms"), 100.0),
        _at_most("baseline path p99, ms", (baseline["latency"] or {}).get("p99_ms"), 20.0),
        _at_most("errors, fraction", errors, 0.01),
        _at_least("messages from bank or model, fraction", document["written_fraction"], 0.9),
        _at_least("saturation, requests/s", document["saturation"]["policy"]["sustained_rps"], 250.0),
        _at_most("kill switch to first baseline answer, worst, ms", flips["first_baseline_ms"]["worst"], 250.0),
        _at_most("kill switch to last policy answer sent, worst, ms", flips["last_policy_sent_ms"]["worst"], 250.0),
    ]


def _at_most(what: str, measured: float | None, limit: float) -> Check:
    return Check(what, measured, f"≤ {limit:g}", measured is not None and measured <= limit)


def _at_least(what: str, measured: float | None, limit: float) -> Check:
    return Check(what, measured, f"≥ {limit:g}", measured is not None and measured >= limit)
