"""The picture of a bench run: how latencies are spread, and what happens as the rate rises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")  # no display is needed

from matplotlib import pyplot as plt

COLORS = {"floor": "#888888", "policy": "#1f6f8b", "baseline": "#d98032"}


def draw(path: Path, latencies_ms: Mapping[str, Sequence[float]], saturation: Mapping[str, Any]) -> None:
    """Writes a PNG: left the shares of answers within a time, right p99 against the rate."""
    figure, (spread, rising) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, values in latencies_ms.items():
        ordered = np.sort(np.asarray(values))
        share = np.arange(1, len(ordered) + 1) / max(1, len(ordered))
        spread.step(ordered, share, where="post", label=name, color=COLORS[name])
    spread.set(xscale="log", xlabel="latency, ms from when the request was due", ylabel="share of answers")
    spread.legend(loc="lower right")
    for name, found in saturation.items():
        steps = [step for step in found["steps"] if step["p99_ms"] is not None]
        rates, p99_ms = [step["offered_rps"] for step in steps], [step["p99_ms"] for step in steps]
        rising.plot(rates, p99_ms, marker="o", label=f"{name}: {found['sustained_rps']:.0f}/s", color=COLORS[name])
    rising.axhline(1_000.0, color="#bbbbbb", linestyle=":")
    rising.set(yscale="log", xlabel="offered requests/s", ylabel="p99, ms")
    rising.legend(loc="upper left", title="sustained")
    for axes in (spread, rising):
        axes.grid(visible=True, which="both", alpha=0.2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_env_speed(path: Path, sizes: Sequence[Mapping[str, float]], target_steps_per_s: float) -> None:
    """Writes a PNG: left steps a second against the number of customers, right peak memory."""
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    customers = [size["customers"] for size in sizes]
    speed.plot(customers, [size["steps_per_s"] for size in sizes], marker="o", color=COLORS["policy"])
    speed.axhline(target_steps_per_s, color="#bbbbbb", linestyle=":")
    speed.set(xscale="log", yscale="log", xlabel="customers", ylabel="environment steps/s (dotted: target)")
    memory.plot(customers, [size["peak_memory_mb"] for size in sizes], marker="o", color=COLORS["baseline"])
    memory.set(xscale="log", ylim=(0, None), xlabel="customers", ylabel="peak memory of the process, MB")
    for axes in (speed, memory):
        axes.grid(visible=True, which="both", alpha=0.2)
    figure.savefig(path, dpi=110)
    plt.close(figure)
