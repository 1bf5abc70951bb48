"""The toxicity classifier that the project ships, so that a fresh clone has one. Weights only, no data."""

from pathlib import Path

BUNDLED_CHECKPOINT = Path(__file__).parent
