"""From the reward model's adapters to what is served: merged encoders for CTranslate2, and their heads."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peft import get_peft_model
from safetensors.numpy import save

from churnsaver.checkpoints import Checkpoint, open_checkpoint, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN, MANIFEST, MODEL_CARD
from churnsaver.domain.message import Brief
from churnsaver.errors import CheckpointError
from churnsaver.reward import REWARD, RewardModel
from churnsaver.reward.encoding import RewardShape
from churnsaver.reward.model import ENCODER_CONFIG, HEADS, SHAPE, SOURCE, TOKENIZER, VOCABULARY, member_file
from trainers.rlhf.encoders import backend, converted, open_encoder, prepare_encoder
from trainers.rlhf.language_model import adapter_config, check_base, put_adapter
from trainers.rlhf.reward_model import CALIBRATION, REWARD_ADAPTERS, RmSettings, adapter_file

# The most that a golden draft's score may move by conversion, by how the weights are held.
TOLERANCE = {"none": 1e-3, "int8": 0.35}


def prepare_reward(
    adapters: Checkpoint, base: Path, folder: Path, quantization: str, say: Callable[[str], None] = lambda _: None
) -> Checkpoint:
    """The served reward model of `adapters` in `folder`; made where another one, or none, is there.

    Args:
        base: the folder of the encoder that the adapters are for.
        quantization: `none` or `int8`, of the weights on disk and in memory.

    Raises:
        CheckpointError: the adapters are for another base, or their scores did not survive conversion.
    """
    if (folder / MANIFEST).exists():
        try:
            found = open_checkpoint(folder, REWARD)
        except CheckpointError as damage:
            say(f"making it again: {damage}")
        else:
            made_as = found.read_json(SOURCE)
            if found.manifest.parents == {REWARD_ADAPTERS: adapters.version} and made_as == _made_as(quantization):
                return found
    say("merging and converting the reward model")
    files = _served_files(adapters, base, quantization)
    with tempfile.TemporaryDirectory() as scratch:
        # Tried before it replaces what is there.
        tried = Path(scratch) / "reward"
        write_checkpoint(tried, REWARD, files | {GOLDEN: adapters.read(GOLDEN)}, seed=0, metrics={})
        golden, largest = _golden(open_checkpoint(tried), adapters)
    if largest > TOLERANCE[quantization]:
        raise CheckpointError(
            f"{adapters.path}: conversion to {quantization} moves a golden draft's score by {largest:.3f}, at most "
            f"{TOLERANCE[quantization]:g} is allowed; set quantization: none in rm.yaml"
        )
    write_checkpoint(
        folder,
        REWARD,
        files | {GOLDEN: json.dumps(golden, indent=1).encode()},
        seed=adapters.manifest.seed,
        metrics={**adapters.manifest.metrics, "conversion_error": largest},
        parents={REWARD_ADAPTERS: adapters.version},
        data_sha256=adapters.manifest.data_sha256,
        gate=adapters.manifest.gate,
    )
    return open_checkpoint(folder, REWARD)


def served_reward(
    adapters: Path, models: Path, settings: RmSettings, say: Callable[[str], None] = lambda _: None
) -> Checkpoint:
    """The reward model of the adapters that `train rm` wrote, as it is served; converted once, under `models`."""
    checkpoint = open_checkpoint(adapters, REWARD_ADAPTERS)
    base = prepare_encoder(models, settings.base, say=say)
    folder = models / f"{checkpoint.version.replace(REWARD_ADAPTERS, REWARD)}-{settings.quantization}"
    return prepare_reward(checkpoint, base, folder, settings.quantization, say)


def load_members(adapters: Checkpoint, base: Path) -> list[Any]:
    """The members as torch models, adapters and heads on them, ready to score; and nothing else in them."""
    shape = RewardShape.model_validate(adapters.read_json(SHAPE))
    members = []
    for number in range(shape.members):
        loaded = open_encoder(base)
        check_base(loaded.base, adapters)
        model = get_peft_model(loaded.model, adapter_config(adapters))
        put_adapter(model, adapters, adapter_file(number))
        members.append(model.eval())
    return members


def _served_files(adapters: Checkpoint, base: Path, quantization: str) -> dict[str, bytes]:
    loaded = open_encoder(base)
    calibration = adapters.read_json(CALIBRATION)
    files = {
        SHAPE: adapters.read(SHAPE),
        TOKENIZER: backend(loaded.tokenizer).to_str().encode(),
        MODEL_CARD: adapters.read(MODEL_CARD),
        SOURCE: json.dumps(_made_as(quantization)).encode(),
    }
    weight, bias = [], []
    for number, model in enumerate(load_members(adapters, base)):
        merged = model.merge_and_unload()
        temperature, centre = calibration["temperature"][number], calibration["centre"][number]
        head = merged.classifier
        weight.append(head.weight[0].detach().numpy() / temperature)
        bias.append((head.bias[0].item() - centre) / temperature)
        with tempfile.TemporaryDirectory() as scratch:
            made = converted(merged.bert, loaded.tokenizer, quantization, Path(scratch))
        files |= {member_file(number): made["model.bin"], ENCODER_CONFIG: made["config.json"]}
        files[VOCABULARY] = made["vocabulary.json"]
    files[HEADS] = save({"weight": np.stack(weight).astype(np.float32), "bias": np.array(bias, dtype=np.float32)})
    return files


def _golden(served: Checkpoint, adapters: Checkpoint) -> tuple[list[dict[str, Any]], float]:
    """The adapters' golden drafts with the scores that the served model gives them, and the largest difference."""
    cases = adapters.read_json(GOLDEN)
    model = RewardModel.load(served, check=False)
    found = model.scores([Brief.model_validate(case["brief"]) for case in cases], [case["text"] for case in cases])
    largest = float(np.abs(found - np.array([case["scores"] for case in cases])).max())
    scored = [case | {"scores": np.round(row, 6).tolist()} for case, row in zip(cases, found, strict=True)]
    return scored, largest


def _made_as(quantization: str) -> dict[str, str]:
    return {"quantization": quantization}
