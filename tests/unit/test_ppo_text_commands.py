"""`train ppo-text` and `eval text` as they are typed, on a tiny model; a stand-in scores drafts."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import cli.text
from churnsaver.checkpoints import Checkpoint, open_checkpoint, write_checkpoint
from churnsaver.errors import BadInput, CheckpointError, SettingsError
from churnsaver.models.adapters import WRITER
from churnsaver.settings import load_world
from tests.support.commands import run_json
from tests.support.text_training import Judge, Vowels
from tests.support.tiny_model import TEXTS, tiny_model
from tests.unit.test_ppo_text_pipeline import fine_tuned
from trainers.rlhf.corpus import briefs
from trainers.rlhf.examples import WrittenMessage, write_jsonl


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's settings with a tiny base, and drafts of few tokens."""
    shutil.copytree("configs", tmp_path / "configs")
    monkeypatch.setenv("CHURN_SAVER_CONFIGS", str(tmp_path / "configs"))
    monkeypatch.setenv("CHURN_SAVER_MODELS", str(tmp_path / "models"))
    unreached = {"coefficient": 0.15, "target": 99.0, "horizon": 240}
    small = {"max_tokens": {"email": 4, "sms": 40, "push": 3}, "threads": 1, "learning_rate": 0.01, "kl": unreached}
    changed(tmp_path / "configs" / "ppo_text.yaml", **small)
    changed(tmp_path / "configs" / "sft.yaml", base=str(tiny_model(tmp_path / "base")))
    fine_tuned(tmp_path / "sft", tmp_path / "base")
    return tmp_path / "configs"


def changed(path: Path, **values: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


@pytest.mark.stack
def test_a_writer_is_trained_and_compared(configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick preset, then the comparison with its page; random texts miss their targets, and --gate says so."""
    reward = SimpleNamespace(manifest=SimpleNamespace(parents={"reward_adapters": "reward-1"}))
    monkeypatch.setattr("cli.text._reward", lambda _: reward)
    monkeypatch.setattr("churnsaver.reward.RewardModel.load", lambda _, world: Vowels())
    monkeypatch.setattr("trainers.rlhf.judge.Judge.train", lambda *_, **__: Judge())
    for part in ("train", "valid"):
        those = [brief for brief in briefs(load_world(), part) if brief.channel == "sms"][:24]
        write_jsonl(tmp_path / "data" / f"{part}.jsonl", [WrittenMessage(brief=b, text=TEXTS[0]) for b in those])
    tuning = ("train", "ppo-text", "--sft", tmp_path / "sft", "--rm", tmp_path / "rm", "--out", tmp_path / "ppo",
              "--data", tmp_path / "data")  # fmt: skip
    trained = run_json(*tuning, "--quick", missed="nats a text")
    assert trained["iterations"] == 3
    assert trained["version"] == open_checkpoint(tmp_path / "ppo", WRITER).version
    again = run_json(*tuning, "--quick", "--resume", missed="nats a text")
    assert again["version"] == trained["version"]
    monkeypatch.setattr("trainers.rlhf.bundled.BUNDLED_SFT", tmp_path / "sft")  # as if it were shipped
    comparing = ("eval", "text", "--checkpoint", tmp_path / "ppo", "--drafts", 1)
    compared = run_json(*comparing, "--audit", 4, "--out", tmp_path / "report", "--gate", missed="nats a text")
    assert compared["checkpoint"] == trained["version"]
    assert set(compared["writers"]) == {"base", "SFT", "PPO", "reference"}
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_what_is_shipped_is_compared_with_where_it_fits(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The writer that another went on from, and no other, which is said; nothing is opened where none is named."""
    shipped = open_checkpoint(tmp_path / "sft", WRITER)
    monkeypatch.setattr("trainers.rlhf.bundled.BUNDLED_SFT", shipped.path)

    def parent_of(parents: dict[str, str]) -> Checkpoint | None:
        write_checkpoint(tmp_path / "tuned", WRITER, dict(shipped.contents), seed=2, metrics={}, parents=parents)
        return cli.text._shipped_parent(open_checkpoint(tmp_path / "tuned", WRITER))

    found = parent_of({WRITER: shipped.version})
    assert found is not None
    assert found.version == shipped.version
    assert parent_of({WRITER: "writer-of-old"}) is None
    assert f"went on from writer-of-old, and {shipped.version} is what is shipped" in capsys.readouterr().err
    (shipped.path / "manifest.json").write_text("{}")
    assert parent_of({}) is None


def test_bad_input_is_refused(configs: Path, tmp_path: Path) -> None:
    """A reward model of another kind, a writer of none, a folder without texts, a target KL of 0."""
    given = ("train", "ppo-text", "--sft", tmp_path / "sft", "--out", tmp_path / "ppo", "--rm")
    with pytest.raises(CheckpointError, match="is a checkpoint of kind writer; expected reward"):
        run_json(*given, tmp_path / "sft")
    with pytest.raises(CheckpointError, match="no writer checkpoint here"):
        run_json("train", "ppo-text", "--sft", tmp_path / "none", "--out", tmp_path / "ppo", "--rm", tmp_path / "sft")
    comparing = ("eval", "text", "--checkpoint", tmp_path / "sft", "--sft", tmp_path / "sft")
    with pytest.raises(BadInput, match=r"data/test.jsonl: cannot be read"):
        run_json(*comparing, "--data", tmp_path / "data")
    settings = yaml.safe_load((configs / "ppo_text.yaml").read_text())
    changed(configs / "ppo_text.yaml", kl=settings["kl"] | {"target": 0})
    with pytest.raises(SettingsError, match=r"ppo_text.yaml: kl.target: a target KL of 0 leaves nothing to change"):
        run_json(*given, tmp_path / "sft")
    assert not (tmp_path / "ppo").exists()
