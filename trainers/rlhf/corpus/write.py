"""Corpora and preferences as files: one JSONL a part, and a data card."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from churnsaver.domain.world import Frozen, World
from churnsaver.errors import BadInput
from trainers.rlhf.corpus import PARTS, Corpus, scenario_of, split_of
from trainers.rlhf.corpus.grammar import STYLES
from trainers.rlhf.corpus.similarity import SimilarityIndex
from trainers.rlhf.examples import Preference, WrittenMessage, write_jsonl

CARD = "DATA_CARD.md"
CORPUS_NOTES = """Split by scenario (segment × reason × purpose of the offer × tone × channel), 80/10/10 by hash: no
scenario stands in two parts. `max_similarity` is the highest Jaccard index of the word 3-grams of any two texts.

No personal data: names, offers, dates and opt-outs are slots."""
PREFERENCES_NOTES = """# Preferences that the reward model is trained on

Made with seed {seed}: `{command}`. Of each pair, `chosen` is the better text for the brief, and
`kind` says what is wrong with the other. `longer_preferred` is how often the chosen text is the longer one, which is
what a scorer of lengths alone gets right.

Held-out pairs are of other scenarios and are made with other phrases than training pairs. Headlines and polite
requests, where there are any, come from public data and have no brief. A headline's weight is what its test tells;
the noise ceiling is how often whoever knew the true click rates would agree with what was observed."""


def split_messages(messages: Sequence[WrittenMessage], world: World, source: Path) -> Corpus:
    """Messages by the part of their briefs; BadInput where a part would be empty."""
    corpus = Corpus()
    for message in messages:
        corpus.part(split_of(message.brief, world)).append(message)
    if empty := [part for part in PARTS if not corpus.part(part)]:
        n = len({scenario_of(message.brief, world) for message in messages})
        raise BadInput(
            f"{source}: leaves the part {empty[0]!r} empty, as parts are split by scenario (segment, reason, purpose "
            f"of the offer, tone, channel) and the file has {n} of them; add messages for others"
        )
    return corpus


def write_corpus(corpus: Corpus, world: World, out: Path, source: str) -> dict[str, Any]:
    """Writes `out`/train.jsonl, valid.jsonl, test.jsonl and the card; returns the card's figures.

    Args:
        source: where the messages are from, as the card says it.
    """
    messages = [message for part in PARTS for message in corpus.part(part)]
    index, most = SimilarityIndex(), 0.0
    for message in messages:
        most = max(most, index.nearest(message.text))
        index.add(message.text)
    figures = {
        **{part: len(corpus.part(part)) for part in PARTS},
        "scenarios": len({scenario_of(message.brief, world) for message in messages}),
        "max_similarity": round(most, 4),
        "channels": dict(Counter(message.brief.channel for message in messages)),
        "words": round(sum(len(message.text.split()) for message in messages) / len(messages), 1),
    }
    return figures | _write(out, {part: corpus.part(part) for part in PARTS}, f"{source}\n\n{CORPUS_NOTES}", figures)


def write_preferences(
    parts: Mapping[str, Sequence[Preference]], out: Path, seed: int, command: str, noise_ceiling: float | None
) -> dict[str, Any]:
    """Writes `out`/train.jsonl, valid.jsonl, test.jsonl and the card; returns the card's figures.

    Args:
        command: what was typed, for the card.
    """
    pairs = [pair for part in PARTS for pair in parts[part]]
    kinds = dict.fromkeys(pair.kind for pair in pairs)
    figures: dict[str, Any] = {part: len(parts[part]) for part in PARTS}
    figures["kinds"] = {kind: sum(pair.kind == kind for pair in pairs) for kind in kinds}
    figures["longer_preferred"] = {
        kind: round(_longer([pair for pair in pairs if pair.kind == kind]), 4) for kind in kinds
    }
    if noise_ceiling is not None:
        figures["headline_noise_ceiling"] = round(noise_ceiling, 4)
    return figures | _write(out, parts, PREFERENCES_NOTES.format(seed=seed, command=command), figures)


def approved_source(path: Path) -> str:
    """What a card says of a team's own messages."""
    return (
        "# Messages that the language model is fine-tuned on\n\n"
        f"A team's approved messages, read from {path.name} and held against the shield's rules."
    )


def made_source(seed: int) -> str:
    """What a card says of messages of our own making."""
    shares = ", ".join(f"{share} % {style}" for style, share in STYLES.items())
    return (
        "# Messages that the language model is fine-tuned on\n\n"
        f"Made by the grammar `trainers/rlhf/data/corpus.en.yaml` with `churn-saver data messages --seed {seed}`. All "
        f"pass the shield's rules. Quality is spread on purpose ({shares}), as approved texts of real teams are, so "
        "that tuning on preferences has something to improve."
    )


def _write(out: Path, parts: Mapping[str, Sequence[Frozen]], notes: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for name, value in figures.items():
        each = {f"{name}, {key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        rows += [f"| {key} | {one} |" for key, one in each.items()]
    # The first part, which is the largest, comes last: where it is (make looks for it), all are.
    for part in reversed(PARTS):
        write_jsonl(out / f"{part}.jsonl", parts[part])
        rows.append(
            f"| sha256 of {part}.jsonl | `{hashlib.sha256((out / f'{part}.jsonl').read_bytes()).hexdigest()}` |"
        )
    table = "\n".join(["| | |", "| --- | --- |", *rows])
    try:
        (out / CARD).write_text(f"{notes}\n\n{table}\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{out / CARD}: cannot be written ({error.strerror}); choose another --out") from None
    return {"card": str(out / CARD)}


def _longer(pairs: Sequence[Preference]) -> float:
    def won(pair: Preference) -> float:
        return float(len(pair.chosen) > len(pair.rejected)) + 0.5 * (len(pair.chosen) == len(pair.rejected))

    return sum(map(won, pairs)) / len(pairs)
