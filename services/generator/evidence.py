"""What outcomes say of a message: how likely it is that it draws more opt-outs than its siblings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A message is retired where this probability is exceeded.
RETIRED_ABOVE = 0.95
# The prior of a message's opt-out rate weighs as much as so many opt-outs, however rare they are: before they are used,
# messages of a brief are taken to differ by less than half of their rate (its standard deviation is 1/√5 of the mean).
# One opt-out, or two, after few uses then say little.
PRIOR_OPT_OUTS = 5.0
# A brief is weighed again when it has drawn half as many opt-outs more. Looking at every one would retire a message for
# nothing in the end, since chance crosses any line that it is held against often enough.
GROWTH = 1.5
# What the rate of a brief is taken for before it has been used: one opt-out in so many uses.
FIRST_USES, FIRST_OPT_OUTS = 50.0, 1.0
# Log-odds of rates that the posteriors are compared over; 0.02 apart, a fraction of the narrowest posterior's width.
LOG_ODDS: NDArray[np.float64] = np.linspace(-16.0, 6.0, 1101)
LOG_RATES, LOG_OTHERS = -np.logaddexp(0.0, -LOG_ODDS), -np.logaddexp(0.0, LOG_ODDS)


@dataclass(frozen=True, slots=True)
class Counts:
    """Contacts with a message, and how many of them were answered by an opt-out."""

    uses: int = 0
    opted_out: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.uses + other.uses, self.opted_out + other.opted_out)


@dataclass(frozen=True, slots=True)
class Finding:
    """A message that is to be retired, and why."""

    message_id: str
    reason: str


class Evidence:
    """What outcomes say against messages, with how much of it was weighed before."""

    def __init__(self) -> None:
        # By brief: between which messages was weighed, and how many opt-outs they had drawn.
        self._weighed: dict[str, tuple[frozenset[str], int]] = {}

    def against(self, brief: str, by_day: Mapping[str, Mapping[int, Counts]]) -> Finding | None:
        """The message of a brief that draws more opt-outs than its siblings, where that is probable enough.

        Args:
            by_day: for each message, of the contacts that were booked on a day.
        """
        counts = since_all_were_used(by_day)
        everybody = sum(counts.values(), Counts())
        if everybody.opted_out < max(GROWTH * self._weighed_before(brief, counts, everybody), 1):
            return None
        self._weighed[brief] = frozenset(counts), everybody.opted_out
        others = {
            each: Counts(everybody.uses - own.uses, everybody.opted_out - own.opted_out) for each, own in counts.items()
        }
        probability, message_id = max((p_more_opt_outs(counts[each], others[each]), each) for each in counts)
        if probability <= RETIRED_ABOVE:
            return None
        own, rest = counts[message_id], others[message_id]
        return Finding(
            message_id,
            f"more opt-outs than its siblings with probability {probability:.3f}: {own.opted_out} of {own.uses} "
            f"against {rest.opted_out} of {rest.uses}",
        )

    def _weighed_before(self, brief: str, counts: Mapping[str, Counts], everybody: Counts) -> int:
        """The opt-outs at the last look; 0 where a message came or went since, for that was another comparison."""
        messages, opted_out = self._weighed.get(brief, (frozenset[str](), 0))
        weighed = min(opted_out, everybody.opted_out) if messages == counts.keys() else 0  # less: Redis lost counts
        self._weighed[brief] = frozenset(counts), weighed
        return weighed


def since_all_were_used(by_day: Mapping[str, Mapping[int, Counts]]) -> dict[str, Counts]:
    """What is counted of the contacts since the last of the messages came into use, but for those never used.

    Opt-outs come days after their contacts: of two equals, the one that was used before the other would look worse.
    """
    began = {
        message: min(used)
        for message, days in by_day.items()
        if (used := [day for day, counts in days.items() if counts.uses > 0])
    }
    since = max(began.values(), default=0)
    return {
        message: sum((counts for day, counts in by_day[message].items() if day >= since), Counts()) for message in began
    }


def p_more_opt_outs(own: Counts, siblings: Counts) -> float:
    """The posterior probability that a message's rate of opt-outs exceeds its siblings' (pooled).

    Both rates have the same prior, Beta(PRIOR_OPT_OUTS, …) with the mean of all messages of the brief: until something
    else is known, a message is as good as the others (empirical Bayes; Gelman et al., Bayesian Data Analysis, 5.1).
    """
    everybody = own + siblings
    rate = (everybody.opted_out + FIRST_OPT_OUTS) / (max(everybody.uses, everybody.opted_out) + FIRST_USES)
    more, less = (_posterior(counts, rate) for counts in (own, siblings))
    return float(more @ (np.cumsum(less) - less / 2.0))


def _posterior(counts: Counts, prior_rate: float) -> NDArray[np.float64]:
    """The posterior's weights over LOG_ODDS, which sum to 1; (points,).

    Over log-odds, the density of Beta(a, b) is proportional to rate^a · (1 − rate)^b.
    """
    a = PRIOR_OPT_OUTS + counts.opted_out
    b = PRIOR_OPT_OUTS * (1.0 / prior_rate - 1.0) + max(counts.uses - counts.opted_out, 0)
    log_density = a * LOG_RATES + b * LOG_OTHERS
    density = np.exp(log_density - log_density.max())
    weights: NDArray[np.float64] = density / density.sum()
    return weights
