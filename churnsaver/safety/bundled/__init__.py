"""The shield checkpoint that the project ships, so that a fresh clone has one. Weights only, no data."""

from __future__ import annotations

from pathlib import Path

from churnsaver.checkpoints.checkpoint import MANIFEST

# A folder of its own, so that `train shield --out` can replace it whole.
BUNDLED_CHECKPOINT = Path(__file__).parent / "shield"


def shield_checkpoint(checkpoints: Path) -> Path:
    """The shield of the folder of checkpoints where one was trained there, else the bundled one."""
    trained = checkpoints / "shield"
    return trained if (trained / MANIFEST).exists() else BUNDLED_CHECKPOINT
