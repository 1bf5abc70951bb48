"""What the simulator and the decision service ask of a policy; `OnnxPolicy` follows it too."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT


class Policy(Protocol):
    """Sees what the services see, and answers with a distribution."""

    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Probability of each joint action, (n, actions), zero where `allowed` (n, actions) is False."""
        ...


class NeverContact:
    """The floor: what happens anyway."""

    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """All on "do not contact", (n, actions)."""
        return certain(np.full(len(allowed), NO_CONTACT), allowed.shape[1])


def certain(actions: NDArray[np.int64], n_actions: int) -> NDArray[np.float64]:
    """Probability 1 for one action of each customer, (n, n_actions)."""
    probabilities = np.zeros((len(actions), n_actions))
    probabilities[np.arange(len(actions)), actions] = 1.0
    return probabilities
