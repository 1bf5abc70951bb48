"""What a writer is measured by while it is tuned: perplexity of held-out texts, and slots of its own drafts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from churnsaver.domain.message import REQUIRED_SLOTS, Brief, slots_in
from churnsaver.domain.world import World
from trainers.rlhf.language_model import prompt_ids

BATCH = 8


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a prompt and of the text that answers it, its end included."""

    prompt: list[int]
    text: list[int]

    def masked(self) -> dict[str, list[int]]:
        """As TRL's SFTTrainer takes a tokenised example whose loss is on the completion alone."""
        mask = [0] * len(self.prompt) + [1] * len(self.text)
        return {"input_ids": self.prompt + self.text, "completion_mask": mask}


@torch.no_grad()
def log_prob_sums(model: Any, examples: Sequence[Example], pad: int) -> Iterator[float]:
    """The log-probability of each example's text given its prompt, in nats."""
    was_training = model.training
    model.eval()
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        ids = [torch.tensor(each.prompt + each.text) for each in batch]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad).to(model.device)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        logits = model(input_ids=padded, attention_mask=mask.to(model.device)).logits
        for row, example, scores in zip(padded, batch, logits, strict=True):
            first, last = len(example.prompt), len(example.prompt) + len(example.text)
            # What stands at a place is told by the scores at the place before it.
            found = scores[first - 1 : last - 1].float().log_softmax(-1)
            yield float(found.gather(-1, row[first:last, None]).sum())
    model.train(was_training)


def mean_log_probs(model: Any, examples: Sequence[Example], pad: int) -> list[float]:
    """Mean log-probability of each text's tokens, in nats."""
    sums = log_prob_sums(model, examples, pad)
    return [total / len(each.text) for each, total in zip(examples, sums, strict=True)]


def perplexity(model: Any, examples: Sequence[Example], pad: int) -> float:
    """The exponential of the mean negative log-probability of all the texts' tokens."""
    return math.exp(-math.fsum(log_prob_sums(model, examples, pad)) / sum(len(each.text) for each in examples))


def has_exact_slots(draft: str) -> bool:
    """Whether a draft has each required slot once, a first name at most once, and no other brace."""
    counts = Counter(slots_in(draft))
    named = counts.pop("first_name", 0)
    whole = draft.count("{") == draft.count("}") == sum(counts.values()) + named
    return whole and named <= 1 and counts == Counter(REQUIRED_SLOTS)


@torch.no_grad()
def greedy_drafts(
    model: Any, tokenizer: Any, briefs: Sequence[Brief], world: World, max_tokens: int, batch: int = 16
) -> list[str]:
    """The likeliest draft for each brief, word by word; one that does not end is cut after `max_tokens`."""
    drafts: list[str] = []
    for start in range(0, len(briefs), batch):
        prompts = [prompt_ids(tokenizer, brief, world) for brief in briefs[start : start + batch]]
        width = max(map(len, prompts))
        pads = [[tokenizer.pad_token_id] * (width - len(prompt)) for prompt in prompts]
        written = model.generate(
            input_ids=torch.tensor([pad + ids for pad, ids in zip(pads, prompts, strict=True)], device=model.device),
            attention_mask=torch.tensor(
                [[0] * len(pad) + [1] * len(ids) for pad, ids in zip(pads, prompts, strict=True)], device=model.device
            ),
            do_sample=False,
            max_new_tokens=max_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        drafts += tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
    return drafts


def slot_accuracy(model: Any, tokenizer: Any, briefs: Sequence[Brief], world: World, max_tokens: int) -> float:
    """Share of the briefs' greedy drafts that have exactly the required slots."""
    drafts = greedy_drafts(model, tokenizer, briefs, world, max_tokens)
    return sum(map(has_exact_slots, drafts)) / len(drafts)
