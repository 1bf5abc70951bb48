"""What the project ships of RLHF: the writer's adapter, the one before PPO (SFT), to compare, and the adapters of the
reward model. Weights only, no data.

`make bundle-rlhf` puts here what `make train-rlhf` made. Each may be missing; without a writer, the base model writes
as it is.
"""

from __future__ import annotations

from pathlib import Path

# Folders of their own, each a checkpoint that is replaced whole.
BUNDLED_WRITER = Path(__file__).parent / "writer"
BUNDLED_SFT = Path(__file__).parent / "sft"
BUNDLED_REWARD = Path(__file__).parent / "reward"
