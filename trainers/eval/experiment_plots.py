"""The experiment report's plots, as SVG elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainers.eval.figures import COLOURS, new_axes, svg

TITLES = {"incremental_churn": "churn, arm less holdout", "incremental_net_value_usd": "net value, arm less holdout, $"}


def experiment_plots(result: Mapping[str, Any]) -> list[str]:
    """Differences to the holdout over time with confidence sequences, and churn raised by segment."""
    plots = [_over_time(result["against_holdout"], what, title) for what, title in TITLES.items()]
    segments = {name: told for name, told in result["sleeping_dogs"]["segments"].items() if told["low"] is not None}
    return [*plots, _segments(segments)] if segments else plots


def _over_time(against: Mapping[str, Any], what: str, title: str) -> str:
    figure, (axes,) = new_axes()
    for number, (arm, found) in enumerate(against.items()):
        if looks := found[what]["looks"]:
            customers, value, low, high = np.array(looks).T
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(customers, value, color=colour, label=arm)
            axes.fill_between(customers, low, high, color=colour, alpha=0.15)
    axes.axhline(0.0, color=COLOURS[-1], linewidth=0.8, linestyle="--")
    axes.set(xlabel="customers of arm and holdout, in the order in which they entered", ylabel=title)
    if axes.lines[:-1]:
        axes.legend()
    return svg(figure)


def _segments(segments: Mapping[str, Any]) -> str:
    figure, (axes,) = new_axes(height_in=0.35 * len(segments) + 1.0)
    for row, told in enumerate(segments.values()):
        colour = COLOURS[4] if told["low"] > 0 else COLOURS[0]
        axes.plot([told["low"], told["high"]], [row, row], color=colour, linewidth=3)
        axes.plot([told["value"]], [row], "o", color=colour)
    axes.axvline(0.0, color=COLOURS[-1], linewidth=0.8, linestyle="--")
    axes.set_yticks(np.arange(len(segments)), list(segments))
    axes.invert_yaxis()
    axes.set_xlabel("churn that contact added; all intervals hold together")
    return svg(figure)
