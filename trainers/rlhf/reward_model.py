"""`train rm`: an ensemble of Bradley-Terry reward models, LoRA adapters on a sentence encoder (TRL's RewardTrainer).

The loss is -log σ(r(chosen) - r(rejected) - margin) + c · mean (r(chosen) + r(rejected))²: preferences with a margin
and a term that keeps rewards about 0. A pair's weight is how likely a member's bootstrap is to draw it, which is the
weighted loss in expectation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from datasets import Dataset
from pydantic import Field
from transformers import set_seed
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from churnsaver.checkpoints import Gate, Manifest, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN, MODEL_CARD
from churnsaver.domain.world import Fraction, Frozen, World
from churnsaver.errors import BadInput
from churnsaver.models.adapters import ADAPTER
from churnsaver.reward.encoding import PairEncoder, RewardShape
from churnsaver.reward.model import SHAPE
from trainers.rlhf.encoders import backend, open_encoder
from trainers.rlhf.examples import sha256_of
from trainers.rlhf.language_model import LoadedModel, adapter_files, round_adapter
from trainers.rlhf.lora import Count, LoraSettings, Positive, new_adapter
from trainers.rlhf.resumable import (
    OnStep,
    StateAsData,
    arguments,
    begin,
    check_one_device,
    fingerprints,
    latest_state,
    run,
)
from trainers.rlhf.reward_data import Pairs, bootstrap, check_read_whole, of_like_length, tokenised
from trainers.rlhf.reward_scores import Floats, fitted_temperature, golden_cases, pair_scores
from trainers.rlhf.training_report import training_folder, write_loss_report

REWARD_ADAPTERS = "reward_adapters"
CALIBRATION = "calibration.json"
HEAD = ("classifier", "pooler")  # trained whole: a head that is not saved scores at random
GOLDEN_PAIRS = 4

CARD = """# Reward model

Says how good a draft is for its brief: {members} LoRA adapters of rank {rank}, each with a pooler and a score head, on
the sentence encoder `{base}` (sha256 `{sha256}`). Each was trained on {drawn:,} pairs, drawn with replacement from
{pairs:,} (sha256 `{data}`) with its own seed, from {seed} on, by the Bradley-Terry loss with margins: `{command}`.

What it calls good is what these pairs say: {kinds}. Pairs of our own making come from a grammar in English, so it
judges other texts at its own risk; it is a proxy, and tuning against it is stopped where an independent judge
disagrees. Its scores were centred and their temperature fitted on {valid:,} pairs of held-out scenarios.

