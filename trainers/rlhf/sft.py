"""`train sft`: a LoRA adapter that writes approved messages from briefs (TRL's SFTTrainer, PEFT)."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import torch
from datasets import Dataset
from peft import prepare_model_for_kbit_training
from pydantic import Field
from transformers import BitsAndBytesConfig, set_seed
from trl import SFTConfig, SFTTrainer

from churnsaver.checkpoints import Gate, Manifest, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN, MODEL_CARD
from churnsaver.domain.world import Fraction, Frozen, World
from churnsaver.errors import BadInput
from churnsaver.models.adapters import WRITER
from trainers.rlhf.checks import check_apart, read_approved
from trainers.rlhf.examples import WrittenMessage, sha256_of
from trainers.rlhf.language_model import LoadedModel, adapter_files, open_base, prompt_ids, round_adapter
from trainers.rlhf.lora import LoraSettings, Positive, new_adapter
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
from trainers.rlhf.training_report import training_folder, write_loss_report
from trainers.rlhf.writing_figures import Example, mean_log_probs, perplexity, slot_accuracy

GOLDEN_MESSAGES = 3
IGNORED = -100  # the label of what no loss is computed for, as TRL's collator writes it
Count = Annotated[int, Field(ge=1)]

CARD = """# Adapter of the language model

A LoRA adapter of rank {rank} for `{base}` (sha256 `{sha256}`), which writes the whole slotted draft of a message from
a brief without personal data: an e-mail with its subject, an SMS or a push note. Names, offers and dates are slots
(law 3), and the shield reviews every draft.

Fine-tuned on {texts:,} approved messages (sha256 `{data}`), loss on the message alone, seed {seed}:
`{command}`. Where they are the corpus of `data messages`, a seeded grammar of our own made them, in English: what the
adapter knows of good writing is what that grammar says.

| on {held_out:,} messages of scenarios that no text was seen for | base | tuned |
| --- | --- | --- |
| perplexity a token | {perplexity_base:.2f} | {perplexity:.2f} |
| greedy drafts with exactly the required slots (of {drafts}) | – | {slot_accuracy:.1%} |

The manifest notes the hours that training took and the memory that it held.
"""


class SftPreset(Frozen):
    """How much is read.

    Attributes:
        texts: to train on; None is all.
        held_out: texts to measure perplexity on.
        drafts: held-out briefs to write a draft for.
    """

    texts: Count | None
    epochs: Positive
    held_out: Count
    drafts: Count


class SftPresets(Frozen):
    quick: SftPreset
    full: SftPreset


class SftSettings(Frozen):
    """`configs/sft.yaml`, which says what each is."""

    base: str | None
    quantization: Literal["none", "nf4"]
    lora: LoraSettings
    packing: bool
    max_tokens: Count
    batch_size: Count
    learning_rate: Positive
    warmup_share: Annotated[float, Field(ge=0, lt=1)]
    save_every: Count
    draft_tokens: Count
    min_slot_accuracy: Fraction
    presets: SftPresets


class _Trainer(StateAsData, SFTTrainer):  # type: ignore[misc]
    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Mean cross-entropy of the texts' tokens, in nats.

        On a CPU, TRL's own also computes the logits of prompts and padding, all of them again on the way back, and
        entropies (docs/adr/0021 has its time and ours).
        """
        base = self.model.get_base_model()
        follows = inputs["labels"][:, 1:]
        of_text = follows != IGNORED
        # Packed texts have positions in place of a mask: each attends to itself alone.
        read = {name: value for name, value in inputs.items() if name != "labels"}
        with self.accelerator.autocast():
            states = base.get_decoder()(**read, use_cache=False).last_hidden_state
            logits = base.get_output_embeddings()(states[:, :-1][of_text])
        nats = torch.nn.functional.cross_entropy(logits.float(), follows[of_text], reduction="sum")
        loss: torch.Tensor = nats / (of_text.sum() if num_items_in_batch is None else num_items_in_batch)
        return loss


