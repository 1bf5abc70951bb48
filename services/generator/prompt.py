"""From a brief to what the model reads: the conversation that it was tuned on, in ChatML."""

from __future__ import annotations

from churnsaver.domain.message import Brief
from churnsaver.domain.world import World
from churnsaver.domain.writing import conversation


def prompt(brief: Brief, world: World) -> str:
    """The conversation about `brief` up to the model's turn; briefs that are told alike have one prompt."""
    turns = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in conversation(brief, world))
    return turns + "<|im_start|>assistant\n"
