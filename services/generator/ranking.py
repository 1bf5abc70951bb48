"""From raw candidates to bodies worth reviewing, best first."""

from __future__ import annotations

from collections.abc import Iterable

from churnsaver.domain.message import MessageBook
from services.generator import metrics
from services.generator.body import Rejected, body_of, on_purpose
from services.generator.engine import Candidate
from services.generator.prompt import Cell

# In nats a token: a body that speaks of the offer's purpose goes before one that the model was this much
# surer of but that could stand in any message.
ON_PURPOSE_BONUS = 1.0
# Less likely than this, in nats a token, and the model was guessing: what it wrote is hardly ever good English.
MIN_LOG_PROB = -1.1


def ranked_bodies(candidates: Iterable[Candidate], book: MessageBook, cell: Cell) -> dict[str, float]:
    """The bodies that candidates hold and their scores, best first; what is rejected is counted by reason.

    The score is the mean log-probability of a candidate's tokens, plus a bonus where the body is on purpose,
    until a reward model ranks them.
    """
    scores: dict[str, float] = {}
    for candidate in candidates:
        try:
            if candidate.score < MIN_LOG_PROB:
                raise Rejected("unlikely")  # noqa: TRY301 - counted with the others
            body = body_of(candidate.text, book, cell)
        except Rejected as reason:
            metrics.REJECTED.labels(str(reason)).inc()
            continue
        score = candidate.score + ON_PURPOSE_BONUS * on_purpose(body, cell)
        scores[body] = max(score, scores.get(body, score))
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))
