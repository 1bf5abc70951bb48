"""A language model in CTranslate2's format, as the generator's engine loads it and as trainers measure it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ctranslate2
from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer

from churnsaver.checkpoints import Checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN
from churnsaver.domain.world import Frozen
from churnsaver.errors import CheckpointError

GENERATOR = "generator"
TOKENIZER, SOURCE = "tokenizer.json", "source.json"
MEND = "run `churn-saver model prepare --publish`"
# Kernels of other processors round otherwise; another model is nats away.
GOLDEN_TOLERANCE_NATS = 0.1


class Source(Frozen):
    """What the weights were made from, and how: another recipe gives another model.

    Attributes:
        name: of the model.
        quantization: how the engine holds the weights.
        sha256: of the file that it was made from.
        recipe: what was done to them.
    """

    name: str
    quantization: str
    sha256: str
    recipe: str


class GoldenText(Frozen):
    """A text and the mean log-probability of its tokens, in nats, under the model that was published."""

    text: str
    mean_log_prob: float


def model_folder(models: Path, name: str, quantization: str) -> Path:
    """Where a prepared model lies under the settings' `models`."""
    return models / f"{name}-{quantization}"


def load_language_model(folder: Path, threads: int) -> tuple[Any, Tokenizer]:
    """CTranslate2's generator and the tokenizer of the files in `folder`, on the CPU.

    Raises:
        CheckpointError: they cannot be loaded.
    """
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        model = ctranslate2.Generator(str(folder), device="cpu", inter_threads=1, intra_threads=threads)
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{folder}: cannot be loaded ({error}); {MEND}") from None
    return model, tokenizer


def mean_log_prob(model: Any, tokenizer: Tokenizer, text: str) -> float:
    """Mean log-probability of a text's tokens after the first, in nats."""
    (scored,) = model.score_batch([tokenizer.encode(text, add_special_tokens=False).tokens])
    return math.fsum(scored.log_probs) / max(1, len(scored.log_probs))


def check_golden_texts(checkpoint: Checkpoint, model: Any, tokenizer: Tokenizer) -> None:
    """CheckpointError where a golden text is more or less likely than when the checkpoint was made."""
    try:
        golden = TypeAdapter(list[GoldenText]).validate_python(checkpoint.read_json(GOLDEN))
    except ValidationError:
        raise CheckpointError(f"{checkpoint.path / GOLDEN}: holds no golden texts; {MEND}") from None
    if not golden:
        raise CheckpointError(f"{checkpoint.path / GOLDEN}: is empty; {MEND}")
    for case in golden:
        found = mean_log_prob(model, tokenizer, case.text)
        if not abs(found - case.mean_log_prob) <= GOLDEN_TOLERANCE_NATS:  # a NaN is a difference, too
            raise CheckpointError(
                f"{checkpoint.version}: the golden text {case.text[:30]!r}… has a mean log-probability of {found:.3f}, "
                f"it had {case.mean_log_prob:.3f} when the model was made; {MEND}"
            )
