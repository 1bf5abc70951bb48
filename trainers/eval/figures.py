"""Plots of reports: drawn by matplotlib, kept as SVG elements that stand in the HTML itself."""

from __future__ import annotations

import io
import warnings
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#1f6feb", "#d4691e", "#2c8c57", "#8a4fbf", "#b3261e", "#57606a")
STYLE: Any = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "churn-saver",  # the same plot has the same bytes
}


def new_axes(columns: int = 1, width_in: float = 6.0, height_in: float = 4.0) -> tuple[Figure, list[Axes]]:
    """A figure with axes side by side in the house's style; no window is ever opened."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        return figure, [figure.add_subplot(1, columns, column + 1) for column in range(columns)]


def svg(figure: Figure) -> str:
    """`figure` as one SVG element, the same bytes for the same plot."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # The best place for a legend may take a second where the machine is busy, and no caller need hear of it.
        warnings.filterwarnings("ignore", "Creating legend with loc")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
