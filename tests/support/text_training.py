"""PPO on texts in seconds: a tiny random model, a reward that anybody could earn, and a judge of a test's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from churnsaver.domain.message import Brief
from churnsaver.settings import load_section, load_world
from tests.support.tiny_model import tiny_model
from trainers.rlhf.ppo_text import Learner, new_learner
from trainers.rlhf.ppo_text_settings import PpoTextSettings
from trainers.rlhf.rollout import Writer
from trainers.rlhf.text_policy import TextPolicy
from trainers.rlhf.text_reward import Earnings

WANTED = frozenset("aeiou")
BRIEFS = [
    Brief(segment=segment, offer="discount_10", tone=tone, channel=channel, language="en", reason="price")
    for segment in ("new", "settled", "loyal")
    for tone in ("warm", "plain")
    for channel in ("email", "sms")
]


class Vowels:
    """An ensemble that likes vowels, with members that differ by a constant."""

    def scores(self, briefs: Sequence[Brief], drafts: Sequence[str]) -> NDArray[np.float64]:
        share = np.array([sum(letter in WANTED for letter in draft) / max(len(draft), 1) for draft in drafts])
        return np.stack([10.0 * share - 0.1, 10.0 * share, 10.0 * share + 0.1], axis=1)


class Anything:
    """Rules that stop nothing."""

    def passes(self, brief: Brief, draft: str) -> bool:
        return True


@dataclass
class Judge:
    """Likes what the reward likes, or the contrary."""

    sign: float = 1.0

    def score(self, briefs: Sequence[Brief], texts: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(self.sign * Vowels().scores(briefs, texts).mean(axis=1))


def short_settings(**changes: Any) -> PpoTextSettings:
    """The project's settings, for a model of two layers that writes a dozen tokens."""
    section = load_section("ppo_text", PpoTextSettings)
    small: dict[str, Any] = {
        "threads": 1,
        "max_tokens": {"email": 4, "sms": 3, "push": 3},
        "learning_rate": 0.02,
        "micro_batch": 16,
        "minibatches": 2,
        "stop": section.stop.model_copy(update={"every": 2, "briefs": 12}),
    }
    return section.model_copy(update=small | changes)


def tiny_policy(folder: Path, lowest: int = 0) -> tuple[TextPolicy, Any]:
    """A policy over the tiny model with a LoRA adapter from its layer `lowest` on, and its tokenizer."""
    from peft import LoraConfig, get_peft_model

    from trainers.rlhf.language_model import open_base

    if not folder.exists():
        tiny_model(folder)
    loaded = open_base(folder)
    torch.manual_seed(3)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        layers_to_transform=list(range(lowest, loaded.model.config.num_hidden_layers)),
    )
    model = get_peft_model(loaded.model, config)
    return TextPolicy(model, loaded.tokenizer.pad_token_id, loaded.tokenizer.eos_token_id), loaded.tokenizer


def tiny_learner(folder: Path, settings: PpoTextSettings, seed: int = 7) -> tuple[Learner, Writer]:
    policy, tokenizer = tiny_policy(folder)
    learner = new_learner(policy, settings, seed)
    return learner, Writer(policy, tokenizer, load_world(), settings.max_tokens, settings.sample_batch)


def vowel_earnings(settings: PpoTextSettings) -> Earnings:
    return Earnings(Vowels(), Anything(), {}, settings.reward)
