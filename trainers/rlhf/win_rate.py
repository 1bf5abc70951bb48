"""How often one writer's texts are preferred to another's, with what length would explain taken out.

Length control is that of AlpacaEval 2 (Dubois et al. 2024, "Length-controlled AlpacaEval", https://arxiv.org/abs/
2404.04475): a logistic regression of the preference on a constant and on the difference in length, read off where
texts are equally long. Intervals are percentiles of a bootstrap over briefs, as texts for one brief are no
independent evidence; briefs that differ in the offer alone count as one, since the writer may be told the same. Where
all briefs say the same, a bootstrap knows no doubt, and the exact binomial bound (Clopper & Pearson 1934) takes over:
a brief that says otherwise may be as likely as 1 - 0.025^(1/n) and never be among n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.message import Brief
from churnsaver.errors import BadInput

RESAMPLES = 1000
_RIDGE = 1e-2  # keeps the fit finite where one side wins every time
_STEPS = 25


class Scorer(Protocol):
    """Whoever scores texts for briefs, higher is better."""

    def score(self, briefs: Sequence[Brief], texts: Sequence[str]) -> NDArray[np.float64]:
        """(n,) scores."""
        ...


def win_rate(
    judge: Scorer, briefs: Sequence[Brief], ours: Sequence[str], theirs: Sequence[str], seed: int
) -> dict[str, float]:
    """How often `judge` prefers our text to theirs.

    Each pair is judged in both orders, and a disagreement of the two counts as a tie; ties count half.

    Args:
        briefs: (n,) what both texts were written for; a brief may come several times.

    Returns:
        `win_rate` and `length_controlled`, each with its 95 % interval as `…_low` and `…_high`; `ties` as a share;
        `words_ours`, `words_theirs`; `pairs` and `briefs` as counts.

    Raises:
        BadInput: there is nothing to compare, or the three are not equally many.
    """
    if not len(briefs) == len(ours) == len(theirs) > 0:
        raise BadInput(
            f"a win rate needs one text of ours and one of theirs for every brief; got {len(briefs)} briefs, "
            f"{len(ours)} of our texts and {len(theirs)} of theirs"
        )
    wins = _preferences(judge, briefs, ours, theirs)
    words = np.array([[len(text.split()) for text in texts] for texts in (ours, theirs)], dtype=np.float64)
    longer = words[0] - words[1]
    spread = longer.std()
    length = np.tanh(longer / spread) if spread > 0 else np.zeros_like(longer)
    _, cluster = np.unique([brief.model_dump_json(exclude={"offer"}) for brief in briefs], return_inverse=True)
    found = {"win_rate": float(wins.mean()), "length_controlled": _controlled(wins, length, np.ones(len(wins)))}
    rng = np.random.default_rng(seed)
    n_briefs = int(cluster.max()) + 1
    resampled = np.empty((RESAMPLES, 2))
    for i in range(RESAMPLES):
        drawn = np.bincount(rng.integers(n_briefs, size=n_briefs), minlength=n_briefs).astype(np.float64)[cluster]
        resampled[i] = np.average(wins, weights=drawn), _controlled(wins, length, drawn)
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    if np.ptp(np.bincount(cluster, wins) / np.bincount(cluster)) == 0.0:
        bounds = agreed_bounds(np.array(list(found.values())), n_briefs)
        low, high = np.minimum(low, bounds[0]), np.maximum(high, bounds[1])
    for i, name in enumerate(tuple(found)):
        found |= {f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
    return found | {
        "ties": float((wins == 0.5).mean()),
        "words_ours": float(words[0].mean()),
        "words_theirs": float(words[1].mean()),
        "pairs": len(wins),
        "briefs": n_briefs,
    }


def agreed_bounds(share: Any, clusters: int) -> tuple[Any, Any]:
    """95 % bounds of a share, or several, that is the same in all of so many clusters (Clopper & Pearson)."""
    same = 0.025 ** (1 / clusters)
    return same * share, 1 - same * (1 - share)


def _preferences(
    judge: Scorer, briefs: Sequence[Brief], ours: Sequence[str], theirs: Sequence[str]
) -> NDArray[np.float64]:
    """(n,): 1 where ours is preferred, 0 where theirs is, 0.5 for a tie or where the order decides."""
    first = judge.score(briefs, ours) - judge.score(briefs, theirs)
    second = -(judge.score(briefs, theirs) - judge.score(briefs, ours))
    same = np.array([" ".join(a.split()) == " ".join(b.split()) for a, b in zip(ours, theirs, strict=True)])
    either = (0.5 * (1 + np.sign(first)) + 0.5 * (1 + np.sign(second))) / 2
    return np.where(same, 0.5, either)


def _controlled(wins: NDArray[np.float64], length: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """The win rate at equal length: σ(θ) of wins ~ σ(θ + φ · length), by Newton's method."""
    x = np.stack([np.ones_like(length), length], axis=1)
    beta = np.zeros(2)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        gradient = x.T @ (weight * (wins - p)) - _RIDGE * beta
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        beta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return float(1 / (1 + np.exp(-beta[0])))
