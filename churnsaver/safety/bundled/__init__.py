"""The shield checkpoint that the project ships, so that a fresh clone has one. Weights only, no data."""

from __future__ import annotations

from pathlib import Path

# A folder of its own, so that `train shield --out` can replace it whole.
BUNDLED_CHECKPOINT = Path(__file__).parent / "shield"
