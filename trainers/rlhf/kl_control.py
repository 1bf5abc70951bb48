"""How far the policy may go from the text it started from: an adaptive price on the KL divergence.

Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", section 2.2, https://arxiv.org/abs/1909.08593:
a proportional controller in log space, with its error clipped to ±20 % so that one odd batch moves little.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, Field

from churnsaver.domain.world import Frozen

MAX_ERROR = 0.2


def _above_zero(what: str, why: str) -> AfterValidator:
    """Refuses what would crash the controller or let it run away, and says why."""

    def check(value: float) -> float:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{what} of {value:g} {why}")
        return value

    return AfterValidator(check)


class KlSettings(Frozen):
    """How the price is set.

    Attributes:
        coefficient: the price to begin with, in the reward's units a nat.
        target: nats a text, summed over its tokens, that the policy is to be from the reference.
        horizon: texts over which a constant error of 20 % changes the price by about a fifth; one update changes it by
            no more, however many texts it follows.
    """

    coefficient: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    target: Annotated[
        float,
        _above_zero(
            "a target KL",
            "leaves nothing to change (the controller divides by it); expected nats a text above 0, such as 3",
        ),
    ]
    horizon: Annotated[
        float,
        _above_zero(
            "a KL horizon",
            "lets the price run away (the controller divides by it); expected texts above 0, such as 500",
        ),
    ]


class KlController:
    """The price of a nat, raised while the policy is further away than its target and lowered while it is nearer.

    Attributes:
        coefficient: the price, in the reward's units a nat.
    """

    def __init__(self, settings: KlSettings) -> None:
        self.coefficient = settings.coefficient
        self._settings = settings

    def update(self, kl: float, texts: int) -> None:
        """Follows the mean divergence of so many texts, in nats a text."""
        error = max(-MAX_ERROR, min(kl / self._settings.target - 1.0, MAX_ERROR))
        # exp for Ziegler's 1 + x, which it equals for small x. A horizon shorter than the texts is as long as they are:
        # they were all written at one price, and say nothing of the next.
        self.coefficient *= math.exp(error * min(texts / self._settings.horizon, 1.0))