On these pairs the mean of the members is right in {accuracy:.1%}; training took {hours:.2f} hours and
{peak_memory_gb:.1f} GB.
On pairs of test scenarios, by kind, with intervals and beside simpler scorers: `churn-saver eval rm`.
"""


class RmPreset(Frozen):
    """How much is read: `pairs` a member draws (None is as many as there are), `epochs` times."""

    pairs: Count | None
    epochs: Count


class RmPresets(Frozen):
    quick: RmPreset
    full: RmPreset


class RmSettings(Frozen):
    """`configs/rm.yaml`, which says what each is."""

    base: str
    members: Annotated[int, Field(ge=3)]
    lora: LoraSettings
    max_tokens: Annotated[int, Field(ge=16)]
    batch_size: Count
    learning_rate: Positive
    warmup_share: Fraction
    center_rewards_coefficient: Annotated[float, Field(ge=0)]
    save_every: Count
    quantization: Literal["none", "int8"]
    min_accuracy: Fraction
    min_lead: Fraction
    max_length_correlation: Fraction
    min_accuracy_by_length: Fraction
    presets: RmPresets


class _Trainer(StateAsData, RewardTrainer):  # type: ignore[misc]
    pass


@dataclass
class _Collator(DataCollatorForPreference):  # type: ignore[misc]
    """Adds segment ids: 1 from behind the first separator to the end of the text."""

    separator: int = 0

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        separators = (batch["input_ids"] == self.separator).long()
        batch["token_type_ids"] = ((separators.cumsum(-1) - separators) > 0).long() * batch["attention_mask"]
        return batch


def train_rm(
    base: Path,
    pairs: Pairs,
    world: World,
    settings: RmSettings,
    preset: RmPreset,
    out: Path,
    *,
    seed: int,
    command: str,
    resume: bool = False,
    say: Callable[[str], None] = lambda _: None,
    on_step: OnStep = lambda *_: None,
) -> Manifest:
    """Trains the ensemble, or goes on with a training that was cut off, and writes the adapters to `out`.

    Args:
        base: the folder of the encoder.
        command: what was typed, for the model card.
    """
    check_one_device()
    if not (held_out := [pair for pair in pairs.valid if pair.brief is not None]):
        raise BadInput("no held-out preference has a brief, so scores cannot be calibrated; add pairs with briefs")
    data_sha256 = sha256_of(pairs.train)
    training, first = training_folder(out), open_encoder(base)
    follows_from = fingerprints(
        {"the settings (rm.yaml)": settings, "the preset (rm.yaml)": preset, "the world (env.yaml)": world},
        **{
            "the base model": first.sha256,
            "the preferences": sha256_of([*pairs.train, *held_out]),
            "--seed": str(seed),
        },
    )
    shape = RewardShape(
        members=settings.members,
        max_tokens=settings.max_tokens,
        purposes={offer.id: offer.purpose for offer in world.offers},
    )
    check_read_whole([*pairs.train, *held_out], backend(first.tokenizer), shape)
    begin(training, follows_from, resume=resume)
    encoder = PairEncoder(backend(first.tokenizer), shape)
    files: dict[str, bytes] = {}
    histories, raw, golden_raw = {}, [], []
    for number in range(settings.members):
        say(f"training member {number + 1} of {settings.members}")
        set_seed(seed + number)
        loaded = open_encoder(base)
        model = new_adapter(loaded, settings.lora, "SEQ_CLS", HEAD)
        drawn = bootstrap(pairs.train, preset.pairs or len(pairs.train), seed + number)
        folder = training / f"member_{number}"
        trainer = _trainer(model, loaded, tokenised(drawn, encoder), settings, preset, folder, seed + number)
        tell = of_all(on_step, number, settings.members)
        histories[f"member {number}"] = run(trainer, latest_state(folder), tell)
        round_adapter(model)
        raw.append(pair_scores(model, encoder, loaded.tokenizer.pad_token_id, held_out))
        golden_raw.append(pair_scores(model, encoder, loaded.tokenizer.pad_token_id, held_out[:GOLDEN_PAIRS]))
        written = adapter_files(model, loaded.base)
        files |= {name: content for name, content in written.items() if name != ADAPTER}
        files[adapter_file(number)] = written[ADAPTER]
    scores = np.stack(raw, axis=-1)
    centre = scores.mean(axis=(0, 1))
    temperature = np.array([fitted_temperature(scores[:, 0, m] - scores[:, 1, m]) for m in range(settings.members)])
    calibrated = (scores - centre) / temperature
    metrics = validation_metrics(calibrated, len(pairs.train), list(histories.values()))
    gate = Gate.of(
        (
            metrics["accuracy"] >= settings.min_accuracy,
            f"accuracy {metrics['accuracy']:.3f} on held-out pairs, at least {settings.min_accuracy:g} is demanded",
        )
    )
    write_loss_report(training, "Reward model", histories, metrics, gate)
    golden = (np.stack(golden_raw, axis=-1) - centre) / temperature
    calibration = {"centre": centre.tolist(), "temperature": temperature.tolist()}
    card = CARD.format(
        members=settings.members,
        rank=settings.lora.rank,
        base=first.name,
        sha256=first.sha256,
        drawn=preset.pairs or len(pairs.train),
        pairs=len(pairs.train),
        data=data_sha256,
        seed=seed,
        command=command,
        kinds=", ".join(sorted({pair.kind.replace("_", " ") for pair in pairs.train})),
        valid=len(held_out),
        accuracy=metrics["accuracy"],
        hours=metrics["hours"],
        peak_memory_gb=metrics["peak_memory_gb"],
    )
    return write_checkpoint(
        out,
        REWARD_ADAPTERS,
        files
        | {
            SHAPE: (shape.model_dump_json(indent=1) + "\n").encode(),
            CALIBRATION: json.dumps(calibration, indent=1).encode(),
            GOLDEN: json.dumps(golden_cases(held_out, golden), indent=1).encode(),
            MODEL_CARD: card.encode(),
        },
        seed=seed,
        metrics=metrics,
        data_sha256=data_sha256,
        gate=gate,
    )


def adapter_file(number: int) -> str:
    """The file of a member's adapter and head."""
    return f"member_{number}.safetensors"


def validation_metrics(scores: Floats, pairs: int, histories: Sequence[Sequence[dict[str, float]]]) -> dict[str, float]:
    """What the manifest says, of calibrated scores (pairs, 2, members) of held-out pairs."""
    differences = scores.mean(axis=-1) @ np.array([1.0, -1.0])
    return {
        "accuracy": float((differences > 0).mean()),
        "log_loss": float(np.logaddexp(0.0, -differences).mean()),
        "pairs": float(pairs),
        "hours": sum(history[-1]["hours"] for history in histories),
        "peak_memory_gb": max(entry["peak_memory_gb"] for history in histories for entry in history),
    }


def of_all(on_step: OnStep, member: int, members: int) -> OnStep:
    """Tells `on_step` how far the whole ensemble is, of how far its `member` is."""
    return lambda done, total: on_step(member * total + done, members * total)


def _trainer(
    model: Any, loaded: LoadedModel, data: Dataset, settings: RmSettings, preset: RmPreset, folder: Path, seed: int
) -> _Trainer:
    ordered = of_like_length(data, settings.batch_size, preset.epochs, seed)
    steps = math.ceil(len(ordered) / settings.batch_size)
    config = RewardConfig(
        **arguments(folder, seed, settings.save_every),
        max_length=settings.max_tokens,
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup_share * steps),
        center_rewards_coefficient=settings.center_rewards_coefficient,
        disable_dropout=settings.lora.dropout == 0,  # the encoder's own, too
        logging_steps=max(1, min(10, steps // 20)),
    )
    collator = _Collator(pad_token_id=loaded.tokenizer.pad_token_id, separator=loaded.tokenizer.sep_token_id)
    return _Trainer(
        model=model, args=config, train_dataset=ordered, processing_class=loaded.tokenizer, data_collator=collator
    )
