"""What a policy must show before it is promoted (TARGETS.md, docs/adr/0017), asked of the report alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainers.eval.metrics import Interval

MIN_DECISIONS = 1_000_000
# A baseline whose spend is this share of the policy's counts as compared at equal spend.
EQUAL_SPEND = (0.9, 1.1)


def missed_targets(report: Mapping[str, Any]) -> list[str]:
    """What is asked and the report does not show, one sentence each."""
    missed = []
    if count := report["hard_rule_violations"]:
        missed.append(f"{count} violations of hard rules, expected none")
    if report["decisions"] < MIN_DECISIONS:
        missed.append(f"{report['decisions']:,} decisions are too few, {MIN_DECISIONS:,} are asked; raise --campaigns")
    missed += _not_better(report["gain_over"])
    missed += _unequal_spend({name: report["gain_over"][name] for name in report["baselines"]})
    missed += [
        f"{name} is {cost['value']:.4f} ({cost['low']:.4f} to {cost['high']:.4f}) a customer and month, not surely "
        f"within its limit {cost['limit']:.4f}"
        for name, cost in report["constraints"].items()
        if cost["high"] > cost["limit"]
    ]
    for scenario, found in report["stress"].items():
        if count := found["hard_rule_violations"]:
            missed.append(f"{scenario}: {count} violations of hard rules, expected none")
        if not found["new_response"]:
            continue
        missed += [f"{scenario}: {sentence}" for sentence in _not_better(found["gain_over"])]
        if found["gain_usd"]["high"] < 0:
            missed.append(f"{scenario}: it earns less than contacting nobody: {said(found['gain_usd'])}")
    return missed


def remarks(report: Mapping[str, Any]) -> list[str]:
    """What a reader should know of the stress tests though no gate asks it, one sentence each."""
    return [f"{name}: {sentence}" for name, found in report["stress"].items() for sentence in _remarks(found)]


def said(interval: Mapping[str, float]) -> str:
    """An interval of dollars as plain text."""
    return dollars(Interval(interval["value"], interval["low"], interval["high"]))


def dollars(interval: Interval) -> str:
    return f"${interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _not_better(gains: Mapping[str, Any]) -> Iterator[str]:
    for name, gain in gains.items():
        if gain["equal_spend"]["low"] <= 0:
            yield f"the gain over {name} at equal spend is not above 0 with confidence: {said(gain['equal_spend'])}"


def _unequal_spend(gains: Mapping[str, Any]) -> Iterator[str]:
    for name, gain in gains.items():
        if (ratio := gain["spend_ratio"]) is None:
            yield f"{name} cannot be compared at equal spend: the policy spends nothing"
        elif not EQUAL_SPEND[0] <= ratio <= EQUAL_SPEND[1]:
            yield f"spend of {name} is {ratio:.2f} of the policy's: not compared at equal spend"


def _remarks(found: Mapping[str, Any]) -> Iterator[str]:
    gain = found["gain_usd"]
    if gain["low"] <= 0 <= gain["high"]:
        yield f"whether the policy earns more than contacting nobody stays open: {said(gain)}"
    yield from _unequal_spend(found["gain_over"])
    for name, share in found["cost_over_limit"].items():
        if share["value"] > 1:
            yield f"{name} is {share['value']:.2f} ({share['low']:.2f} to {share['high']:.2f}) of its limit"
