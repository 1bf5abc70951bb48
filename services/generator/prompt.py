"""From a brief to what the model reads: the conversation that it was tuned on, in ChatML."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable

from churnsaver.domain.message import SEGMENTS, Brief
from churnsaver.domain.world import World
from churnsaver.domain.writing import conversation
from churnsaver.settings import GeneratorSettings
from services.generator import ranking

# The settings that decide what is written, by engine; the others may change without a new bank.
SAMPLING = {"max_new_tokens", "temperature", "top_k", "tone", "languages"}
WRITING = {"embedded": SAMPLING | {"quantization"}, "vllm": SAMPLING}


def prompt(brief: Brief, world: World) -> str:
    """The conversation about `brief` up to the model's turn; briefs that are told alike have one prompt."""
    turns = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in conversation(brief, world))
    return turns + "<|im_start|>assistant\n"


def prompts(settings: GeneratorSettings, world: World) -> dict[str, list[Brief]]:
    """Every brief that the gateway can ask for, by what the model is told of it."""
    found: dict[str, list[Brief]] = {}
    for language in settings.languages:
        for segment in SEGMENTS:
            for offer in world.offers:
                for channel in world.channels:
                    brief = Brief(
                        segment=segment, offer=offer.id, tone=settings.tone, channel=channel, language=language
                    )
                    found.setdefault(prompt(brief, world), []).append(brief)
    return found


def bank_version(models: str, settings: GeneratorSettings, seed: int, prompts: Iterable[str]) -> str:
    """Changes with whatever makes other messages: models, seed, settings, what is told, and our own rules."""
    parts = [
        models,
        str(seed),
        settings.model_dump_json(include=WRITING[settings.engine]),
        *prompts,
        inspect.getsource(ranking),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
