"""`train ppo-text`: briefs, a fine-tuned writer and a reward model in, a writer that people would rather read out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from churnsaver.checkpoints import Checkpoint, Gate, Manifest, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN, MODEL_CARD
from churnsaver.domain.message import Brief
from churnsaver.domain.world import World
from churnsaver.errors import BadInput, SettingsError
from churnsaver.models.adapters import WRITER
from trainers.rlhf.checks import check_brief
from trainers.rlhf.corpus import briefs as briefs_of_part
from trainers.rlhf.corpus import make_corpus, split_of
from trainers.rlhf.examples import WrittenMessage, numbered_jsonl, sha256_of
from trainers.rlhf.language_model import LoadedModel, adapter_files, check_base, load_adapter, open_base, round_adapter
from trainers.rlhf.over_optimisation import Check
from trainers.rlhf.ppo_text import Iteration, Learner, new_learner, train_ppo_text
from trainers.rlhf.ppo_text_card import CARD
from trainers.rlhf.ppo_text_log import TextTensorBoard, write_text_report
from trainers.rlhf.ppo_text_resume import STATE, restore_learner, save_learner
from trainers.rlhf.ppo_text_settings import PpoTextSettings, Preset
from trainers.rlhf.resumable import fingerprints, peak_memory_gb
from trainers.rlhf.reward_model import REWARD_ADAPTERS
from trainers.rlhf.rollout import Writer
from trainers.rlhf.sft import GOLDEN_MESSAGES, examples_of, golden_messages, messages
from trainers.rlhf.text_policy import TextPolicy, comes_apart
from trainers.rlhf.text_reward import Earnings, Reward, ShieldFilter, length_bands
from trainers.rlhf.training_report import training_folder
from trainers.rlhf.win_rate import Scorer

KL_TOLERANCE = 0.2  # of the target, for the mean of the last third of iterations


@dataclass(frozen=True, slots=True)
class Task:
    """What is written for.

    Attributes:
        briefs: to train on; those of the test part are in neither list.
        held_out: to tell over-optimisation by.
        approved: texts that say how long a message is.
        unseen: held-out messages, for golden log-probabilities.
    """

    briefs: list[Brief]
    held_out: list[Brief]
    approved: list[WrittenMessage]
    unseen: list[WrittenMessage]


def read_task(data: Path | None, seed: int, world: World) -> Task:
    """The built-in corpus' task, or that of `data`: a folder of `data messages`, or a JSONL of briefs.

    Raises:
        BadInput: a brief is none of this world's, or there is none to train on.
    """
    if data is None:
        corpus = make_corpus(seed, world)
        return Task(briefs_of_part(world, "train"), briefs_of_part(world, "valid"), corpus.train, corpus.valid)
    if data.is_dir():
        train, valid = messages(data, world)
        return Task(_once([m.brief for m in train]), _once([m.brief for m in valid]), train, valid)
    briefs = []
    for number, brief in numbered_jsonl(data, Brief):
        check_brief(brief, world, f"{data}, line {number}")
        briefs.append(brief)
    parts = {part: _once([b for b in briefs if split_of(b, world) == part]) for part in ("train", "valid")}
    if not parts["train"]:
        raise BadInput(
            f"{data}: has no brief of a training scenario (briefs are split by segment, reason, purpose of the offer, "
            "tone and channel); add some"
        )
    corpus = make_corpus(seed, world)
    held_out = parts["valid"] or briefs_of_part(world, "valid")
    return Task(parts["train"], held_out, corpus.train, corpus.valid)


def _once(briefs: Sequence[Brief]) -> list[Brief]:
    return list({brief.model_dump_json(): brief for brief in briefs}.values())


def check_room(approved: Sequence[WrittenMessage], tokenizer: Any, max_tokens: Mapping[str, int]) -> None:
    """BadInput where an approved text is longer than a draft of its channel may get: none like it would ever end."""
    texts = tokenizer([message.text for message in approved], add_special_tokens=False).input_ids
    longest: Counter[str] = Counter()
    for message, ids in zip(approved, texts, strict=True):
        longest[message.brief.channel] = max(longest[message.brief.channel], len(ids) + 1)  # and its end
    for channel, tokens in sorted(longest.items()):
        if tokens > max_tokens[channel]:
            raise BadInput(
                f"the longest approved {channel} text has {tokens} tokens with its end, and a draft has "
                f"{max_tokens[channel]} at most, so that none as long would ever end; raise max_tokens.{channel} in "
                "ppo_text.yaml, or shorten the text"
            )


def open_policy(loaded: LoadedModel, sft: Checkpoint, settings: PpoTextSettings) -> TextPolicy:
    """The policy that begins as the writer `sft`, on the device of the settings.

    Raises:
        CheckpointError: the adapter is for another base.
        BadInput: the base's layers cannot be computed in two parts.
        SettingsError: there is no such device.
    """
    check_base(loaded.base, sft)
    try:
        loaded.model.to(device=settings.device, dtype=getattr(torch, settings.dtype))
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"ppo_text.yaml: device {settings.device!r} cannot be used here ({str(error).splitlines()[0]}); "
            "expected cpu, or cuda where torch finds one"
        ) from None
    model = load_adapter(loaded, sft, trainable=True)
    if not comes_apart(model.eval()):
        raise BadInput(
            f"{loaded.name}: layers below the adapter cannot be computed once for all passes, as PPO does, in a base "
            f"of type {loaded.model.config.model_type}; name another base in sft.yaml, such as one of type llama or "
            "qwen2, and train its adapter with `churn-saver train sft`"
        )
    return TextPolicy(model, loaded.tokenizer.pad_token_id, loaded.tokenizer.eos_token_id)


def train_text_policy(
    base: Path,
    sft: Checkpoint,
    reward: Reward,
    reward_version: str,
    task: Task,
    judge: Scorer,
    world: World,
    settings: PpoTextSettings,
    preset: Preset,
    out: Path,
    *,
    seed: int,
    command: str,
    resume: bool = False,
    say: Callable[[str], None] = lambda _: None,
    on_iteration: Callable[[Iteration], None] = lambda _: None,
) -> Manifest:
    """Trains the writer, or goes on with a training that was cut off, and writes the checkpoint to `out`.

    Args:
        base: the folder of the model that `sft` is an adapter for.
        reward_version: of the reward model's adapters; how they are converted may differ with the machine.
        command: what was typed, for the model card.
    """
    if missing := [channel for channel in world.channels if channel not in settings.max_tokens]:
        raise SettingsError(f"ppo_text.yaml: max_tokens: has no {missing[0]}; every channel of env.yaml needs a number")
    say("opening the base model")
    loaded = open_base(base)
    check_room(task.approved, loaded.tokenizer, settings.max_tokens)
    set_seed(seed)
    policy = open_policy(loaded, sft, settings)
    learner = new_learner(policy, settings, seed)
    writer = Writer(policy, loaded.tokenizer, world, settings.max_tokens, settings.sample_batch)
    bands = length_bands(task.approved, settings.reward)
    earnings = Earnings(reward, ShieldFilter.of(world), bands, settings.reward)
    training = training_folder(out)
    data_sha256 = sha256_of([*task.briefs, *task.held_out, *task.approved, *task.unseen])
    unseen = examples_of(task.unseen[:GOLDEN_MESSAGES], loaded, world)
    follows_from = fingerprints(
        {"the settings (ppo_text.yaml)": settings, "the preset (ppo_text.yaml)": preset, "the world (env.yaml)": world},
        **{
            "the base model": loaded.sha256,
            "--sft": sft.version,
            "--rm": reward_version,
            "the briefs and texts": data_sha256,
            "--seed": str(seed),
        },
    )
    if resume:
        restore_learner(training / STATE, learner, follows_from)
    board = TextTensorBoard(training, len(learner.history))

    def keep(learner: Learner) -> None:
        learner.peak_memory_gb = max(learner.peak_memory_gb, peak_memory_gb())
        board.write(learner)
        if len(learner.history) % settings.save_every == 0:
            save_learner(training / STATE, learner, follows_from)
        on_iteration(learner.history[-1])

    if not (may_stop := looks(settings, preset) >= settings.stop.window):
        say(f"too few iterations for {settings.stop.window} looks at held-out briefs: the judge cannot stop it")
    say("training")
    train_ppo_text(learner, writer, task.briefs, task.held_out, earnings, judge, settings, preset, seed, keep)
    board.close()
    metrics, gate = measured(learner, settings)
    write_text_report(
        training, learner.history, learner.checks, settings.kl.target, {**metrics, "missed": list(gate.missed)}
    )
    round_adapter(policy.model)
    golden = golden_messages(policy.model, task.unseen[:GOLDEN_MESSAGES], unseen, policy.pad_id)
    kept = kept_check(learner, settings)
    card = CARD.format(
        **metrics,
        base=loaded.name,
        sha256=loaded.sha256,
        sft=sft.version,
        reward=reward_version,
        briefs=len(task.briefs),
        seed=seed,
        command=command,
        drafts=preset.drafts,
        target=settings.kl.target,
        stopped_said=f"The judge stopped it as over-optimising; what is here is of iteration {kept.iteration}."
        if learner.stopped
        else "The judge raised no veto."
        if may_stop
        else "The judge had too few looks to stop it.",
        missed="; ".join(gate.missed) or "met",
    )
    return write_checkpoint(
        out,
        WRITER,
        adapter_files(policy.model, loaded.base) | {GOLDEN: golden, MODEL_CARD: card.encode()},
        seed=seed,
        metrics=metrics,
        parents={WRITER: sft.version, REWARD_ADAPTERS: reward_version},
        data_sha256=data_sha256,
        gate=gate,
    )


def looks(settings: PpoTextSettings, preset: Preset) -> int:
    """How often a training that runs to its end is looked at on held-out briefs, before and after it included."""
    return 1 + math.ceil(preset.iterations / settings.stop.every)


def kept_check(learner: Learner, settings: PpoTextSettings) -> Check:
    """The look at the kept policy: the last, or where training was stopped, the last before the judge's fall."""
    return learner.checks[-1 - settings.stop.window // 2 if learner.stopped else -1]


def measured(learner: Learner, settings: PpoTextSettings) -> tuple[dict[str, float], Gate]:
    """What the manifest says, and whether it is good enough."""
    first, kept = learner.checks[0], kept_check(learner, settings)
    recent = [each for each in learner.history if each.number <= kept.iteration or not learner.stopped]
    recent = recent[-max(1, len(recent) // 3) :]
    kl = float(np.mean([iteration.kl for iteration in recent])) if recent else 0.0
    metrics = {
        "held_out_reward_before": first.proxy,
        "held_out_reward": kept.proxy,
        "held_out_judge_before": first.judge,
        "held_out_judge": kept.judge,
        "kl": kl,
        "kl_target": settings.kl.target,
        "tokens": float(np.mean([iteration.tokens for iteration in recent])) if recent else 0.0,
        "passed": float(np.mean([iteration.passed for iteration in recent])) if recent else 0.0,
        "iterations": float(len(learner.history)),
        "stopped": float(learner.stopped),
        "hours": learner.seconds / 3600.0,
        "peak_memory_gb": learner.peak_memory_gb,
    }
    gate = Gate.of(
        (kept.proxy > first.proxy, f"reward on held-out briefs {kept.proxy:.3f}, the SFT writer has {first.proxy:.3f}"),
        (
            kept.judge >= first.judge - 2.0 * max(kept.judge_error, first.judge_error),
            f"the judge's score on held-out briefs {kept.judge:.3f}, the SFT writer has {first.judge:.3f}",
        ),
        (
            abs(kl / settings.kl.target - 1.0) <= KL_TOLERANCE,
            f"KL {kl:.2f} nats a text over the last third, within 20 % of {settings.kl.target:g} is demanded",
        ),
    )
    return metrics, gate
