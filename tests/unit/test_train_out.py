"""`train … --out`: a folder that cannot become a checkpoint is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from churnsaver.errors import CheckpointError
from tests.support.commands import run_json

TRAINERS = {
    "risk": ("--data",),
    "accept": ("--data",),
    "uplift": ("--data",),
    "ppo": ("--data",),
    "shield": ("--data",),
    "sft": ("--data",),
    "rm": ("--data",),
    "ppo-text": ("--sft", "--rm"),
}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_would_be_deleted_is_refused_at_once(tmp_path: Path, trainer: str) -> None:
    """Before what is to be trained on is so much as looked for; what lies there is left alone."""
    given = [word for option in TRAINERS[trainer] for word in (option, tmp_path / "none")]
    notes = tmp_path / "mine" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("dear diary")
    with pytest.raises(CheckpointError, match=r"notes\.txt: is a file; choose a folder with --out"):
        run_json("train", trainer, *given, "--out", notes)
    with pytest.raises(CheckpointError, match=r"mine: holds 'notes\.txt', which is no part of a checkpoint"):
        run_json("train", trainer, *given, "--out", notes.parent)
    assert notes.read_text() == "dear diary"
