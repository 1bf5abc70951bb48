"""The policy report's plots, as SVG elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from trainers.eval.figures import COLOURS, new_axes, svg
from trainers.eval.policy_findings import cost_over_limit

GOOD, BAD, NEUTRAL = COLOURS[2], COLOURS[4], COLOURS[5]


def forest_plot(report: Mapping[str, Any]) -> str:
    """Net value of each policy over contacting nobody, and the difference of every pair, with their intervals."""
    standings, pairs = report["arena"]["standings"], report["arena"]["pairs"]
    figure, (left, right) = new_axes(2, 9.0, 0.6 + 0.32 * max(len(standings), len(pairs)))
    _forest(left, [standing["policy"] for standing in standings], [standing["gain_usd"] for standing in standings])
    left.set_title("net value over never, $ a customer")
    _forest(
        right,
        [f"{pair['first']} - {pair['second']}" for pair in pairs],
        [pair["simultaneous"] for pair in pairs],
        inner=[pair["difference_usd"] for pair in pairs],
    )
    right.set_title("difference, $ a customer")
    return svg(figure)


def constraints_plot(report: Mapping[str, Any]) -> str:
    """The policy's cost of each soft constraint with its interval, as a share of the limit."""
    shares = cost_over_limit(report["constraints"])
    figure, (axes,) = new_axes(1, 6.0, 2.0)
    _forest(axes, list(shares), list(shares.values()))
    axes.axvline(1.0, color=BAD, linestyle="--", linewidth=1.0)
    axes.set_xlim(0.0, max(1.1, *(share["high"] * 1.05 for share in shares.values())))
    axes.set_title("soft constraints, share of the limit")
    return svg(figure)


def segments_plot(report: Mapping[str, Any]) -> str:
    """The policy's net value over contacting nobody in each segment, and the best baseline's as a mark."""
    names, gains, marks = [], [], []
    for kind, parts in report["segments"].items():
        for part, found in parts.items():
            names.append(f"{kind}: {part}")
            gains.append(found["gain_usd"])
            marks.append(found["best_baseline_gain_usd"])
    figure, (axes,) = new_axes(1, 7.0, 0.8 + 0.28 * len(names))
    _forest(axes, names, gains)
    axes.scatter(marks, np.arange(len(names)), marker="|", s=120, color=COLOURS[1], label="best baseline", zorder=3)
    axes.legend(loc="best")
    axes.set_title("net value over never by segment, $ a customer")
    return svg(figure)


def stress_plot(report: Mapping[str, Any]) -> str:
    """The lower bound of the gain over each baseline at equal spend: green above 0, red where it is not."""
    scenarios = {"as trained": report["gain_over"], **{name: s["gain_over"] for name, s in report["stress"].items()}}
    baselines = list(next(iter(report["stress"].values()))["gain_over"])
    gains = [[scenarios[name][baseline]["equal_spend"] for baseline in baselines] for name in scenarios]
    lows = np.array([[gain["low"] for gain in row] for row in gains])
    figure, (axes,) = new_axes(1, 2.5 + 1.5 * len(baselines), 0.8 + 0.38 * len(scenarios))
    reach = max(float(np.abs(lows).max()), 1e-9)
    axes.imshow(lows, cmap="RdYlGn", vmin=-reach, vmax=reach, aspect="auto")
    for (i, j), low in np.ndenumerate(lows):
        axes.text(j, i, f"{gains[i][j]['value']:.2f} (≥ {low:.2f})", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(baselines)), baselines)
    axes.set_yticks(range(len(scenarios)), [name.replace("_", " ") for name in scenarios])
    axes.set_title("gain at equal spend, $ a customer (lower bound)")
    return svg(figure)


def costs_plot(report: Mapping[str, Any]) -> str:
    """Each soft constraint's cost as a share of its limit in every scenario: red where it is over."""
    scenarios = cost_over_limit_by_scenario(report)
    names = list(report["constraints"])
    shares = np.array([[scenario[name]["value"] for name in names] for scenario in scenarios.values()])
    figure, (axes,) = new_axes(1, 2.5 + 1.3 * len(names), 0.8 + 0.38 * len(scenarios))
    axes.imshow(shares, cmap="RdYlGn_r", vmin=0.0, vmax=2.0, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        axes.text(j, i, f"{share:.2f}", ha="center", va="center", fontsize=8, weight="bold" if share > 1 else "normal")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(scenarios)), [name.replace("_", " ") for name in scenarios])
    axes.set_title("costs, share of the limit")
    return svg(figure)


def cost_over_limit_by_scenario(report: Mapping[str, Any]) -> dict[str, Mapping[str, Mapping[str, float]]]:
    """Costs as shares of their limits with their intervals, by scenario and constraint, as trained first."""
    stressed = {name: found["cost_over_limit"] for name, found in report["stress"].items()}
    return {"as trained": cost_over_limit(report["constraints"]), **stressed}


def _forest(
    axes: Axes,
    names: Sequence[str],
    intervals: Sequence[Mapping[str, float]],
    inner: Sequence[Mapping[str, float]] | None = None,
) -> None:
    """One interval a row, the first on top; `inner` ones are drawn thicker over them."""
    for row, interval in enumerate(intervals):
        colour = GOOD if interval["low"] > 0 else BAD if interval["high"] < 0 else NEUTRAL
        axes.plot([interval["low"], interval["high"]], [row, row], color=colour, linewidth=1.2)
        if inner is not None:
            axes.plot([inner[row]["low"], inner[row]["high"]], [row, row], color=colour, linewidth=3.5, alpha=0.6)
        axes.plot(interval["value"], row, "o", color=colour, markersize=4)
    axes.axvline(0.0, color=NEUTRAL, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
