"""Plots of an uplift report: Qini curves, predicted against measured uplift, profit over customers contacted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.eval.figures import new_axes, svg
from trainers.eval.uplift_metrics import Curve


def qini_plot(curves: Mapping[str, Curve]) -> str:
    """The Qini curve of each order, and the straight line of a random one."""
    figure, (axes,) = new_axes()
    for name, curve in curves.items():
        axes.plot(100.0 * curve.contacted / curve.contacted[-1], curve.gained, label=name)
    end = next(iter(curves.values())).gained[-1]
    axes.plot([0.0, 100.0], [0.0, end], linestyle="--", color="#8c959f", label="random")
    axes.set(xlabel="customers contacted, best first (%)", ylabel="more outcomes among the treated", title="Qini curve")
    axes.legend()
    return svg(figure)


def decile_plot(deciles: Sequence[Mapping[str, float]]) -> str:
    """Measured against predicted uplift of each tenth of the rows, with 95 % intervals."""
    figure, (axes,) = new_axes()
    predicted = [point["predicted"] for point in deciles]
    measured = [point["value"] for point in deciles]
    lows, highs = [point["low"] for point in deciles], [point["high"] for point in deciles]
    axes.vlines(predicted, lows, highs, linewidth=1)
    axes.plot(predicted, measured, "o")
    reach = [min(predicted), max(predicted)]
    axes.plot(reach, reach, linestyle="--", color="#8c959f", label="as predicted")
    axes.axhline(0.0, color="#8c959f", linewidth=0.8)
    axes.set(xlabel="predicted uplift", ylabel="measured uplift", title="Uplift by decile")
    axes.legend()
    return svg(figure)


def profit_plot(policy: Mapping[str, Any]) -> str:
    """Dollars a customer over the share contacted, with a pointwise 95 % band and the share that was chosen."""
    figure, (axes,) = new_axes()
    percents = [point["percent"] for point in policy["curve"]]
    axes.plot(percents, [point["value"] for point in policy["curve"]])
    axes.fill_between(
        percents, [point["low"] for point in policy["curve"]], [point["high"] for point in policy["curve"]], alpha=0.2
    )
    axes.axvline(policy["contacted_percent"], linestyle="--", color="#8c959f", label="chosen on other rows")
    axes.axhline(0.0, color="#8c959f", linewidth=0.8)
    title = f"Profit at {policy['cost_usd']:g} USD a contact, {policy['value_usd']:g} USD an outcome"
    axes.set(xlabel="customers contacted, best first (%)", ylabel="USD a customer", title=title)
    axes.legend()
    return svg(figure)
