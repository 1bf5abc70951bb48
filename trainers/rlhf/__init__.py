"""RLHF: supervised fine-tuning, a Bradley-Terry reward model, PPO on texts (docs/adr/0021)."""

from __future__ import annotations

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # of transformers and datasets: their bars do not know where ours is
