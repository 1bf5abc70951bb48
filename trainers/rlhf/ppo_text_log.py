"""How a PPO training on texts went: TensorBoard events while it runs, and a report with its curves when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from torch.utils.tensorboard import SummaryWriter

from churnsaver.errors import BadInput
from trainers.eval.figures import new_axes, svg
from trainers.eval.report import write_report
from trainers.rlhf.over_optimisation import Check
from trainers.rlhf.ppo_text import Iteration, Learner

TENSORBOARD = "tensorboard"


class TextTensorBoard:
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

    def write(self, learner: Learner) -> None:
        """The last iteration, and the look at held-out briefs where one followed it."""
        iteration = learner.history[-1]
        for name, value in asdict(iteration).items():
            self._writer.add_scalar(f"training/{name}", value, iteration.number)
        if (check := learner.checks[-1]).iteration == iteration.number:
            self._writer.add_scalar("held_out/proxy", check.proxy, check.iteration)
            self._writer.add_scalar("held_out/judge", check.judge, check.iteration)

    def close(self) -> None:
        self._writer.close()


def write_text_report(
    training: Path, history: Sequence[Iteration], checks: Sequence[Check], kl_target: float, summary: Mapping[str, Any]
) -> Path:
    """`report.html` with the learning curves, and `report.json` with them as numbers."""
    result = {
        **summary,
        "history": [asdict(iteration) for iteration in history],
        "held_out": [asdict(check) for check in checks],
    }
    return write_report(training, "PPO on texts", result, text_curves(history, checks, kl_target))


def text_curves(history: Sequence[Iteration], checks: Sequence[Check], kl_target: float) -> list[str]:
    """Reward, divergence, texts and update, iteration by iteration, as SVG elements."""
    numbers = [iteration.number for iteration in history]

    def curve(axes: Axes, name: str, label: str | None = None) -> None:
        axes.plot(numbers, [getattr(iteration, name) for iteration in history], label=label or name, linewidth=1.0)

    earned, (reward, held_out) = new_axes(2, 10.0)
    curve(reward, "reward", "reward")
    curve(reward, "conservative", "ensemble's mean less k standard deviations")
    reward.set(title="What drafts earn", xlabel="iteration", ylabel="reward")
    reward.legend()
    looked = [check.iteration for check in checks]
    held_out.plot(looked, [check.proxy for check in checks], label="reward", marker="o")
    held_out.errorbar(
        looked,
        [check.judge for check in checks],
        yerr=[check.judge_error for check in checks],
        label="judge ± one standard error",
        marker="o",
    )
    held_out.set(title="Held-out briefs", xlabel="iteration")
    held_out.legend()

    distance, (divergence, price) = new_axes(2, 10.0)
    curve(divergence, "kl", "k1")
    curve(divergence, "kl_k3", "k3")
    divergence.axhline(kl_target, color="#8c959f", linestyle="--", linewidth=1.0)
    divergence.set(title="KL from the reference", xlabel="iteration", ylabel="nats a text")
    divergence.legend()
    curve(price, "kl_coefficient")
    price.set(title="Its price", xlabel="iteration", ylabel="reward a nat", yscale="log")

    texts, (length, shares) = new_axes(2, 10.0)
    curve(length, "tokens")
    length.set(title="Length", xlabel="iteration", ylabel="tokens")
    for name in ("passed", "ended"):
        curve(shares, name)
    shares.set(title="Drafts that the rules pass, and that end", xlabel="iteration", ylim=(0.0, 1.02))
    shares.legend()

    learning, (entropy, clipped) = new_axes(2, 10.0)
    curve(entropy, "entropy")
    entropy.set(title="Entropy", xlabel="iteration", ylabel="nats a token")
    for name in ("clip_fraction", "approx_kl", "explained_variance"):
        curve(clipped, name, name.replace("_", " "))
    clipped.set(title="Update", xlabel="iteration", ylim=(-1.0, 1.0))
    clipped.legend()
    return [svg(figure) for figure in (earned, distance, texts, learning)]
