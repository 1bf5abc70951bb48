"""`train sft`, `train rm` and `eval rm` from files to checkpoints, on tiny random models and a folder of settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from churnsaver.checkpoints import open_checkpoint
from churnsaver.errors import BadInput
from churnsaver.settings import load_world
from tests.support.commands import run_json
from tests.support.tiny_encoder import tiny_encoder
from tests.support.tiny_model import TEXTS, tiny_model
from trainers.rlhf.corpus import briefs
from trainers.rlhf.examples import Preference, WrittenMessage, write_jsonl

PRESET = {"texts": 8, "epochs": 1, "held_out": 2, "drafts": 1}
SMALL = {
    "sft": {
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.0, "modules": ["q_proj"], "upper_layers": 1},
        "batch_size": 4,
        "draft_tokens": 40,
        "presets": {"quick": PRESET, "full": PRESET},
    },
    "rm": {
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.0, "modules": ["query"], "upper_layers": 1},
        "batch_size": 4,
        "quantization": "none",
        "min_accuracy": 0.0,
        "presets": {"quick": {"pairs": 8, "epochs": 1}, "full": {"pairs": 8, "epochs": 1}},
    },
}

# Drafts of some tokens, a look after each iteration.
SMALL_PPO = {
    "threads": 1,
    "max_tokens": {"email": 6, "sms": 40, "push": 5},
    "stop": {"every": 1, "briefs": 4, "window": 4, "standard_errors": 1.0},
    "presets": {name: {"iterations": 2, "drafts": 6} for name in ("quick", "full")},
}


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's settings, those of the two trainings for tiny models."""
    shutil.copytree("configs", tmp_path / "configs")
    bases = {"sft": tiny_model(tmp_path / "llama"), "rm": tiny_encoder(tmp_path / "bert")}
    for name, changes in (
        {name: {**SMALL[name], "base": str(bases[name])} for name in bases} | {"ppo_text": SMALL_PPO}
    ).items():
        path = tmp_path / "configs" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    monkeypatch.setenv("CHURN_SAVER_CONFIGS", str(tmp_path / "configs"))
    monkeypatch.setenv("CHURN_SAVER_MODELS", str(tmp_path / "models"))


def test_messages_become_an_adapter(tmp_path: Path, configs: None) -> None:
    for part, count in (("train", 12), ("valid", 3)):
        those = [brief for brief in briefs(load_world(), part) if brief.channel == "sms"][:count]
        write_jsonl(tmp_path / "data" / f"{part}.jsonl", [WrittenMessage(brief=b, text=TEXTS[0]) for b in those])
    found = run_json("train", "sft", "--data", tmp_path / "data", "--out", tmp_path / "sft", "--quick", missed="slot")
    assert found["texts"] == 8
    assert found["kind"] == "writer"
    assert (Path(found["training"]) / "report.html").is_file()
    assert open_checkpoint(tmp_path / "sft", "writer").manifest.data_sha256


def test_preferences_become_a_reward_model_whose_gate_can_fail(tmp_path: Path, configs: None) -> None:
    for part in ("train", "valid", "test"):
        those = [brief for brief in briefs(load_world(), part) if brief.channel == "sms"][:8]
        pairs = [Preference(brief=b, chosen=TEXTS[0], rejected=f"Act now! {TEXTS[1]}", kind="pushy") for b in those]
        write_jsonl(tmp_path / "data" / f"{part}.jsonl", pairs)
    found = run_json("train", "rm", "--data", tmp_path / "data", "--out", tmp_path / "rm")
    assert found["kind"] == "reward_adapters"
    settings = tmp_path / "configs" / "rm.yaml"
    kept = settings.read_text()
    settings.write_text(yaml.safe_dump({**yaml.safe_load(kept), "max_tokens": 1024}))
    with pytest.raises(BadInput, match=r"rm.yaml: max_tokens: is 1024; .*bert has positions for 192"):
        run_json("train", "rm", "--data", tmp_path / "data", "--out", tmp_path / "other")
    settings.write_text(kept)
    asked = ("eval", "rm", "--checkpoint", tmp_path / "rm", "--data", tmp_path / "data", "--out", tmp_path / "report")
    figures = run_json(*asked)
    assert figures["length"]["chosen_longer"] is None or figures["length"]["chosen_shorter"] is None
    assert figures["by_kind"]["pushy"]["pairs"] == 8
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == figures
    # A bag of words knows these pairs by heart, so nothing can be a tenth better.
    run_json(*asked, "--gate", missed="better of a length-only and a bag-of-words scorer")


@pytest.mark.stack
def test_the_whole_chain_from_messages_to_a_compared_writer(tmp_path: Path, configs: None) -> None:
    """Nothing stands in for anything: what one command writes is what the next one reads."""
    for part, count in (("train", 16), ("valid", 6), ("test", 6)):
        those = [brief for brief in briefs(load_world(), part) if brief.channel == "sms"][:count]
        write_jsonl(tmp_path / "messages" / f"{part}.jsonl", [WrittenMessage(brief=b, text=TEXTS[0]) for b in those])
        pairs = [Preference(brief=b, chosen=TEXTS[0], rejected=f"Act now! {TEXTS[1]}", kind="pushy") for b in those]
        write_jsonl(tmp_path / "preferences" / f"{part}.jsonl", pairs)
    sft, rm, ppo = (tmp_path / name for name in ("sft", "rm", "ppo"))
    fine_tuned = run_json("train", "sft", "--data", tmp_path / "messages", "--out", sft, missed="slot")
    reward = run_json("train", "rm", "--data", tmp_path / "preferences", "--out", rm)
    tuning = ("train", "ppo-text", "--sft", sft, "--rm", rm, "--data", tmp_path / "messages", "--out", ppo)
    tuned = run_json(*tuning, missed="nats a text")
    parents = open_checkpoint(ppo, "writer").manifest.parents
    assert parents["writer"] == fine_tuned["version"]
    assert parents["reward_adapters"] == reward["version"]
    assert run_json(*tuning, "--resume", missed="nats a text")["version"] == tuned["version"]
    compared = run_json("eval", "text", "--checkpoint", ppo, "--sft", sft, "--drafts", 1, "--audit", 3)
    assert (compared["checkpoint"], compared["sft"]) == (tuned["version"], fine_tuned["version"])
