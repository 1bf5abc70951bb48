"""From what the model wrote to drafts worth reviewing, best first."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.message import Brief
from churnsaver.domain.writing import form_fault
from services.generator import metrics
from services.generator.engine import Candidate

# Of 5,670 messages that a person would approve, none says the same three words more than three times.
RUN_WORDS, MOST_OF_A_RUN = 3, 3
# No channel carries as much; looking for what is repeated in more would take longer than a request has.
MOST_CHARS = 5_000


class Reward(Protocol):
    """What says how good drafts are; see `churnsaver.reward`."""

    def scores(self, briefs: list[Brief | None], drafts: list[str]) -> NDArray[np.float64]:
        """(drafts, members), higher is better."""
        ...


async def ranked_drafts(candidates: Iterable[Candidate], brief: Brief, reward: Reward) -> dict[str, float]:
    """The drafts among the candidates and their scores, best first; what is no draft is counted by reason.

    The score is the reward ensemble's mean less its standard deviation, as the writer was paid in training: where the
    members disagree, a text is unlike those that people compared.
    """
    drafts: dict[str, None] = {}
    for candidate in candidates:
        if (fault := _fault(candidate, brief)) is None:
            drafts[candidate.text] = None
        else:
            metrics.REJECTED.labels(fault).inc()
    if not drafts:
        return {}
    # In a thread: some dozen milliseconds of the processor, in which requests are answered.
    members = await asyncio.to_thread(reward.scores, [brief] * len(drafts), list(drafts))
    scores = dict(zip(drafts, (members.mean(axis=1) - members.std(axis=1)).tolist(), strict=True))
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def _fault(candidate: Candidate, brief: Brief) -> str | None:
    """Why a text is no draft for its channel; what it says is for the shield to judge."""
    if not candidate.ended:
        return "unfinished"
    if len(candidate.text) > MOST_CHARS:
        return "length"
    return form_fault(candidate.text, brief.channel) or ("repetition" if _repeats(candidate.text) else None)


def _repeats(draft: str) -> bool:
    """Whether some run of words comes too often: a model that has lost its way says one thing over and over."""
    words = draft.lower().split()
    runs = Counter(zip(*(words[start:] for start in range(RUN_WORDS)), strict=False))
    return max(runs.values(), default=0) > MOST_OF_A_RUN