def messages(data: Path, world: World) -> tuple[list[WrittenMessage], list[WrittenMessage]]:
    """The messages to train on and the held-out ones, in a folder that `data messages` wrote.

    Raises:
        BadInput: a file is missing, or a line of it is no message for a brief of this world that the
            shield passes, or a scenario stands in both.
    """
    train, held_out = (read_approved(data / f"{part}.jsonl", world) for part in ("train", "valid"))
    check_apart({"train": [m.brief for m in train], "valid": [m.brief for m in held_out]}, data, world)
    return train, held_out


def quantized(settings: SftSettings) -> Any:
    """The configuration of QLoRA where sft.yaml asks for it; BadInput where this machine cannot."""
    if settings.quantization == "none":
        return None
    lacks = [] if torch.cuda.is_available() else ["a CUDA GPU"]
    lacks += [] if importlib.util.find_spec("bitsandbytes") else ["the package bitsandbytes"]
    if lacks:
        raise BadInput(
            f"sft.yaml: quantization is nf4 (QLoRA), for which {' and '.join(lacks)} is missing here; "
            "set it to none for LoRA"
        )
    configuration: Any = BitsAndBytesConfig  # pragma: no cover - needs a GPU
    return configuration(  # pragma: no cover
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def examples_of(messages: Sequence[WrittenMessage], loaded: LoadedModel, world: World) -> list[Example]:
    """Token ids of each message's brief, and of its text with the end of text.

    Raises:
        BadInput: a text holds what ends one.
    """
    examples = []
    for message in messages:
        prompt = prompt_ids(loaded.tokenizer, message.brief, world)
        text = [*loaded.tokenizer(message.text, add_special_tokens=False).input_ids, loaded.tokenizer.eos_token_id]
        if special := set(text[:-1]) & set(loaded.tokenizer.all_special_ids):
            raise BadInput(
                f"the message {message.text[:40]!r}… holds {loaded.tokenizer.decode(min(special))!r}, which is no text "
                "to this base model but an end or a turn; take it out"
            )
        examples.append(Example(prompt, text))
    return examples


def check_lengths(messages: Sequence[WrittenMessage], examples: Sequence[Example], settings: SftSettings) -> None:
    """BadInput names a message that is longer than what is trained on, or than a draft may get."""
    for message, example in zip(messages, examples, strict=True):
        tokens, whole = len(example.text), len(example.prompt) + len(example.text)
        if whole > settings.max_tokens:
            raise BadInput(
                f"the message {message.text[:40]!r}… has {whole} tokens with its brief, and would lose its end; "
                f"shorten it or raise max_tokens ({settings.max_tokens}) in sft.yaml"
            )
        if tokens > settings.draft_tokens:
            raise BadInput(
                f"the message {message.text[:40]!r}… has {tokens} tokens, and a draft as long would be cut off where "
                f"its slots are counted; shorten it or raise draft_tokens ({settings.draft_tokens}) in sft.yaml"
            )


def train_sft(
    base: Path,
    data: Path,
    world: World,
    settings: SftSettings,
    preset: SftPreset,
    out: Path,
    *,
    seed: int,
    command: str,
    resume: bool = False,
    say: Callable[[str], None] = lambda _: None,
    on_step: OnStep = lambda *_: None,
) -> Manifest:
    """Trains the adapter, or goes on with a training that was cut off, and writes the checkpoint to `out`.

    Args:
        base: the folder of the model to tune.
        data: the folder that `data messages` wrote.
        command: what was typed, for the model card.
    """
    check_one_device()
    quantization = quantized(settings)
    say("reading the messages")
    everything, held_out = messages(data, world)
    read, held_out = sample(everything, preset.texts, seed), sample(held_out, preset.held_out, seed)
    say("opening the base model")
    loaded = open_base(base, quantization)
    rows, unseen = (examples_of(part, loaded, world) for part in (read, held_out))
    check_lengths([*read, *held_out], [*rows, *unseen], settings)
    data_sha256 = sha256_of(read)
    training = training_folder(out)
    follows_from = fingerprints(
        {"the settings (sft.yaml)": settings, "the preset (sft.yaml)": preset, "the world (env.yaml)": world},
        **{"the base model": loaded.sha256, "the messages": sha256_of([*read, *held_out]), "--seed": str(seed)},
    )
    begin(training, follows_from, resume=resume)
    state = latest_state(training)
    say("measuring the base model")
    before = perplexity(loaded.model, unseen, loaded.tokenizer.pad_token_id)
    set_seed(seed)
    if quantization is not None:  # pragma: no cover - needs a GPU
        loaded = replace(loaded, model=prepare_model_for_kbit_training(loaded.model))
    model = new_adapter(loaded, settings.lora, "CAUSAL_LM")
    say("training")
    history = run(_trainer(model, loaded, rows, settings, preset, training, seed), state, on_step)
    round_adapter(model)
    say("measuring the tuned model")
    model.eval()
    drafts = [message.brief for message in held_out][: preset.drafts]
    metrics = {
        "perplexity": perplexity(model, unseen, loaded.tokenizer.pad_token_id),
        "perplexity_base": before,
        "slot_accuracy": slot_accuracy(model, loaded.tokenizer, drafts, world, settings.draft_tokens),
        "texts": float(len(rows)),
        "hours": history[-1]["hours"],
        "peak_memory_gb": max(entry["peak_memory_gb"] for entry in history),
    }
    gate = Gate.of(
        (metrics["perplexity"] < before, f"perplexity {metrics['perplexity']:.2f}, the base model has {before:.2f}"),
        (
            metrics["slot_accuracy"] >= settings.min_slot_accuracy,
            f"slot accuracy {metrics['slot_accuracy']:.3f}, at least {settings.min_slot_accuracy:g} is demanded",
        ),
    )
    write_loss_report(training, "Supervised fine-tuning", {"loss": history}, metrics, gate)
    golden = golden_messages(model, held_out[:GOLDEN_MESSAGES], unseen, loaded.tokenizer.pad_token_id)
    card = CARD.format(
        **metrics | {"texts": len(rows)},
        rank=settings.lora.rank,
        base=loaded.name,
        sha256=loaded.sha256,
        data=data_sha256,
        seed=seed,
        command=command,
        held_out=len(unseen),
        drafts=len(drafts),
    )
    return write_checkpoint(
        out,
        WRITER,
        adapter_files(model, loaded.base) | {GOLDEN: golden, MODEL_CARD: card.encode()},
        seed=seed,
        metrics=metrics,
        data_sha256=data_sha256,
        gate=gate,
    )


def sample(messages: Sequence[WrittenMessage], count: int | None, seed: int) -> list[WrittenMessage]:
    """`count` of the messages drawn without replacement, all of them where there are fewer or None is asked for."""
    shuffled = Random(seed).sample(list(messages), len(messages))  # noqa: S311 - it decides an order
    return shuffled[:count]


def golden_messages(model: Any, messages: Sequence[WrittenMessage], examples: Sequence[Example], pad: int) -> bytes:
    """Held-out messages and the mean log-probability of their tokens, in nats, as JSON."""
    scored = zip(messages, mean_log_probs(model, examples[: len(messages)], pad), strict=True)
    golden = [{**message.model_dump(), "mean_log_prob": round(value, 6)} for message, value in scored]
    return json.dumps(golden, indent=1).encode()


def _trainer(
    model: Any,
    loaded: LoadedModel,
    rows: Sequence[Example],
    settings: SftSettings,
    preset: SftPreset,
    training: Path,
    seed: int,
) -> _Trainer:
    steps = math.ceil(len(rows) / settings.batch_size * preset.epochs)
    config = SFTConfig(
        **arguments(training, seed, settings.save_every),
        max_length=settings.max_tokens,
        packing=settings.packing,
        completion_only_loss=True,
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=preset.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_share,  # transformers takes less than 1 as a share, of packed rows as well
        train_sampling_strategy="group_by_length",
        logging_steps=max(1, min(10, steps // 20)),
    )
    data = Dataset.from_list([row.masked() for row in rows])
    return _Trainer(model=model, args=config, train_dataset=data, processing_class=loaded.tokenizer)
