"""What policies brought at play, as it stands in report.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from churnsaver.models.baselines import BaselinePolicy
from trainers.env.params import CONSTRAINTS, SoftLimits
from trainers.eval.arena import Arena
from trainers.eval.business import business_figures, segments
from trainers.eval.metrics import Interval
from trainers.eval.play import Play, Setting
from trainers.eval.resample import TwoWayBootstrap

PPO, NEVER = "ppo", "never"
SPEC_FIELDS = {"offer", "threshold", "worth", "pacing"}


def constraints(played: Play, limits: SoftLimits, bootstrap: TwoWayBootstrap) -> dict[str, dict[str, float]]:
    """Each soft constraint's cost per customer and month with its interval, beside its limit."""
    return {
        name: {**bootstrap.mean(played.costs[..., i] / played.months).as_dict(), "limit": getattr(limits, name)}
        for i, name in enumerate(CONSTRAINTS)
    }


def cost_over_limit(found: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The same as shares of the limits, with their intervals."""
    return {name: {key: cost[key] / cost["limit"] for key in ("value", "low", "high")} for name, cost in found.items()}


def gain_over(arena: Arena, plays: Mapping[str, Play], name: str) -> dict[str, Any]:
    """The policy's gain over another one, and how much that spends."""
    pair = arena.pair(PPO, name)
    return {
        "equal_spend": pair.gain.as_dict(),
        "as_drawn": pair.as_drawn.as_dict(),
        "spend_ratio": spend_ratio(plays[name], plays[PPO]),
    }


def spend_ratio(theirs: Play, ours: Play) -> float | None:
    """None where the policy spends nothing."""
    return theirs.spend_usd / ours.spend_usd if ours.spend_usd > 0 else None


def described(setting: Setting, played: Play, never: Play, bootstrap: TwoWayBootstrap) -> dict[str, Any]:
    """A policy as a business."""
    return {
        "business": _as_dicts(business_figures(setting, played, never, bootstrap)),
        "value_usd": float(played.value_usd.mean()),
        "costs_per_month": played.costs_per_month,
        "refused": played.refused,
        "violations": sum(played.violations.values()),
    }


def by_segment(
    setting: Setting, plays: Mapping[str, Play], arena: Arena, bootstrap: TwoWayBootstrap
) -> dict[str, dict[str, Any]]:
    """The policy's business by segment, and its gain over the best baseline there."""
    ours, never = plays[PPO], plays[NEVER]
    best = next(standing.policy for standing in arena.standings if standing.policy not in (PPO, NEVER))
    found: dict[str, dict[str, Any]] = {}
    for kind, parts in segments(setting, ours).items():
        found[kind] = {}
        for part, rows in parts.items():
            found[kind][part] = {
                "share": float(rows.mean()),
                **_as_dicts(business_figures(setting, ours, never, bootstrap, rows)),
                "best_baseline": best,
                "best_baseline_gain_usd": float(plays[best].gain_usd[rows].mean()),
            }
    return found


def spec(policy: BaselinePolicy) -> dict[str, Any]:
    """What a baseline was turned to: its offer, threshold, price of spend and pacing, as far as it has them."""
    told = policy.spec.model_dump(mode="json", include=SPEC_FIELDS)
    worth, pacing = told.pop("worth", {}), told.pop("pacing")
    return {**told, **worth, **pacing}


def _as_dicts(figures: Mapping[str, Interval | None]) -> dict[str, dict[str, float] | None]:
    return {name: figure.as_dict() if figure else None for name, figure in figures.items()}
