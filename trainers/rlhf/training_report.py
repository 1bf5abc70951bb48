"""How a tuning went: its loss curves as plots, in a report beside the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from churnsaver.checkpoints import Gate
from trainers.eval.figures import new_axes, svg
from trainers.eval.report import write_report


def training_folder(out: Path) -> Path:
    """Where a training of the checkpoint `out` keeps its state and curves: beside it, as `train ppo` does."""
    whole = out.resolve()
    return whole.with_name(f"{whole.name}-training")


def write_loss_report(
    training: Path,
    title: str,
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    metrics: Mapping[str, float],
    gate: Gate,
) -> Path:
    """report.html and report.json in `training`.

    Args:
        histories: what each training logged, by the name of its curve.
    """
    figure, (axes,) = new_axes(width_in=8.0, height_in=3.5)
    curves = {
        name: [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
        for name, history in histories.items()
    }
    for name, curve in curves.items():
        axes.plot([step for step, _ in curve], [loss for _, loss in curve], label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    axes.legend()
    result = {
        **metrics,
        "loss": {name: {"first": curve[0][1], "last": curve[-1][1]} for name, curve in curves.items() if curve},
        "missed": list(gate.missed),
    }
    return write_report(training, title, result, [svg(figure)])
