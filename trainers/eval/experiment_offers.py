"""Each offer's effect on churn, from first decisions of policies that drew their action with known probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.eligibility import Reason
from churnsaver.domain.world import World
from trainers.eval.experiment_cohort import Cohort
from trainers.eval.experiment_sequences import MIN_TERMS, half_width
from trainers.ope.estimators import mean_of
from trainers.ope.intervals import variance_terms
from trainers.ope.logged import PROPENSITY_FLOOR
from trainers.ope.records import Decision, Log

MIN_EFFECTIVE = 100.0
Floats = NDArray[np.float64]


def offer_effects(cohort: Cohort, log: Log, world: World, alpha: float) -> dict[str, Any]:
    """Churn after each offer less churn after no contact, with confidence sequences.

    Self-normalised by 1/propensity of the drawn action (Hájek 1971), among customers to whom the offer could have
    been made; their first decision only, since later ones follow from it. None where either side is worth fewer
    than MIN_EFFECTIVE customers, or its variance is made of fewer than MIN_TERMS of them.
    """
    space, effects = ActionSpace(world), {}
    drawn = [
        (decision, bool(cohort.churned[i]))
        for i in np.flatnonzero(cohort.followed)
        if (decision := log.decisions[cohort.first[i]]).propensity.policy < 1.0 and decision.mode == "policy"
    ]
    for offer in world.offers:
        with_offer = [action.index for action in space.actions if action.offer is offer]
        eligible = [pair for pair in drawn if _could(pair[0], with_offer)]
        effects[f"offer {offer.id}"] = _effect(eligible, with_offer, alpha)
    return effects


def _could(decision: Decision, actions: list[int]) -> bool:
    return any(decision.mask_reasons[action] == Reason.ALLOWED for action in actions)


def _effect(eligible: list[tuple[Decision, bool]], with_offer: list[int], alpha: float) -> dict[str, Any]:
    actions = np.array([decision.action.index for decision, _ in eligible])
    churned = np.array([churned for _, churned in eligible], dtype=np.float64)
    weights = np.array([1.0 / max(decision.propensity.policy, PROPENSITY_FLOOR) for decision, _ in eligible])
    made, left_alone = np.isin(actions, with_offer), actions == NO_CONTACT
    counts = [int(made.sum()), int(left_alone.sum())]
    nothing = {"customers": counts, "value": None, "low": None, "high": None}
    if min(_effective(weights[made]), _effective(weights[left_alone])) < MIN_EFFECTIVE:
        return nothing
    (first, first_terms), (second, second_terms) = (_hajek(weights, churned, side) for side in (made, left_alone))
    if not all(terms.any() and variance_terms(mean_of(terms)) >= MIN_TERMS for terms in (first_terms, second_terms)):
        return nothing
    half = float(half_width(float(np.var(first_terms - second_terms)), float(len(eligible)), alpha))
    value = first - second
    return {"customers": counts, "value": value, "low": value - half, "high": value + half}


def _effective(weights: Floats) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum()) if weights.size else 0.0


def _hajek(weights: Floats, outcomes: Floats, side: NDArray[np.bool_]) -> tuple[float, Floats]:
    """Weighted mean over one side, and each customer's term in its error, (n,)."""
    shown = np.where(side, weights, 0.0)
    mean = float((shown * outcomes).sum() / shown.sum())
    return mean, np.asarray(shown * (outcomes - mean) / shown.mean(), dtype=np.float64)
