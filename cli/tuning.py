"""`train sft`, `train rm` and `eval rm`: the language model's adapter, and what judges its texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.apps import eval_app, train_app
from cli.common import SEED, CheckpointOutOption, JsonOption, SeedOption, command_line, emit, flatten, progress, stderr
from cli.registry import tell_trained

if TYPE_CHECKING:
    from collections.abc import Callable

QuickOption = Annotated[bool, typer.Option("--quick", help="The quick preset of the settings.")]
PublishWriterOption = Annotated[
    bool,
    typer.Option(
        "--publish",
        help="Publish the adapter as the champion, with which a vLLM server writes. For the embedded engine, merge it: "
        "`model prepare --writer OUT --publish`.",
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with a training that was cut off.")]


@train_app.command("sft")
def train_sft(
    *,
    data: Annotated[Path, typer.Option("--data", help="Folder that `data messages` wrote.")],
    out: CheckpointOutOption,
    quick: QuickOption = False,
    resume: ResumeOption = False,
    publish: PublishWriterOption = False,
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
    told = {"training": str(training_folder(out))}
    tell_trained(manifest, out, publish=publish, as_json=as_json, title="Language model's adapter", **told)


@train_app.command("rm")
def train_rm(
    *,
    data: Annotated[Path, typer.Option("--data", help="Folder that `data preferences` wrote.")],
    reviewers: Annotated[
        Path | None, typer.Option("--reviewers", help="JSONL of your own reviewers' pairs, as `label` writes them.")
    ] = None,
    out: CheckpointOutOption,
    quick: QuickOption = False,
    resume: ResumeOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Train the reward model on preferences: an ensemble of Bradley-Terry models, calibrated on held-out pairs.

    Beside --out, the folder OUT-training holds the loss curves (report.html) and the state that --resume needs.
    """
    from churnsaver.settings import load_section, load_serve_settings, load_world
    from trainers.rlhf.encoders import check_positions, prepare_encoder
    from trainers.rlhf.reward_data import preferences
    from trainers.rlhf.reward_model import RmSettings, train_rm
    from trainers.rlhf.training_report import training_folder

    settings, world = load_section("rm", RmSettings), load_world()
    pairs = preferences(data, reviewers, world, say=_say, to_train=True)
    base = prepare_encoder(load_serve_settings().models, settings.base, say=_say)
    check_positions(base, settings.max_tokens)
    with progress() as bar:
        manifest = train_rm(
            base,
            pairs,
            world,
            settings,
            settings.presets.quick if quick else settings.presets.full,
            out,
            seed=seed,
            command=command_line(),
            resume=resume,
            say=_say,
            on_step=_steps(bar, "training the reward model"),
        )
    told = {"training": str(training_folder(out))}
    tell_trained(manifest, out, publish=False, as_json=as_json, title="Reward model", **told)


@eval_app.command("rm")
def eval_rm(
    *,
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Folder that `train rm` wrote.")],
    data: Annotated[Path, typer.Option("--data", help="Folder that `data preferences` wrote; its test part is used.")],
    reviewers: Annotated[
        Path | None,
        typer.Option("--reviewers", help="JSONL of your own reviewers' pairs; those of test scenarios are used."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.html and report.json.")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 where a target is missed.")] = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Measure the reward model, as it is served, on held-out preferences: accuracy by kind, length bias, rivals."""
    from churnsaver.errors import GateFailed
    from churnsaver.reward import RewardModel
    from churnsaver.settings import load_section, load_serve_settings, load_world
    from trainers.eval.report import write_report
    from trainers.rlhf.reward_data import preferences
    from trainers.rlhf.reward_evaluation import evaluate, plots
    from trainers.rlhf.reward_model import RmSettings
    from trainers.rlhf.reward_serving import served_reward

    settings, world = load_section("rm", RmSettings), load_world()
    pairs = preferences(data, reviewers, world, say=_say, to_train=False)
    served = served_reward(checkpoint, load_serve_settings().models, settings, say=_say)
    result = evaluate(RewardModel.load(served, world=world), served, pairs, world, settings, seed)
    if out is not None:
        write_report(out, "Reward model", result, plots(result))
    emit(result if as_json else flatten(result), as_json=as_json, title="Reward model")
    if gate and result["missed"]:
        raise GateFailed("; ".join(result["missed"]))


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
