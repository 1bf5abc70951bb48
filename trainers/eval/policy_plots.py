"""The policy report's plots, as SVG elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from trainers.eval.report import COLOURS

WIDTH_PX, ROW_PX, LABEL_PX = 560, 34, 150


def policy_plots(report: Mapping[str, Any]) -> list[str]:
    """Net gain of each policy with its interval, and the policy's costs as shares of their limits."""
    policies = report["policies"]
    gains = {name: policy["gain_usd"] for name, policy in policies.items()}
    shares = {name: {"value": policies["ppo"][f"{name}_per_month"] / limit} for name, limit in report["limits"].items()}
    return [
        bars("Net value against contacting nobody, $ a customer and campaign", gains),
        bars("Soft constraints of the policy, share of the limit", shares, mark=1.0),
    ]


def bars(title: str, values: Mapping[str, Mapping[str, float]], mark: float | None = None) -> str:
    """Horizontal bars; each value may have "low" and "high". A dashed line stands at `mark`."""
    numbers = [number for value in values.values() for number in value.values()]
    low, high = min([0.0, *numbers]), max([mark or 0.0, *numbers, 1e-9])
    height = ROW_PX * (len(values) + 1)

    def x(value: float) -> float:
        return LABEL_PX + (value - low) / (high - low) * (WIDTH_PX - LABEL_PX - 70)

    rows = [_bar(name, value, x, ROW_PX * (i + 1)) for i, (name, value) in enumerate(values.items())]
    if mark is not None:
        rows.append(_line(x(mark), ROW_PX * 0.8, x(mark), height, "#8c959f", 'stroke-dasharray="4 4"'))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{height}" role="img">'
        f'<text x="0" y="16">{escape(title)}</text>{"".join(rows)}</svg>'
    )


def _bar(name: str, value: Mapping[str, float], x: Callable[[float], float], top: float) -> str:
    left, right = sorted((x(0.0), x(value["value"])))
    middle = top + ROW_PX / 2 - 4
    whisker = _line(x(value["low"]), middle, x(value["high"]), middle, "#1c2128") if "low" in value else ""
    return (
        f'<text x="0" y="{middle + 4:.1f}">{escape(name)}</text>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{ROW_PX - 10}" '
        f'fill="{COLOURS[0]}" fill-opacity="0.6"/>{whisker}'
        f'<text x="{max(right, x(value.get("high", 0.0))) + 6:.1f}" y="{middle + 4:.1f}">{value["value"]:.2f}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, extra: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {extra}/>'
