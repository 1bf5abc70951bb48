"""What the simulator asks of a policy; `OnnxPolicy` follows it too."""

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
        probabilities = np.zeros(allowed.shape)
        probabilities[:, NO_CONTACT] = 1.0
        return probabilities
