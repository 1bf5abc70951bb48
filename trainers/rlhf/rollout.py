"""A rollout: drafts for briefs, what they earned, and what of it is owed to which token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from churnsaver.domain.message import Brief
from churnsaver.domain.world import World
from trainers.rlhf.language_model import prompt_ids
from trainers.rlhf.text_policy import TextPolicy, Tokens, sample
from trainers.rlhf.text_reward import Earned, Earnings


@dataclass(frozen=True, slots=True)
class Drafts:
    """What the policy wrote.

    Attributes:
        tokens: prompts and drafts, the end of the turn included.
        texts: the drafts as text, without it. Special tokens inside stay, so that the rules see them.
        ended: whether each came to an end by itself.
    """

    briefs: list[Brief]
    tokens: Tokens
    texts: list[str]
    ended: list[bool]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each."""
        return [int(count) for count in self.tokens.draft_mask.sum(dim=1).tolist()]


class Writer:
    """Writes drafts for briefs with a policy.

    Args:
        max_tokens: of a draft, its end included, by channel.
        batch: drafts that are written at a time.
    """

    def __init__(
        self, policy: TextPolicy, tokenizer: Any, world: World, max_tokens: Mapping[str, int], batch: int
    ) -> None:
        self.policy = policy
        self._tokenizer, self._world, self._max_tokens, self._batch = tokenizer, world, max_tokens, batch

    def write(self, briefs: Sequence[Brief], generator: torch.Generator) -> Drafts:
        """One draft for each brief."""
        prompts = [prompt_ids(self._tokenizer, brief, self._world) for brief in briefs]
        limits = [self._max_tokens[brief.channel] for brief in briefs]
        written: list[list[int]] = []
        for start in range(0, len(briefs), self._batch):
            chunk = slice(start, start + self._batch)
            written += sample(self.policy, prompts[chunk], limits[chunk], generator)
        ended = [draft[-1] == self.policy.end_id for draft in written]
        texts = [
            self._tokenizer.decode(draft[:-1] if end else draft) for draft, end in zip(written, ended, strict=True)
        ]
        tokens = Tokens.of(prompts, written, self.policy.pad_id, self.policy.device)
        return Drafts(list(briefs), tokens, texts, ended)


@dataclass(frozen=True, slots=True)
class Rollout:
    """Drafts with all that an update needs; tensors are (n, d), 0 at padding.

    Attributes:
        log_probs, values: by the policy that wrote them.
        reference_log_probs: by what it began as.
        rewards: of each token before whitening: its share of the KL penalty, and at the last what the draft earned.
        advantages: standardised over all tokens.
        returns: what the values should have been.
    """

    drafts: Drafts
    earned: Earned
    log_probs: Tensor
    reference_log_probs: Tensor
    values: Tensor
    entropy: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor

    @property
    def mask(self) -> Tensor:
        return self.drafts.tokens.draft_mask

    def kl(self) -> Tensor:
        """(n,) nats a text by Schulman's k1, log π - log π_ref: unbiased, and what the reward is charged."""
        return (self.log_probs - self.reference_log_probs).sum(dim=1)

    def kl_k3(self) -> Tensor:
        """(n,) by Schulman's k3, (r - 1) - log r with r = π_ref / π: never negative, and steadier (kl-approx.html)."""
        log_ratio = self.reference_log_probs - self.log_probs
        return ((log_ratio.exp() - 1.0) - log_ratio).sum(dim=1)


