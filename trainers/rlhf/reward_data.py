"""The preferences that the reward model is trained and measured on: read, checked, drawn, tokenised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer

from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.reward.encoding import PairEncoder, RewardShape
from trainers.rlhf.checks import check_apart, compared, read_preferences
from trainers.rlhf.corpus import PARTS, split_of
from trainers.rlhf.examples import Preference


@dataclass(frozen=True, slots=True)
class Pairs:
    """Preferences by part, no scenario and no public test in two of them."""

    train: list[Preference]
    valid: list[Preference]
    test: list[Preference]


def preferences(
    data: Path, reviewers: Path | None, world: World, say: Callable[[str], None] = lambda _: None, *, to_train: bool
) -> Pairs:
    """The pairs in a folder that `data preferences` wrote, and a team's own reviewers' pairs of a file.

    Where both compare the same two texts, what a person preferred stands.

    Args:
        say: told how many went where.
        to_train: whether the reviewers' pairs are to be learned from, so that one of them has to be of that part.

    Raises:
        BadInput: a file is missing or empty, or a line of it is no pair; or a scenario stands in two parts.
    """
    seen: dict[tuple[str, ...], str] = {}
    parts = {part: read_preferences(data / f"{part}.jsonl", world, public=True, seen=seen) for part in PARTS}
    briefs = {part: [pair.brief for pair in pairs if pair.brief is not None] for part, pairs in parts.items()}
    check_apart(briefs, data, world)
    if reviewers:
        preferred: dict[tuple[str, ...], str] = {}
        theirs = read_preferences(reviewers, world, seen=preferred)
        parts = {
            part: [pair for pair in pairs if pair.brief is None or _key(pair) not in preferred]
            for part, pairs in parts.items()
        }
        own = Counter[str]()
        for pair in theirs:
            assert pair.brief is not None  # read_preferences asks for it
            where = split_of(pair.brief, world)
            parts[where].append(pair)
            own[where] += 1
        said = f"{own['train']} pairs to train on, {own['valid']} to calibrate with, {own['test']} to test"
        replaced = len(preferred.keys() & seen.keys())
        say(f"{reviewers}: {said}" + (f"; {replaced} of them in the place of {data}'s" if replaced else ""))
        if to_train and not own["train"]:
            raise BadInput(
                f"{reviewers}: has no pair of a train scenario (briefs are split by segment, reason, purpose of the "
                "offer, tone and channel); compare some more"
            )
    return Pairs(**parts)


def _key(pair: Preference) -> tuple[str, ...]:
    assert pair.brief is not None
    return compared(pair.brief, pair.chosen, pair.rejected)


def bootstrap(pairs: Sequence[Preference], count: int, seed: int) -> list[Preference]:
    """`count` pairs drawn with replacement, each as often as its weight says."""
    weights = np.array([pair.weight for pair in pairs])
    drawn = np.random.default_rng(seed).choice(len(pairs), size=count, p=weights / weights.sum())
    return [pairs[i] for i in drawn]


def of_like_length(data: Dataset, batch_size: int, epochs: int, seed: int) -> Dataset:
    """The pairs as often as they are read, ordered so that a batch holds texts of about one length.

    Padding costs as much as words do, and a headline has a tenth of an e-mail's. Lengths are jittered by a fifth, so
    that the same pairs do not always meet; the order of the batches is random. What fills no batch is read at the end.
    """
    lengths = np.array([max(map(len, pair)) for pair in zip(data["chosen_ids"], data["rejected_ids"], strict=True)])
    rng, order, over = np.random.default_rng(seed), [], []
    for _ in range(epochs):
        by_length = np.argsort(lengths * rng.uniform(0.8, 1.2, len(lengths)))
        whole = len(lengths) // batch_size * batch_size
        rest = rng.choice(len(lengths), len(lengths) - whole, replace=False)
        batches = by_length[~np.isin(by_length, rest)].reshape(-1, batch_size)
        order += rng.permutation(batches).ravel().tolist()
        over += rest.tolist()
    return data.select(order + over)


def check_read_whole(pairs: Sequence[Preference], tokenizer: Tokenizer, shape: RewardShape) -> None:
    """BadInput where the encoder would not see a text of ours to its end, or would read both of a pair alike."""
    longer = PairEncoder(tokenizer, shape.model_copy(update={"max_tokens": shape.max_tokens + 1}))
    ours = [pair for pair in pairs if pair.brief is not None]
    briefs = [pair.brief for pair in ours]
    all_chosen = longer.encode(briefs, [pair.chosen for pair in ours])
    all_rejected = longer.encode(briefs, [pair.rejected for pair in ours])
    for pair, chosen, rejected in zip(ours, all_chosen, all_rejected, strict=True):
        for text, each in ((pair.chosen, chosen), (pair.rejected, rejected)):
            if len(each.ids) > shape.max_tokens:
                raise BadInput(
                    f"preferences: with its brief, {text[:40]!r}… has more than {shape.max_tokens} tokens, so that its "
                    "end would not be read; shorten the text, or allow more by max_tokens in rm.yaml"
                )
        if chosen.ids == rejected.ids:
            raise BadInput(
                f"preferences: the encoder reads {pair.chosen[:40]!r}… and {pair.rejected[:40]!r}… alike, as they "
                "differ in what it does not see, such as capitals; leave the pair out"
            )


def tokenised(pairs: Sequence[Preference], encoder: PairEncoder) -> Dataset:
    """The pairs as TRL's RewardTrainer takes tokenised ones."""
    briefs = [pair.brief for pair in pairs]
    chosen = encoder.encode(briefs, [pair.chosen for pair in pairs])
    rejected = encoder.encode(briefs, [pair.rejected for pair in pairs])
    return Dataset.from_dict(
        {
            "chosen_ids": [each.ids for each in chosen],
            "rejected_ids": [each.ids for each in rejected],
            "margin": [pair.margin for pair in pairs],
        }
    )
