"""`train ppo-text` and `eval text`: the language model's writer, tuned for what people prefer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.apps import eval_app, train_app
from cli.common import SEED, CheckpointOutOption, JsonOption, SeedOption, command_line, emit, flatten, progress, stderr
from cli.registry import tell_trained
from cli.tuning import PublishWriterOption, QuickOption, ResumeOption

if TYPE_CHECKING:
    from churnsaver.checkpoints import Checkpoint

SftOption = Annotated[Path, typer.Option("--sft", help="Folder that `train sft` wrote: what PPO goes on from.")]


@train_app.command("ppo-text")
def train_ppo_text(
    *,
    sft: SftOption,
    rm: Annotated[Path, typer.Option("--rm", help="Folder that `train rm` wrote: what says how good a draft is.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Briefs as JSONL, or a folder of `data messages`; default: the built-in briefs."),
    ] = None,
    out: CheckpointOutOption,
    quick: QuickOption = False,
    resume: ResumeOption = False,
    publish: PublishWriterOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Tune the writer by PPO: paid by the reward model, held near to the fine-tuned one, stopped by an own judge.

    Briefs of the test part are left out, so that `eval text` can judge on them. Beside --out, the folder
    OUT-training holds the curves (report.html), TensorBoard events and the state that --resume needs.
    """
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.models.adapters import WRITER
    from churnsaver.reward import RewardModel
    from churnsaver.settings import load_section, load_serve_settings, load_world
    from trainers.rlhf.judge import Judge
    from trainers.rlhf.language_model import check_base, identify, prepare_base
    from trainers.rlhf.ppo_text_run import read_task, train_text_policy
    from trainers.rlhf.ppo_text_settings import PpoTextSettings
    from trainers.rlhf.reward_model import REWARD_ADAPTERS
    from trainers.rlhf.sft import SftSettings
    from trainers.rlhf.training_report import training_folder

    world, settings = load_world(), load_section("ppo_text", PpoTextSettings)
    writer, reward = open_checkpoint(sft, WRITER), _reward(rm)
    task = read_task(data, seed, world)
    base = prepare_base(load_serve_settings(), load_section("sft", SftSettings).base, say=_say)
    check_base(identify(base), writer)  # at once, and again with the model in memory
    if writer.manifest.gate is not None:
        for missed in writer.manifest.gate.missed:
            _say(f"{sft}: its training missed a demand, and PPO goes on from it all the same: {missed}")
    preset = settings.presets.quick if quick else settings.presets.full
    _say("training the judge")
    judge = Judge.train(seed, world=world)
    with progress() as bar:
        drawn = bar.add_task("training the writer", total=preset.iterations)
        manifest = train_text_policy(
            base,
            writer,
            RewardModel.load(reward, world=world),
            reward.manifest.parents[REWARD_ADAPTERS],
            task,
            judge,
            world,
            settings,
            preset,
            out,
            seed=seed,
            command=command_line(),
            resume=resume,
            say=_say,
            on_iteration=lambda iteration: bar.update(drawn, completed=iteration.number),
        )
    told = {"training": str(training_folder(out))}
    tell_trained(manifest, out, publish=publish, as_json=as_json, title="Writer", **told)


