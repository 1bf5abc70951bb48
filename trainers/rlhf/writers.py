"""The writers that are compared: base, fine-tuned and PPO-tuned, on one base in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.message import Brief
from churnsaver.domain.world import World
from churnsaver.errors import CheckpointError
from churnsaver.models.adapters import ADAPTER, WRITER
from trainers.rlhf.language_model import LoadedModel, check_base, put_adapter
from trainers.rlhf.ppo_text_run import open_policy
from trainers.rlhf.ppo_text_settings import PpoTextSettings
from trainers.rlhf.rollout import Writer, scored

WRITERS = BASE, SFT, PPO = "base", "SFT", "PPO"


@dataclass(frozen=True, slots=True)
class Written:
    """What each writer wrote for the same briefs.

    Attributes:
        texts: by writer, one for each brief.
        kl: (briefs,) nats of PPO's texts from SFT, by Schulman's k1; None where no fine-tuned writer is at hand.
        ended: by writer, the share of drafts that came to an end.
    """

    briefs: list[Brief]
    texts: dict[str, list[str]]
    kl: NDArray[np.float64] | None
    ended: dict[str, float]


class Writers:
    """Base, `tuned`, and `sft` that it went on from, where that is at hand; `tuned` is SFT where it went on from none.

    Raises:
        CheckpointError: an adapter is for another base, or `tuned` began as another writer.
    """

    def __init__(
        self, loaded: LoadedModel, sft: Checkpoint | None, tuned: Checkpoint, world: World, settings: PpoTextSettings
    ) -> None:
        began = tuned.manifest.parents.get(WRITER)
        if sft is not None and began != sft.version:
            raise CheckpointError(
                f"{tuned.path}: went on from {began or 'no writer'}, not from {sft.version}; name the --sft that "
                "it was trained from"
            )
        check_base(loaded.base, tuned)
        self._tuned = PPO if began else SFT
        torch.set_num_threads(settings.threads)
        self._has_reference = sft is not None
        self._policy = open_policy(loaded, sft or tuned, settings)  # policy and reference are the fine-tuned writer
        put_adapter(self._policy.model, tuned, ADAPTER)  # and now the policy is the tuned one
        self._policy.eval()
        self._settings = settings
        self._writer = Writer(self._policy, loaded.tokenizer, world, settings.max_tokens, settings.sample_batch)

    def write(self, briefs: Sequence[Brief], seed: int, say: Callable[[str], None] = lambda _: None) -> Written:
        """One draft of each for every brief, at temperature 1, each with luck of its own."""
        worn = {BASE: self._policy.model.disable_adapter()}
        if self._has_reference:
            worn[SFT] = self._policy.as_reference()
        worn[self._tuned] = nullcontext()
        texts, ended = {}, {}
        for name, wearing in worn.items():
            say(f"writing {len(briefs)} drafts of {name}")
            with wearing:
                drafts = self._writer.write(briefs, self._luck(seed, WRITERS.index(name)))
            texts[name], ended[name] = drafts.texts, float(np.mean(drafts.ended))
        if not self._has_reference:
            return Written(list(briefs), texts, None, ended)
        say("measuring the divergence")
        ours, _, _ = scored(self._policy, drafts.tokens, self._settings.micro_batch)
        with self._policy.as_reference():
            theirs, _, _ = scored(self._policy, drafts.tokens, self._settings.micro_batch)
        return Written(list(briefs), texts, (ours - theirs).sum(dim=1).double().cpu().numpy(), ended)

    def write_tuned(self, seed: int, briefs: Sequence[Brief], number: int) -> list[str]:
        """One draft of the tuned writer for every brief; each `number` has luck of its own."""
        return self._writer.write(briefs, self._luck(seed, len(WRITERS) + number)).texts

    def _luck(self, seed: int, number: int) -> torch.Generator:
        return torch.Generator(device=self._policy.device).manual_seed(1_000_003 * seed + number)
