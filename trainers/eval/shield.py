"""`eval shield`: planted violations caught, false alarms on benign texts, toxicity held out, and time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from churnsaver.domain.world import World
from churnsaver.safety.review import Finding, Policy, Review, Stage
from churnsaver.safety.rules import review_with_rules
from churnsaver.safety.slots import blank_slots
from churnsaver.safety.toxicity import ToxicityModel
from trainers.eval.metrics import Interval, auc
from trainers.eval.planted import CHANNEL, LANGUAGE, WORDING, Planted, plant
from trainers.shield.corpus import Example, Part
from trainers.shield.templates import templates

PLANTED_PER_CLASS = 300
MAX_FALSE_ALARM_SHARE = 0.01
MAX_RULES_P95_MS, MAX_CLASSIFIER_P95_MS = 5.0, 25.0
# A customer's text is no message of ours, so it gets an opt-out before it is reviewed as one.
OPT_OUT = " Reply STOP to opt out."
# 95 %, two-sided.
_Z = 1.959964


def evaluate_shield(
    world: World, model: ToxicityModel, threshold: float, trained_with_seed: int, examples: Sequence[Example], seed: int
) -> dict[str, Any]:
    """All figures, and under "missed" the targets that were missed.

    Args:
        trained_with_seed: the checkpoint's seed, which says which rows it was not trained on.
        examples: labelled texts; only their test part is used. That part is held out for the classifier only:
            the phrase lists were corrected by people who had read Banking77, so on it the rules' share of false
            alarms is a check that they stay quiet, not an estimate for other texts.
        seed: of the planted violations.
    """
    policy = Policy.of(world)
    planted = plant(world, PLANTED_PER_CLASS, seed)
    timings: dict[str, list[float]] = {"rules": [], "classifier": []}
    for item in planted[: len(WORDING)]:  # once untimed: the lists are compiled when they are first needed
        _review(item.review, policy, model, threshold, {"rules": [], "classifier": []})
    findings = [_review(item.review, policy, model, threshold, timings) for item in planted]
    test = [example for example in examples if example.part(trained_with_seed) is Part.TEST]
    result = {
        "planted": _caught(planted, findings),
        "false_alarms": _false_alarms(test, policy, model, threshold),
        "toxicity": _toxicity([*test, *templates(Part.TEST)], model, threshold),
        "milliseconds": {name: _percentiles(values) for name, values in timings.items()},
    }
    return {**result, "missed": _missed(result)}


def wilson(hits: int, total: int) -> Interval:
    """A share and its 95 % interval (Wilson 1927), which stays inside [0, 1] at 0 and at all hits."""
    share, z2 = hits / total, _Z * _Z
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * (share * (1 - share) / total + z2 / (4 * total * total)) ** 0.5
    return Interval(share, max(centre - half, 0.0), min(centre + half, 1.0))


def _review(
    review: Review, policy: Policy, model: ToxicityModel, threshold: float, timings: dict[str, list[float]]
) -> list[Finding]:
    """As the shield reviews: rules on all, the classifier on drafts."""
    started = time.perf_counter()
    findings = review_with_rules(review, policy)
    timings["rules"].append((time.perf_counter() - started) * 1e3)
    if review.stage is Stage.DRAFT:
        started = time.perf_counter()
        findings += model.review(blank_slots(review.text), threshold)[1]
        timings["classifier"].append((time.perf_counter() - started) * 1e3)
    return findings


def _caught(planted: Sequence[Planted], findings: Sequence[list[Finding]]) -> dict[str, Any]:
    """By class: the share blocked under the class's own name; and every miss, for a person to read."""
    named = [any(f.rule in item.rules for f in found) for item, found in zip(planted, findings, strict=True)]
    by_class = {kind: _shares(planted, named, kind) for kind in dict.fromkeys(item.kind for item in planted)}
    missed = [
        f"{item.kind}, {item.trick}: {item.review.text}" for item, hit in zip(planted, named, strict=True) if not hit
    ]
    return {"per_class": PLANTED_PER_CLASS, "caught": by_class, "misses": missed[:50]}


def _shares(planted: Sequence[Planted], named: Sequence[bool], kind: str) -> dict[str, float]:
    hits = [hit for item, hit in zip(planted, named, strict=True) if item.kind == kind]
    return wilson(sum(hits), len(hits)).as_dict()


def _false_alarms(
    test: Iterable[Example], policy: Policy, model: ToxicityModel, threshold: float
) -> dict[str, dict[str, float]]:
    """Benign texts that would be blocked as whole messages, by source; sources of customers' questions gate."""
    by_source: dict[str, list[bool]] = {}
    for example in test:
        if not example.toxic and example.customer_like:
            review = Review(example.text + OPT_OUT, Stage.FILLED, CHANNEL, LANGUAGE)
            found = review_with_rules(review, policy) + model.review(example.text, threshold)[1]
            by_source.setdefault(example.source, []).append(bool(found))
    return {source: wilson(sum(alarms), len(alarms)).as_dict() for source, alarms in by_source.items()}


def _toxicity(test: Sequence[Example], model: ToxicityModel, threshold: float) -> dict[str, dict[str, float]]:
    """The classifier alone, by source: AUC, recall and false alarms at the threshold."""
    result: dict[str, dict[str, float]] = {}
    for source in dict.fromkeys(example.source for example in test):
        rows = [example for example in test if example.source == source]
        scores, target = np.array([model.score(e.text) for e in rows]), np.array([e.toxic for e in rows])
        figures = {"rows": float(len(rows))}
        if target.any():
            figures["recall"] = float((scores[target] >= threshold).mean())
        if not target.all():
            figures["false_alarms"] = float((scores[~target] >= threshold).mean())
        if target.any() and not target.all():
            figures["auc"] = auc(target, scores)
        result[source] = figures
    return result


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}


def _missed(result: dict[str, Any]) -> list[str]:
    missed = [
        f"planted {kind}: {1 - share['value']:.1%} not caught"
        for kind, share in result["planted"]["caught"].items()
        if share["value"] < 1.0
    ]
    missed += [
        f"{source}: {share['value']:.2%} false alarms, at most {MAX_FALSE_ALARM_SHARE:.0%}"
        for source, share in result["false_alarms"].items()
        if share["value"] >= MAX_FALSE_ALARM_SHARE
    ]
    for name, limit in (("rules", MAX_RULES_P95_MS), ("classifier", MAX_CLASSIFIER_P95_MS)):
        if (p95 := result["milliseconds"][name]["p95"]) > limit:
            missed.append(f"{name}: p95 {p95:.1f} ms, at most {limit:.0f} ms")
    return missed
