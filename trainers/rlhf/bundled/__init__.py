"""What the project ships of RLHF: the writer's adapter, and the adapters of the reward model. Weights only, no data.

`make bundle-rlhf` puts here what `make train-rlhf` made. Either may be missing; then the base model writes as it is.
"""

from __future__ import annotations

from pathlib import Path

# Folders of their own, each a checkpoint that is replaced whole.
BUNDLED_WRITER = Path(__file__).parent / "writer"
BUNDLED_REWARD = Path(__file__).parent / "reward"
