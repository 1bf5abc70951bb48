"""How a training went: TensorBoard events while it runs, and a report with its curves when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from torch.utils.tensorboard import SummaryWriter

from churnsaver.errors import BadInput
from trainers.agents.ppo_policy import Iteration
from trainers.env.params import CONSTRAINTS, SoftLimits
from trainers.eval.figures import new_axes, svg
from trainers.eval.report import write_report

TENSORBOARD = "tensorboard"


class TensorBoardLog:
    """Scalars of every iteration in the folder `training`; a resumed training goes on where it was cut off.

    Args:
        done: iterations that have been logged and are kept; 0 begins anew.
    """

    def __init__(self, training: Path, done: int) -> None:
        folder = training / TENSORBOARD
        if not done:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{folder}: cannot be made ({error.strerror}); choose another --out") from None
        self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def write(self, iteration: Iteration) -> None:
        for name, value in scalars(iteration).items():
            self._writer.add_scalar(name, value, iteration.number)

    def close(self) -> None:
        self._writer.close()


def scalars(iteration: Iteration) -> dict[str, float]:
    """The iteration's figures by TensorBoard tag."""
    figures = asdict(iteration)
    plain = ("reward_usd", "entropy", "approx_kl", "explained_variance")
    return {
        **{f"training/{name}": figures[name] for name in plain},
        **{f"cost_per_month/{name}": value for name, value in iteration.costs_per_month.items()},
        **{f"multiplier_usd/{name}": value for name, value in iteration.multipliers.items()},
        "training/constraints_unmet": float(len(iteration.unmet)),
    }


def write_training_report(
    training: Path, history: Sequence[Iteration], limits: SoftLimits, summary: Mapping[str, Any]
) -> Path:
    """`report.html` with the learning curves, and `report.json` with them as numbers."""
    result = {**summary, "limits": limits.model_dump(), "history": [asdict(iteration) for iteration in history]}
    return write_report(training, "Training of the contact policy", result, learning_curves(history, limits))


def learning_curves(history: Sequence[Iteration], limits: SoftLimits) -> list[str]:
    """Value and costs, multipliers, and what the update did, as SVG elements."""
    numbers = [iteration.number for iteration in history]

    def curve(axes: Axes, values: Sequence[float], label: str) -> None:
        axes.plot(numbers, values, label=label, linewidth=1.0)

    game, (value, costs) = new_axes(2, 10.0)
    curve(value, [i.reward_usd for i in history], "net value")
    value.set(title="Net value against contacting nobody", xlabel="iteration", ylabel="$ a customer and campaign")
    for name in CONSTRAINTS:
        curve(costs, [i.costs_per_month[name] / getattr(limits, name) for i in history], name)
    costs.axhline(1.0, color="#8c959f", linestyle="--", linewidth=1.0)
    costs.set(title="Soft constraints", xlabel="iteration", ylabel="share of the limit", yscale="symlog")
    costs.legend()

    prices, (multipliers, entropy) = new_axes(2, 10.0)
    for name in CONSTRAINTS:
        curve(multipliers, [i.multipliers[name] for i in history], name)
    multipliers.set(title="Multipliers", xlabel="iteration", ylabel="$ a limit")
    multipliers.legend()
    curve(entropy, [i.entropy for i in history], "entropy")
    entropy.set(title="Entropy of the policy", xlabel="iteration", ylabel="nats", yscale="log")

    learning, (divergence, variance) = new_axes(2, 10.0)
    curve(divergence, [i.approx_kl for i in history], "KL")
    divergence.set(title="KL divergence of the update", xlabel="iteration", ylabel="nats")
    curve(variance, [i.explained_variance for i in history], "explained variance")
    variance.set(title="Explained variance of the reward critic", xlabel="iteration", ylim=(-1.0, 1.0))
    return [svg(figure) for figure in (game, prices, learning)]
