"""What a step of a campaign begins with, and what it brings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.eligibility import ContactState, Reason
from trainers.env.response import Bools, Floats


@dataclass(frozen=True, slots=True)
class Situation:
    """What can be decided about: everything a policy or the hard rules may look at.

    Attributes:
        contact: what the mask was computed from.
        reasons: (n, actions) `Reason` of each joint action.
        observation: (n, features) float32.
    """

    contact: ContactState
    reasons: NDArray[np.uint8]
    observation: NDArray[np.float32]

    @property
    def allowed(self) -> Bools:
        """(n, actions)."""
        return np.equal(self.reasons, Reason.ALLOWED)


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What one step brought, each (n,) but costs.

    Attributes:
        reward_usd: the shaped reward of `trainers.env.dynamics`, 0 for who had left before.
        cash_usd: margin earned less spend and penalties, as drawn; no potential in it.
        costs: (n, constraints) in the order of `params.CONSTRAINTS`, as drawn.
        expected_costs: the same in expectation over acceptance and opt-out, as the reward is.
        decided: was there to be decided about when the step began.
        contacted: contacted, now or booked within the epoch.
        refused: wanted an action that the mask or the shared budget did not admit; not contacted.
        accepted, opted_out, churned: in this step.
    """

    reward_usd: Floats
    cash_usd: Floats
    costs: Floats
    expected_costs: Floats
    decided: Bools
    contacted: Bools
    refused: Bools
    accepted: Bools
    opted_out: Bools
    churned: Bools