def roll_out(
    writer: Writer,
    briefs: Sequence[Brief],
    earnings: Earnings,
    kl_coefficient: float,
    gae_lambda: float,
    micro_batch: int,
    generator: torch.Generator,
) -> Rollout:
    """Writes, scores, and says what each token is owed."""
    drafts = writer.write(briefs, generator)
    drafts = replace(drafts, tokens=grounded(writer.policy, drafts.tokens, micro_batch))
    earned = earnings.of(drafts.briefs, drafts.texts, drafts.ended)
    log_probs, values, entropy = scored(writer.policy, drafts.tokens, micro_batch)
    with writer.policy.as_reference():
        reference, _, _ = scored(writer.policy, drafts.tokens, micro_batch)
    mask = drafts.tokens.draft_mask
    rewards = token_rewards(log_probs, reference, torch.as_tensor(earned.reward), mask, kl_coefficient)
    # Whitened without moving the mean, which would pay for each further token (Ziegler et al. 2019's code).
    scale = rewards[mask].std(correction=0).clamp(min=1e-8)
    advantages, returns = token_advantages(rewards / scale, values, mask, gae_lambda)
    return Rollout(
        drafts, earned, log_probs, reference, values, entropy, rewards, standardised(advantages, mask), returns
    )


def token_rewards(log_probs: Tensor, reference: Tensor, earned: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """(n, d): minus the KL penalty of each token, and at a draft's last token what the draft earned."""
    rewards = -kl_coefficient * (log_probs - reference)
    last = mask.sum(dim=1, keepdim=True) - 1
    rewards = rewards.scatter_add(1, last, earned.to(rewards)[:, None])
    return rewards * mask


def token_advantages(rewards: Tensor, values: Tensor, mask: Tensor, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalised advantages (Schulman et al. 2016) and returns, (n, d), undiscounted: a text is short."""
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)  # 0 after the last token
    errors = rewards + following - values
    advantage = torch.zeros_like(errors[:, 0])
    columns = []
    for column in range(errors.shape[1] - 1, -1, -1):
        advantage = (errors[:, column] + gae_lambda * advantage) * mask[:, column]
        columns.append(advantage)
    advantages = torch.stack(columns[::-1], dim=1)
    return advantages, advantages + values


def standardised(advantages: Tensor, mask: Tensor) -> Tensor:
    """To mean 0 and standard deviation 1 over all tokens, 0 at padding."""
    chosen = advantages[mask]
    return (advantages - chosen.mean()) / (chosen.std(correction=0) + 1e-8) * mask


def by_length(rows: np.ndarray[Any, np.dtype[np.int64]], lengths: Sequence[int], size: int) -> list[Tensor]:
    """The rows in groups of at most `size`, alike in length, so that little is computed for padding."""
    ordered = sorted(rows.tolist(), key=lambda row: (lengths[row], row))
    return [torch.tensor(ordered[start : start + size]) for start in range(0, len(ordered), size)]


def grounded(policy: TextPolicy, tokens: Tokens, micro_batch: int) -> Tokens:
    """The tokens with what every later pass over them has in common: two thirds of the work, done once for six."""
    width, length = tokens.prompts.shape[1], tokens.drafts.shape[1]
    below: Tensor | None = None
    for rows in by_length(np.arange(len(tokens)), tokens.draft_mask.sum(dim=1).tolist(), micro_batch):
        part = tokens.take(rows)
        states = policy.below(part)
        if below is None:
            below = states.new_zeros(len(tokens), width + length, states.shape[-1])
        left = width - part.prompts.shape[1]
        below[rows, left : left + states.shape[1]] = states
    return replace(tokens, below=below)


@torch.no_grad()
def scored(policy: TextPolicy, tokens: Tokens, micro_batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, values and entropies, 0 at padding."""
    shape = tokens.drafts.shape
    found = tuple(torch.zeros(shape, device=policy.device) for _ in range(3))
    lengths = tokens.draft_mask.sum(dim=1).tolist()
    for rows in by_length(np.arange(len(tokens)), lengths, micro_batch):
        part = tokens.take(rows)
        scores = policy(part)
        width = part.drafts.shape[1]
        for whole, of_part in zip(found, (scores.log_probs, scores.values, scores.entropy), strict=True):
            whole[rows, :width] = of_part * part.draft_mask
    return found[0], found[1], found[2]
