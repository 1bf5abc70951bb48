"""Scores of a reward model's members by torch, and their calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from churnsaver.domain.message import Brief
from churnsaver.reward.encoding import PairEncoder
from trainers.rlhf.examples import Preference

BATCH = 32
Floats = NDArray[np.float64]


@torch.no_grad()
def torch_scores(
    model: Any, encoder: PairEncoder, pad: int, briefs: Sequence[Brief | None], drafts: Sequence[str]
) -> Floats:
    """A member's raw scores, (drafts,), by torch."""
    model.eval()
    encoded = encoder.encode(briefs, drafts)
    scores = np.empty(len(encoded))
    order = np.argsort([len(each.ids) for each in encoded], kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]

        def padded(lists: list[list[int]], value: int) -> torch.Tensor:
            tensors = [torch.tensor(each) for each in lists]
            stacked = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
            return stacked.to(model.device)

        logits = model(
            input_ids=padded([encoded[i].ids for i in rows], pad),
            attention_mask=padded([encoded[i].attention_mask for i in rows], 0),
            token_type_ids=padded([encoded[i].type_ids for i in rows], 0),
        ).logits
        scores[rows] = logits.squeeze(-1).float().cpu().numpy()
    return scores


def pair_scores(model: Any, encoder: PairEncoder, pad: int, pairs: Sequence[Preference]) -> Floats:
    """Raw scores of the chosen and the rejected texts, (pairs, 2)."""
    briefs = [pair.brief for pair in pairs]
    chosen = torch_scores(model, encoder, pad, briefs, [pair.chosen for pair in pairs])
    return np.stack([chosen, torch_scores(model, encoder, pad, briefs, [pair.rejected for pair in pairs])], axis=-1)


def fitted_temperature(differences: Floats) -> float:
    """The T > 0 for which σ(difference / T) is likeliest, of differences chosen - rejected.

    One pair in n + 2 counts the other way round, as with Platt (1999): where all are right, T stays above 0.
    """
    wrong = 1.0 / (len(differences) + 2)

    def loss(log_t: float) -> float:
        odds = differences / math.exp(log_t)
        return float(((1.0 - wrong) * np.logaddexp(0.0, -odds) + wrong * np.logaddexp(0.0, odds)).mean())

    return math.exp(minimize_scalar(loss, bounds=(-6.0, 6.0)).x)


def golden_cases(pairs: Sequence[Preference], scores: Floats) -> list[dict[str, Any]]:
    """Briefs and texts with their calibrated scores, of `scores` (pairs, 2, members)."""
    return [
        {"brief": pair.brief.model_dump(), "text": text, "scores": [round(float(score), 6) for score in row]}
        for pair, both in zip(pairs, scores, strict=False)
        if pair.brief is not None
        for text, row in zip((pair.chosen, pair.rejected), both, strict=True)
    ]
