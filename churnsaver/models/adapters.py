"""Adapters of the language model: a checkpoint of kind writer, as trainers write it and a vLLM server loads it."""

from __future__ import annotations

from churnsaver.domain.message import Brief
from churnsaver.domain.world import Frozen

WRITER = "writer"
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"  # as PEFT names them
BASE = "base.json"  # beside weights and in adapters: a `Base`


class Base(Frozen):
    """Which model an adapter is for.

    Attributes:
        name: for people.
        sha256: of the file that the weights came in.
    """

    name: str
    sha256: str

    @property
    def served_name(self) -> str:
        """What a server of this model calls it, so that who asks it sees which weights it has."""
        return f"{self.name}@{self.sha256[:12]}"


class GoldenMessage(Frozen):
    """A message for a brief, and the mean log-probability of its tokens, its end included, as training measured it."""

    brief: Brief
    text: str
    mean_log_prob: float
