"""Fixed outputs of the bundled shield, and that training twice gives the same checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from churnsaver.checkpoints import open_checkpoint, write_checkpoint
from churnsaver.errors import CheckpointError, SchemaError
from churnsaver.safety.bundled import BUNDLED_CHECKPOINT
from churnsaver.safety.toxicity import CONFIG, KIND, WEIGHTS, ToxicityModel
from trainers.shield.train import train_shield

CSV_ROWS = [("you are a stupid idiot", 1), ("please send the form again", 0)]


def write_texts(path: Path) -> Path:
    rows = [f"{text} number {i},{toxic}" for i in range(150) for text, toxic in CSV_ROWS]
    path.write_text("\n".join(["text,toxic", *rows]) + "\n")
    return path


def test_the_bundled_checkpoint_is_small_and_scores_as_recorded() -> None:
    """Golden cases are verified while loading; the weights stay within 300 KB."""
    checkpoint = open_checkpoint(BUNDLED_CHECKPOINT, KIND)
    model = ToxicityModel.from_checkpoint(checkpoint)
    assert len(checkpoint.read(WEIGHTS)) <= 300_000
    assert model.score("You are a worthless idiot.") > 0.5 > model.score("Thank you for being our customer.")


def test_the_same_seed_gives_the_same_checkpoint(tmp_path: Path) -> None:
    """Bitwise: versions are derived from the files' hashes."""
    data = write_texts(tmp_path / "texts.csv")
    first, second = (train_shield([data], tmp_path / name, 42) for name in ("a", "b"))
    assert first == second
    ToxicityModel.from_checkpoint(open_checkpoint(tmp_path / "a", KIND))


def test_a_checkpoint_that_scores_otherwise_is_refused(tmp_path: Path) -> None:
    """Well-formed files with valid hashes still have to answer as recorded."""
    good = open_checkpoint(BUNDLED_CHECKPOINT, KIND)
    config = good.read_json(CONFIG) | {"shift": 2.5}
    write_checkpoint(
        tmp_path / "bad", KIND, dict(good.contents) | {CONFIG: json.dumps(config).encode()}, seed=42, metrics={}
    )
    with pytest.raises(CheckpointError, match="golden case"):
        ToxicityModel.from_checkpoint(open_checkpoint(tmp_path / "bad", KIND))


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    """Truncation is seen by the hash, before anything is parsed."""
    shutil.copytree(BUNDLED_CHECKPOINT, tmp_path / "cut")
    (tmp_path / "cut" / WEIGHTS).write_bytes((BUNDLED_CHECKPOINT / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(tmp_path / "cut", KIND)


def test_a_file_without_labels_is_named(tmp_path: Path) -> None:
    """The message says which file and which columns were expected."""
    path = tmp_path / "odd.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SchemaError, match=r"odd\.csv.*text and toxic"):
        train_shield([path], tmp_path / "out", 42)
