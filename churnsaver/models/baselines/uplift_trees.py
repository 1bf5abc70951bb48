"""The uplift baseline: a forest of uplift trees says what each offer would change, money says which is worth it.

Trees are grown by CausalML in `trainers.agents.baselines` and served as arrays, so that no such library is needed.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from churnsaver.domain.actions import NO_CONTACT
from churnsaver.domain.money import retained_value_usd
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import Frozen, World
from churnsaver.models.baselines.pacing import Pacing, Schedule
from churnsaver.models.baselines.policy import certain
from churnsaver.models.baselines.spend import ExpectedSpend, Worth

Finite = Annotated[float, Field(allow_inf_nan=False)]
Uplift = Annotated[float, Field(ge=-1, le=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class UpliftTree(Frozen):
    """One tree; its nodes in an order in which children come after their parents, the root first.

    Attributes:
        feature, threshold: of each node: left where feature ≤ threshold. Not read at a leaf.
        left, right: numbers of the children; a leaf is its own child, on both sides.
        uplift: of each node, P(stays | offer) - P(stays | no contact) for each offer.
    """

    feature: tuple[NonNegativeInt, ...]
    threshold: tuple[Finite, ...]
    left: tuple[NonNegativeInt, ...]
    right: tuple[NonNegativeInt, ...]
    uplift: Annotated[tuple[tuple[Uplift, ...], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_a_tree(self) -> Self:
        n = len(self.uplift)
        if {len(self.feature), len(self.threshold), len(self.left), len(self.right)} != {n}:
            raise ValueError("feature, threshold, left, right and uplift must be equally many")
        for node, (left, right) in enumerate(zip(self.left, self.right, strict=True)):
            if not (left == right == node or node < min(left, right) <= max(left, right) < n):
                raise ValueError(f"node {node} has children {left} and {right}; expected itself twice or later nodes")
        return self


class UpliftTreesSpec(Frozen):
    """Everything that the policy is.

    Attributes:
        features: columns of the observation, in the order of the trees' numbers.
    """

    kind: Literal["uplift_trees"] = "uplift_trees"
    features: Annotated[tuple[str, ...], Field(min_length=1)]
    trees: Annotated[tuple[UpliftTree, ...], Field(min_length=1)]
    worth: Worth
    pacing: Pacing

    @model_validator(mode="after")
    def _reads_its_features(self) -> Self:
        if any(max(tree.feature) >= len(self.features) for tree in self.trees):
            raise ValueError(f"a tree reads a feature beyond the {len(self.features)} that there are")
        return self


class UpliftForest:
    """The trees of a spec side by side, walked level by level for all customers at once."""

    def __init__(self, trees: tuple[UpliftTree, ...]) -> None:
        sizes = [len(tree.uplift) for tree in trees]
        self._roots = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._feature = np.concatenate([tree.feature for tree in trees])
        self._threshold = np.concatenate([tree.threshold for tree in trees])
        self._left = np.concatenate([np.add(tree.left, root) for tree, root in zip(trees, self._roots, strict=True)])
        self._right = np.concatenate([np.add(tree.right, root) for tree, root in zip(trees, self._roots, strict=True)])
        self._uplift = np.concatenate([tree.uplift for tree in trees])
        self._levels = max(_levels(tree) for tree in trees)

    def uplift(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean over the trees of each offer's uplift, (n, offers), from (n, features)."""
        rows = np.arange(len(features))[:, None]
        node = np.tile(self._roots, (len(features), 1))  # (n, trees)
        for _ in range(self._levels):
            goes_left = features[rows, self._feature[node]] <= self._threshold[node]
            node = np.where(goes_left, self._left[node], self._right[node])
        return np.asarray(self._uplift[node].mean(axis=1), dtype=np.float64)


class UpliftTreesPolicy:
    """Makes the offer whose uplift is worth most above the hurdle; deterministic."""

    def __init__(self, world: World, spec: UpliftTreesSpec) -> None:
        names = observation_names(world)
        self.spec, self._world = spec, world
        self._columns = [names.index(name) for name in spec.features]
        self._spend = ExpectedSpend(world)
        if any(len(node) != len(world.offers) for tree in spec.trees for node in tree.uplift):
            raise ValueError(f"the trees know another number of offers than the {len(world.offers)} of the world")
        self._forest = UpliftForest(spec.trees)
        self._schedule = Schedule(world, spec.pacing)

    def values_usd(self, observation: NDArray[np.float32]) -> NDArray[np.float64]:
        """What each offer is expected to bring against no contact, net of its cost, (n, offers)."""
        uplift = self._forest.uplift(observation[:, self._columns])
        stayer_usd = retained_value_usd(self._world, self._spend.monthly_usd(observation))
        return uplift * stayer_usd[:, None] - self._spend.usd(observation)

    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """One action of each customer has probability 1, (n, actions)."""
        actions = self._schedule.actions(observation, allowed)  # (n, offers)
        priced = self.values_usd(observation) - self.spec.worth.spend_price * self._spend.usd(observation)
        priced = np.where(actions == NO_CONTACT, -np.inf, priced)
        rows, best = np.arange(len(priced)), priced.argmax(axis=1)
        worth = priced[rows, best] > self.spec.worth.hurdle_usd
        return certain(np.where(worth, actions[rows, best], NO_CONTACT), allowed.shape[1])


def _levels(tree: UpliftTree) -> int:
    """How many steps lead from the root to the deepest leaf."""
    depth = [0] * len(tree.uplift)
    for node, children in enumerate(zip(tree.left, tree.right, strict=True)):
        for child in children:
            depth[child] = depth[node] + (child != node)
    return max(depth)