@eval_app.command("text")
def eval_text(
    *,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Folder that `train ppo-text` wrote; default: what is shipped.")
    ] = None,
    sft: Annotated[
        Path | None,
        typer.Option(
            "--sft", help="Folder that `train sft` wrote, which PPO went on from; default: what is shipped, if it did."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of `data messages`, for its test part; default: the built-in corpus."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for report.html (texts side by side) and report.json.")
    ] = None,
    drafts: Annotated[int, typer.Option("--drafts", min=1, help="Drafts of each writer for each held-out brief.")] = 2,
    audit: Annotated[int, typer.Option("--audit", min=1, help="Messages to audit, of any brief.")] = 3000,
    public: Annotated[
        Path | None, typer.Option("--public", help="Folder with sms_spam.csv, for the judge's sense of spam.")
    ] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 where a target is missed.")] = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Compare base, fine-tuned and PPO-tuned writer, and approved texts, on briefs that none of them was trained on.

    Required elements, right offer, the shield's verdict, length, variety, divergence, win rates by an independent
    judge, and an audit by checks that share nothing with the shield.
    """
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.errors import GateFailed
    from churnsaver.models.adapters import WRITER
    from churnsaver.settings import load_section, load_serve_settings, load_world
    from trainers.eval.text import REFERENCE, drafts_to_audit, evaluate_text, held_out, references
    from trainers.eval.text_page import write_page
    from trainers.rlhf.bundled import BUNDLED_WRITER
    from trainers.rlhf.corpus import PARTS
    from trainers.rlhf.corpus import briefs as briefs_of
    from trainers.rlhf.judge import Judge
    from trainers.rlhf.language_model import open_base, prepare_base
    from trainers.rlhf.ppo_text_settings import PpoTextSettings
    from trainers.rlhf.sft import SftSettings
    from trainers.rlhf.text_reward import ShieldFilter
    from trainers.rlhf.writers import Writers

    world, settings = load_world(), load_section("ppo_text", PpoTextSettings)
    tuned = open_checkpoint(checkpoint or BUNDLED_WRITER, WRITER)
    fine_tuned = _shipped_parent(tuned) if sft is None else open_checkpoint(sft, WRITER)
    unseen, approved = held_out(data, seed, world)
    briefs = unseen * drafts
    reference = references(briefs, approved, world)
    base = prepare_base(load_serve_settings(), load_section("sft", SftSettings).base, say=_say)
    writers = Writers(open_base(base), fine_tuned, tuned, world, settings)
    _say("training the judge")
    judge = Judge.train(seed, public, world)
    written = writers.write(briefs, seed, _say)
    everything = [brief for part in PARTS for brief in briefs_of(world, part)]
    rules = ShieldFilter.of(world)
    _say(f"writing drafts to audit, until {audit} pass the shield's rules")
    audited = drafts_to_audit(partial(writers.write_tuned, seed), everything, audit, rules)
    kl_target = tuned.manifest.metrics.get("kl_target")  # what SFT alone trained has none
    went_on = WRITER in tuned.manifest.parents
    result = evaluate_text(written, reference, audited, judge, rules, world, kl_target, seed, went_on=went_on)
    result = {
        "checkpoint": tuned.version,
        "sft": fine_tuned and fine_tuned.version,
        "spam": public is not None,
        **result,
    }
    if out is not None:
        texts = {**written.texts, REFERENCE: reference}
        passed = {
            name: [rules.passes(brief, draft) for brief, draft in zip(briefs, each, strict=True)]
            for name, each in texts.items()
        }
        _say(f"page: {write_page(out, result, briefs, texts, passed)}")
    emit(result if as_json else flatten(result), as_json=as_json, title="Texts")
    if gate and result["missed"]:
        raise GateFailed("; ".join(result["missed"]))


def _shipped_parent(tuned: Checkpoint) -> Checkpoint | None:
    """The fine-tuned writer that the project ships, where `tuned` went on from it."""
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.checkpoints.checkpoint import MANIFEST
    from churnsaver.models.adapters import WRITER
    from trainers.rlhf.bundled import BUNDLED_SFT

    parent = tuned.manifest.parents.get(WRITER)
    if parent is None or not (BUNDLED_SFT / MANIFEST).is_file():
        return None
    shipped = open_checkpoint(BUNDLED_SFT, WRITER)
    if shipped.version == parent:
        return shipped
    _say(
        f"{tuned.path}: went on from {parent}, and {shipped.version} is what is shipped: compared with neither; name "
        "the writer before PPO with --sft"
    )
    return None


def _reward(path: Path) -> Checkpoint:
    """The served reward model of what `train rm` wrote."""
    from churnsaver.settings import load_section, load_serve_settings
    from trainers.rlhf.reward_model import RmSettings
    from trainers.rlhf.reward_serving import served_reward

    return served_reward(path, load_serve_settings().models, load_section("rm", RmSettings), say=_say)


def _say(what: str) -> None:
    stderr.print(f"{what} …", soft_wrap=True, style="dim")
