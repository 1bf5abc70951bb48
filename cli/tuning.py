"""`train sft`, `train rm` and `eval rm`: the language model's adapter, and what judges its texts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.apps import train_app
from cli.common import SEED, JsonOption, OutOption, SeedOption, emit, progress, stderr
from cli.registry import PublishOption, describe

if TYPE_CHECKING:
    from collections.abc import Callable

QuickOption = Annotated[bool, typer.Option("--quick", help="The quick preset of the settings.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with a training that was cut off.")]


@train_app.command("sft")
def train_sft(
    *,
    data: Annotated[Path, typer.Option("--data", help="Folder that `data messages` wrote.")],
    out: OutOption,
    quick: QuickOption = False,
    resume: ResumeOption = False,
    publish: PublishOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune the language model on approved messages: a LoRA adapter, loss on the messages alone.

    Beside --out, the folder OUT-training holds the loss curve (report.html) and the state that --resume needs.
    """
    from churnsaver.settings import load_section, load_serve_settings, load_world
    from trainers.rlhf.language_model import prepare_base
    from trainers.rlhf.sft import SftSettings, train_sft
    from trainers.rlhf.training_report import training_folder

    settings = load_section("sft", SftSettings)
    base = prepare_base(load_serve_settings(), settings.base, say=_say)
    with progress() as bar:
        manifest = train_sft(
            base,
            data,
            load_world(),
            settings,
            settings.presets.quick if quick else settings.presets.full,
            out,
            seed=seed,
            command=command_line(),
            resume=resume,
            say=_say,
            on_step=_steps(bar, "fine-tuning"),
        )
    described = describe(manifest, out, publish=publish) | {"training": str(training_folder(out))}
    emit(described, as_json=as_json, title="Language model's adapter")


def command_line() -> str:
    """What was typed, without the machine's folders."""
    return shlex.join(["churn-saver", *sys.argv[1:]])


def _say(what: str) -> None:
    stderr.print(f"{what} …", soft_wrap=True, style="dim")


def _steps(bar: object, what: str) -> Callable[[int, int], None]:
    """A callback that draws the steps of a training."""
    from rich.progress import Progress

    assert isinstance(bar, Progress)
    task = bar.add_task(what, total=None)

    def on_step(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return on_step
