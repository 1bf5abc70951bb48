"""Reports as one HTML file each, with nothing to load from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from churnsaver.errors import BadInput

SIZE_PX, MARGIN_PX = 420, 48
COLOURS = ("#1f6feb", "#d4691e", "#2c8c57", "#8a4fbf")
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2128}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #d8dee4}"
    "pre{background:#f6f8fa;padding:1rem;overflow:auto}svg text{font:12px system-ui,sans-serif;fill:#57606a}"
)


def write_report(out: Path, title: str, result: Mapping[str, Any], plots: Sequence[str]) -> Path:
    """`report.html` and `report.json` in the folder `out`; returns the HTML file's path.

    Args:
        result: numbers, nested mappings of them, and "missed": the targets that were missed.
        plots: SVG elements, shown first.
    """
    missed: Sequence[str] = result.get("missed", ())
    verdict = "".join(f"<li>{escape(sentence)}</li>" for sentence in missed)
    html = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>"
        + (f"<p>Targets missed:</p><ul>{verdict}</ul>" if missed else "<p>Every target is met.</p>")
        + "".join(f"<figure>{plot}</figure>" for plot in plots)
        + f"<table><tr><th>figure<th>value</tr>{''.join(_rows(result))}</table>"
        + f"<h2>As JSON</h2><pre>{escape(json.dumps(result, indent=2))}</pre></html>\n"
    )
    path = out / "report.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(html, encoding="utf-8")
        (out / "report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    return path


def reliability_plot(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Share of yes against mean prediction, one line a model, as an SVG element.

    `curves` holds the points of `trainers.eval.metrics.reliability` by model; a point's area follows its rows.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIZE_PX + 180}" height="{SIZE_PX}" role="img">',
        "<title>Reliability</title>",
        *(_axis_labels(tick / 5) for tick in range(6)),
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="#8c959f" stroke-dasharray="4 4"/>',
        f'<text x="{_x(0.5)}" y="{SIZE_PX - 8}" text-anchor="middle">predicted probability</text>',
        f'<text x="12" y="{_y(0.5)}" text-anchor="middle" transform="rotate(-90 12 {_y(0.5)})">observed share</text>',
    ]
    for number, (name, points) in enumerate(curves.items()):
        parts.append(_curve(name, points, COLOURS[number % len(COLOURS)], MARGIN_PX + 20 * number))
    return "".join([*parts, "</svg>"])


def _curve(name: str, points: Sequence[Mapping[str, float]], colour: str, legend_y: int) -> str:
    total = sum(point["rows"] for point in points)
    places = [(_x(p["predicted"]), _y(p["observed"]), 2.0 + 12.0 * (p["rows"] / total) ** 0.5) for p in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>' for x, y, r in places)
    return (
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
        f'<g fill="{colour}" fill-opacity="0.35">{dots}</g>'
        f'<rect x="{SIZE_PX}" y="{legend_y - 9}" width="12" height="12" fill="{colour}"/>'
        f'<text x="{SIZE_PX + 18}" y="{legend_y + 1}">{escape(name)}</text>'
    )


def _axis_labels(value: float) -> str:
    return (
        f'<text x="{_x(value):.1f}" y="{_y(0) + 16:.1f}" text-anchor="middle">{value:.1f}</text>'
        f'<text x="{_x(0) - 6:.1f}" y="{_y(value) + 4:.1f}" text-anchor="end">{value:.1f}</text>'
    )


def _x(value: float) -> float:
    return MARGIN_PX + value * (SIZE_PX - 2 * MARGIN_PX)


def _y(value: float) -> float:
    return SIZE_PX - MARGIN_PX - value * (SIZE_PX - 2 * MARGIN_PX)


def _rows(result: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Table rows of every number in `result`, nested names joined by dots."""
    rows: list[str] = []
    for name, value in result.items():
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            rows.append(f"<tr><td>{escape(prefix + name)}<td>{value:.4f}</tr>")
        elif not isinstance(value, list):
            rows.append(f"<tr><td>{escape(prefix + name)}<td>{escape(str(value))}</tr>")
    return rows
