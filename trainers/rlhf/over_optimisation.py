"""When to stop: the reward still rises on held-out briefs, and a judge that shares nothing with it likes them less.

Gao et al. 2023, "Scaling Laws for Reward Model Overoptimization": whatever a policy optimises long enough, the proxy
and what it stands for part ways. The judge has a veto only. It never chooses among policies, so that its verdict on
the one that is kept stays near to one of a stranger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from churnsaver.domain.world import Frozen


@dataclass(frozen=True, slots=True)
class Check:
    """A look at held-out briefs.

    Attributes:
        iteration: after which it was.
        proxy: mean reward.
        judge, judge_error: mean score of the judge and its standard error.
    """

    iteration: int
    proxy: float
    judge: float
    judge_error: float


class StopSettings(Frozen):
    """When to look and when to stop.

    Attributes:
        every: iterations between two looks; the last is looked at as well.
        briefs: held-out briefs that are looked at, the same each time.
        window: looks that are compared, its later half with its earlier one.
        standard_errors: by which the judge's mean must have fallen.
    """

    every: Annotated[int, Field(ge=1)]
    briefs: Annotated[int, Field(ge=2)]
    window: Annotated[int, Field(ge=2, multiple_of=2)]
    standard_errors: Annotated[float, Field(ge=0, allow_inf_nan=False)]


def over_optimised(checks: Sequence[Check], settings: StopSettings) -> bool:
    """Whether the last `window` looks say so: proxy up, judge down by more than chance."""
    if len(checks) < settings.window:
        return False
    half = settings.window // 2
    earlier, later = checks[-settings.window : -half], checks[-half:]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    rise = mean([check.proxy for check in later]) - mean([check.proxy for check in earlier])
    fall = mean([check.judge for check in earlier]) - mean([check.judge for check in later])
    # The looks share their briefs, so this error is an upper bound of the difference's.
    error = math.sqrt(2.0 * mean([check.judge_error**2 for check in (*earlier, *later)]) / half)
    return rise > 0 and fall > settings.standard_errors * error
