"""A target policy's one-step value and costs from a log, with a verdict that is refused where the log is too thin."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from trainers.eval.figures import COLOURS, new_axes, svg
from trainers.ope.estimators import ESTIMATORS, Predicted, Ratio, estimate, mean_of
from trainers.ope.intervals import estimates
from trainers.ope.logged import Floats, LoggedBandit, Support

# Which estimator the verdict reads: unbiased where propensities are right; `tests/load/ope_coverage.py` measures it.
HEADLINE = "dr"
MIN_EFFECTIVE = 100.0
MIN_MEAN_WEIGHT = 0.95
SCOPE = (
    "one-step: each decision's own outcome, later decisions as logged; what changes over weeks under the target "
    "(fatigue, cooldowns, a budget spent otherwise) is outside what is estimated"
)


def evaluate_logged(
    logged: LoggedBandit,
    models: Mapping[str, Predicted],
    seed: int,
    min_effective: float = MIN_EFFECTIVE,
    never: Collection[str] = (),
) -> dict[str, Any]:
    """Every estimator of the value and of each cost, their gain over what was logged, and whether to believe them.

    Args:
        models: what the outcome model says of "reward" and of each cost.
        min_effective: effective decisions below which no estimate is given.
        never: costs that the target cannot incur; they are 0, not estimated.

    Returns:
        `refused`: why no estimate is given; where that is empty also `logged`, `value`, `gain` and `costs`, each
        the mean of a decision.
    """
    support = Support.of(logged)
    refused = support.refusals(min_effective, MIN_MEAN_WEIGHT)
    result: dict[str, Any] = {"scope": SCOPE, "headline": HEADLINE, "support": asdict(support), "refused": refused}
    if refused:
        return result
    outcomes = {"reward": logged.rewards, **logged.costs}
    ratios: dict[str, Ratio] = {}
    for name, outcome in outcomes.items():
        found = (
            dict.fromkeys(ESTIMATORS, mean_of(np.zeros_like(outcome)))
            if name in never
            else estimate(logged.weights, outcome, models[name])
        )
        ratios |= {f"{name}/{estimator}": ratio for estimator, ratio in found.items()}
        ratios[f"{name}/logged"] = mean_of(outcome)
        ratios[f"{name}/gain"] = _gain(found[HEADLINE], outcome)
    told = {name: interval.as_dict() for name, interval in estimates(ratios, logged.clusters, seed).items()}
    summaries = {name: _of(told, name) for name in outcomes}
    return {**result, "value": summaries.pop("reward"), "costs": summaries}


def _gain(ratio: Ratio, outcome: Floats) -> Ratio:
    """The target's mean less the logged one, decision by decision."""
    return Ratio(ratio.numerator - outcome, ratio.denominator)


def _of(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The estimates of one outcome: `logged`, `gain` over it, and each estimator's."""
    return {key.removeprefix(f"{name}/"): value for key, value in told.items() if key.startswith(f"{name}/")}


def missed_targets(
    result: Mapping[str, Any], limits: Mapping[str, float], per_customer_month: float | None
) -> list[str]:
    """Why the target should not be promoted, one sentence each: value first, then each cost against its limit.

    Args:
        per_customer_month: decisions; None where the log is too short to tell.
    """
    missed = [f"refused: {reason}" for reason in result["refused"]]
    if missed:
        return missed
    gain = result["value"]["gain"]
    if not gain["low"] >= 0:
        missed.append(
            f"the gain over the logging policy may be negative: {gain['value']:.3f} [{gain['low']:.3f}, "
            f"{gain['high']:.3f}] a decision"
        )
    if limits and per_customer_month is None:
        return [*missed, "the log spans less than a month, so monthly limits cannot be checked; log for longer"]
    for name, limit in limits.items():
        assert per_customer_month is not None
        high = result["costs"][name][HEADLINE]["high"] * per_customer_month
        if not high <= limit:
            missed.append(f"{name} may be {high:.4f} a customer and month, its limit is {limit:.4f}")
    return missed


def ope_plots(result: Mapping[str, Any]) -> list[str]:
    """The value by each estimator beside what was logged, with its stated and its Bernstein interval."""
    if result["refused"]:
        return []
    shown = {name: told for name, told in result["value"].items() if name != "gain"}
    figure, (axes,) = new_axes(height_in=0.4 * len(shown) + 1.0)
    for row, (name, told) in enumerate(shown.items()):
        wide, colour = told["empirical_bernstein"], COLOURS[1] if name == "logged" else COLOURS[0]
        axes.plot([wide["low"], wide["high"]], [row, row], color=COLOURS[5], linewidth=1, alpha=0.6)
        axes.plot([told["low"], told["high"]], [row, row], color=colour, linewidth=4)
        axes.plot([told["value"]], [row], "o", color=colour)
    axes.set_yticks(np.arange(len(shown)), list(shown))
    axes.invert_yaxis()
    axes.set_xlabel("value of a decision; thick: the stated 95 % interval, thin: empirical Bernstein")
    return [svg(figure)]
