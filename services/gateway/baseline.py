"""The propensity baseline: who is likely enough to leave gets the scorecard's offer as soon as allowed.

It is deterministic and lives in the gateway, so that it answers when nothing else does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT, Action, ActionSpace
from churnsaver.domain.eligibility import Reason
from churnsaver.domain.scorecard import Scorecard


class ServedScorecard(Scorecard):
    """A scorecard and the risk checkpoint that holds it."""

    checkpoint_version: str
    checkpoint_sha256: str

    @property
    def versions(self) -> dict[str, str]:
        """What takes part in a baseline decision, by kind."""
        return {"policy": "baseline-propensity", "risk": self.checkpoint_version, "scorecard": self.version}

    @property
    def sha256(self) -> dict[str, str]:
        """The hash of the checkpoint, by kind."""
        return {"risk": self.checkpoint_sha256}


def propensity_threshold(actions: ActionSpace, scorecard: Scorecard, risk: float, reasons: NDArray[np.uint8]) -> Action:
    """The baseline's action for one customer; `reasons` is their row of the mask, shape (actions,)."""
    if risk < scorecard.threshold:
        return actions[NO_CONTACT]
    choices = (actions[actions.index_of(scorecard.offer, delay)] for delay in actions.delays_hours)
    allowed = (action for action in choices if reasons[action.index] == Reason.ALLOWED)
    return next(allowed, actions[NO_CONTACT])
