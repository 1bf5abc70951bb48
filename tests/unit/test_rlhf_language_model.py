"""The base model and its adapters: what training would trip over is refused before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load

from churnsaver.checkpoints import Checkpoint, open_checkpoint, write_checkpoint
from churnsaver.errors import BadInput, CheckpointError
from churnsaver.models.adapters import ADAPTER
from churnsaver.settings import load_serve_settings, load_world
from tests.support.tiny_model import BRIEF, END, tiny_model, tiny_model_of
from trainers.rlhf.language_model import (
    LoadedModel,
    adapter_files,
    load_adapter,
    open_base,
    prepare_base,
    prompt_ids,
    round_adapter,
)

IDS = torch.arange(10, 40)[None]


def lora(*modules: str) -> LoraConfig:
    return LoraConfig(r=2, target_modules=list(modules), task_type="CAUSAL_LM")


@pytest.fixture
def base(tmp_path: Path) -> LoadedModel:
    return open_base(tiny_model(tmp_path / "base"))


def trained(base: LoadedModel, out: Path) -> tuple[Checkpoint, torch.Tensor]:
    """An adapter that does something, as a checkpoint, and the logits with it."""
    model = get_peft_model(base.model, lora("q_proj", "v_proj"))
    torch.manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
        round_adapter(model)
        logits = model.eval()(IDS).logits
    write_checkpoint(out, "writer", adapter_files(model, base.base), seed=42, metrics={})
    return open_checkpoint(out, "writer"), logits


def test_a_brief_becomes_the_conversation_up_to_the_answer(base: LoadedModel) -> None:
    ids = prompt_ids(base.tokenizer, BRIEF, load_world())
    said = base.tokenizer.decode(ids)
    assert said.endswith("<|im_start|>assistant\n")
    assert "reason: the plan costs a lot" in said
    assert base.tokenizer.pad_token_id not in ids


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chat_template": None}, "no chat template"),
        ({"pad_token": None}, "no pad token.*set pad_token"),
        ({"pad_token": END}, "never learn to stop.*set pad_token"),
        ({"chat_template": "{{ raise_exception('no system turn') }}"}, "does not take a system.*no system turn"),
        ({"chat_template": "{{ messages[0]['content'] }}"}, "add_generation_prompt"),
        ({"eos_token": None}, "no eos_token"),
    ],
)
def test_a_base_that_cannot_be_trained_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        open_base(tiny_model(tmp_path / "base", **changes))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.0625, "num_key_value_heads": 2, "intermediate_size": 64}),
        ("gemma2", {"final_logit_softcapping": 0.1, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64}),
    ],
)
def test_a_base_that_scales_or_caps_its_scores_is_refused(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    """SFT and PPO take what its head says for its logits; without scale and cap it is one to train."""
    folder = tiny_model_of(kind, tmp_path / "base", **changes)
    with pytest.raises(BadInput, match=rf"base: a base of type {kind} scales or caps .*name another base in sft.yaml"):
        open_base(folder)
    neutral = {"logits_scaling": 1.0, "logit_scale": 1.0, "final_logit_softcapping": None}
    plain = {name: neutral.get(name, value) for name, value in changes.items()}
    open_base(tiny_model_of(kind, tmp_path / "plain", **plain))


def test_neither_a_name_nor_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"base is '.*nothing'; expected one of smollm2-135m-instruct, or a folder"):
        prepare_base(load_serve_settings(), str(tmp_path / "nothing"))


def test_weights_as_pickles_are_not_read(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match="no pickle is read"):
        open_base(folder)


def test_an_adapter_comes_back_as_it_was_saved(base: LoadedModel, tmp_path: Path) -> None:
    checkpoint, logits = trained(base, tmp_path / "adapter")
    again = open_base(tmp_path / "base")
    plain = again.model(IDS).logits
    restored = load_adapter(again, checkpoint)
    with torch.no_grad():
        found = restored(IDS).logits
    torch.testing.assert_close(found, logits, rtol=0, atol=0)
    assert not torch.allclose(plain, logits, atol=1e-3)
    assert not any(weight.requires_grad for weight in restored.parameters())


def test_an_adapter_is_kept_in_half_the_bytes_and_what_diverged_not_at_all(base: LoadedModel, tmp_path: Path) -> None:
    """As float16, which ends at 65,504; a weight beyond would be kept as infinity."""
    checkpoint, _ = trained(base, tmp_path / "adapter")
    assert {weight.dtype for weight in load(checkpoint.read(ADAPTER)).values()} == {torch.float16}
    restored = load_adapter(open_base(tmp_path / "base"), checkpoint, trainable=True)
    weight = next(weight for weight in restored.parameters() if weight.requires_grad)
    for diverged in (70_000.0, float("nan")):
        weight.data[0, 0] = diverged
        with pytest.raises(
            BadInput, match=r"training diverged: .*lora_A.* has a weight beyond 65504.*lower learning_rate"
        ):
            round_adapter(restored)


def test_an_adapter_can_be_trained_on(base: LoadedModel, tmp_path: Path) -> None:
    checkpoint, _ = trained(base, tmp_path / "adapter")
    restored = load_adapter(open_base(tmp_path / "base"), checkpoint, trainable=True)
    assert {name.split(".")[-3] for name, w in restored.named_parameters() if w.requires_grad} == {"lora_A", "lora_B"}


def test_an_adapter_for_another_base_is_refused(base: LoadedModel, tmp_path: Path) -> None:
    checkpoint, _ = trained(base, tmp_path / "adapter")
    other = open_base(tiny_model(tmp_path / "other", seed=43))
    with pytest.raises(CheckpointError, match=r"the adapter is for base .*, the base is other"):
        load_adapter(other, checkpoint)


def test_an_adapter_with_other_tensors_is_refused(base: LoadedModel, tmp_path: Path) -> None:
    files = adapter_files(get_peft_model(base.model, lora("q_proj", "v_proj")), base.base)
    smaller = adapter_files(get_peft_model(open_base(tmp_path / "base").model, lora("q_proj")), base.base)
    write_checkpoint(tmp_path / "odd", "writer", files | {ADAPTER: smaller[ADAPTER]}, seed=42, metrics={})
    with pytest.raises(CheckpointError, match=r"v_proj.* is on one side only"):
        load_adapter(open_base(tmp_path / "base"), open_checkpoint(tmp_path / "odd"))
