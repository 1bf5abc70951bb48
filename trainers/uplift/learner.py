"""What every uplift learner does, ours and others'."""

from __future__ import annotations

from typing import Protocol

from churnsaver.models.uplift import UpliftTrees
from trainers.uplift.boosting import Bools, Floats, Matrix


class Scorer(Protocol):
    """Something that gives each customer a number by which to order them."""

    def uplift(self, matrix: Matrix, /) -> Floats:
        """The score of each row of `matrix` (n, features), (n,); an uplift in probability where it is one."""
        ...


class UpliftLearner(Protocol):
    """A way to learn by how much a contact changes the probability of an outcome."""

    def fit(self, matrix: Matrix, treatment: Bools, outcome: Bools, propensity: Floats) -> Scorer:
        """Learns from an experiment.

        Args:
            matrix: (n, features), categories as codes, NaN missing.
            treatment: (n,) whether a row was contacted.
            outcome: (n,) whether it said yes.
            propensity: (n,) the probability with which it was contacted, inside (0, 1).
        """
        ...


class TreeLearner(UpliftLearner, Protocol):
    """One of ours: what it learns can be kept in a checkpoint."""

    def fit(self, matrix: Matrix, treatment: Bools, outcome: Bools, propensity: Floats) -> UpliftTrees: ...
