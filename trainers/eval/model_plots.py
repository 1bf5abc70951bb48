"""Plots of the risk, acceptance and drift reports, as SVG elements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from trainers.eval.figures import COLOURS, new_axes, svg

MAX_BARS = 15
HISTOGRAM_BINS = 30
PANEL_IN = 2.6
Points = Sequence[Mapping[str, float]]


def reliability_plot(curves: Mapping[str, Points]) -> str:
    """Share of yes against mean prediction, one line a model.

    A point's area follows its rows, its whisker is Wilson's interval. `curves` holds the points of
    `trainers.eval.metrics.reliability` by model.
    """
    figure, (axes,) = new_axes(width_in=5.5, height_in=5.0)
    for number, (name, points) in enumerate(curves.items()):
        _curve(axes, points, COLOURS[number % len(COLOURS)], name)
    axes.set(title="Reliability", xlabel="predicted probability", ylabel="observed share")
    axes.legend(loc="upper left")
    return svg(figure)


def segment_plots(segments: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row of reliability diagrams a feature; `segments` is what `segment_calibration` found."""
    return [_segment_row(name, list(of)) for name, of in groupby(segments, key=lambda segment: segment["feature"])]


def _segment_row(feature: str, segments: list[Mapping[str, Any]]) -> str:
    figure, panels = new_axes(len(segments), width_in=PANEL_IN * len(segments), height_in=PANEL_IN + 0.8)
    for axes, found in zip(panels, segments, strict=True):
        colour = COLOURS[0] if found["calibrated"] else COLOURS[4]
        _curve(axes, found["reliability"], colour)
        said = f"ECE {found['ece']:.3f}, floor {found['ece_floor']['mean']:.3f} ± {found['ece_floor']['sd']:.3f}"
        axes.set_title(f"{_plain(found['segment'])}\n{found['rows']:,} rows\n{said}", fontsize=8)
    panels[0].set_ylabel("observed share")
    figure.suptitle(f"Reliability by {_plain(feature)}")
    figure.supxlabel("predicted probability", fontsize=9)
    return svg(figure)


def bar_plot(title: str, values: Mapping[str, float], xlabel: str, marks: Mapping[str, float] | None = None) -> str:
    """The MAX_BARS largest of `values` as horizontal bars, and dotted lines at `marks` by their names."""
    largest = sorted(values.items(), key=lambda item: -item[1])[:MAX_BARS][::-1]
    figure, (axes,) = new_axes(width_in=6.5, height_in=1.0 + 0.25 * len(largest))
    axes.barh([_plain(name) for name, _ in largest], [value for _, value in largest], color=COLOURS[0], alpha=0.7)
    for number, (name, place) in enumerate((marks or {}).items()):
        axes.axvline(place, color=COLOURS[number + 1], linestyle=":", label=name)
    if marks:
        axes.legend(loc="lower right")
    axes.set(title=title, xlabel=xlabel)
    return svg(figure)


def distribution_plot(name: str, reference: pl.Series, new: pl.Series) -> str:
    """One column in two data sets: shares of its commonest values, or a histogram where it is Float64."""
    figure, (axes,) = new_axes(width_in=5.5, height_in=3.0)
    if reference.dtype == pl.Float64:
        values = [series.drop_nulls().to_numpy() for series in (reference, new)]
        bins = np.histogram_bin_edges(np.concatenate(values), bins=HISTOGRAM_BINS).tolist()
        for of, label, colour in zip(values, ("reference", "new"), COLOURS, strict=False):
            axes.hist(
                of, bins=bins, weights=np.full(len(of), 1 / max(1, len(of))), alpha=0.5, color=colour, label=label
            )
    else:
        common = pl.concat([reference, new]).value_counts(sort=True)[name].to_list()[:MAX_BARS]
        places = np.arange(len(common))
        for series, label, shift, colour in ((reference, "reference", -0.2, COLOURS[0]), (new, "new", 0.2, COLOURS[1])):
            shares = [float(series.eq_missing(value).sum()) / len(series) for value in common]
            axes.bar(places + shift, shares, width=0.4, color=colour, alpha=0.7, label=label)
        axes.set_xticks(places, [_plain(str(value)) for value in common], rotation=30, ha="right")
    axes.set(title=_plain(name), ylabel="share of rows")
    axes.legend()
    return svg(figure)


def wilson_interval(share: float, rows: float) -> tuple[float, float]:
    """95 % interval of a share seen in `rows` rows; Wilson (1927)."""
    z = 1.96
    middle = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _plain(text: str) -> str:
    """A name from someone's data, of which matplotlib would read what stands between dollar signs as a formula."""
    return text.replace("$", r"\$")


def _curve(axes: Axes, points: Points, colour: str, label: str | None = None) -> None:
    total = sum(point["rows"] for point in points)
    predicted, observed = [p["predicted"] for p in points], [p["observed"] for p in points]
    areas = [10.0 + 500.0 * p["rows"] / total for p in points]
    axes.plot([0, 1], [0, 1], color="#8c959f", linestyle="--", linewidth=1)
    axes.plot(predicted, observed, color=colour, linewidth=1.5, label=label)
    axes.scatter(predicted, observed, s=areas, color=colour, alpha=0.35, linewidths=0)
    low, high = zip(*(wilson_interval(p["observed"], p["rows"]) for p in points), strict=True)
    axes.vlines(predicted, low, high, color=colour, linewidth=1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
