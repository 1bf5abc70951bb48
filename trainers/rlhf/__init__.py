"""RLHF: supervised fine-tuning, a Bradley-Terry reward model, PPO on texts (docs/adr/0021)."""

from __future__ import annotations

import os

# Read when transformers and datasets are imported: their bars do not know where ours is, and they warn of heads that
# are new, which is what we want of them.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
