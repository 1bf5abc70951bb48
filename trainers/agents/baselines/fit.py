"""Fits the three baselines on one pilot: CausalML's uplift trees, Thompson sampling's posterior, the hour to send."""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.eligibility import in_quiet_hours
from churnsaver.domain.world import HOURS_PER_DAY, World
from churnsaver.models.baselines.thompson import Posterior, Scaling, quadratic
from churnsaver.models.baselines.uplift_trees import UpliftTree
from trainers.agents.baselines.pilot import Pilot, columns

# What the acceptance model says of a customer is a function of these three, so it adds nothing to them.
FEATURES = ("risk", "log_monthly_usd", "log_tenure_months")
TREES = 20
TREE_DEPTH = 4
MIN_LEAF = 800  # customers
PRIOR_STD_USD = 10.0  # of a standardised coefficient: a contact is worth dollars, not hundreds of them
NO_OFFER = "none"


def best_send_hour(world: World, pilot: Pilot) -> float:
    """The local hour outside the quiet hours at which most accept: the best of a daily wave, by least squares.

    Each offer has its own level, and every hour waited costs the same.
    """
    contacted = pilot.offer >= 0
    levels = np.eye(len(world.offers))[pilot.offer[contacted]]
    design = np.column_stack([_wave(pilot.send_hour[contacted]), pilot.delay_hours[contacted], levels])
    coefficients = np.linalg.lstsq(design, pilot.accepted[contacted].astype(np.float64), rcond=None)[0]
    hours = np.arange(0.0, HOURS_PER_DAY, 0.25)
    hours = hours[~in_quiet_hours(world.contact_rules.quiet_hours, hours)]
    return float(hours[(_wave(hours) @ coefficients[:2]).argmax()]) if hours.size else 0.0


def _wave(hours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sine and cosine of the time of day, (n, 2)."""
    angle = hours * 2.0 * np.pi / HOURS_PER_DAY
    return np.column_stack([np.sin(angle), np.cos(angle)])


def fit_uplift_trees(world: World, pilot: Pilot, seed: int) -> tuple[UpliftTree, ...]:
    """A forest of CausalML's uplift trees (Rzepakowski & Jaroszewicz 2012, KL divergence) on who stayed, as arrays."""
    features = pilot.observation[:, columns(world, FEATURES)]
    forest = grow_forest(features, pilot.offer, pilot.stayed, seed)
    return tuple(export_tree(tree.tree_, len(world.offers)) for tree in forest.estimators_)


def grow_forest(features: NDArray[np.float32], offer: NDArray[np.int64], stayed: NDArray[np.bool_], seed: int) -> Any:
    """CausalML's forest; its treatments are the offers' numbers as texts that sort as the numbers do."""
    classifier = _causalml_forest()(
        control_name=NO_OFFER,
        n_estimators=TREES,
        max_depth=TREE_DEPTH,
        min_samples_leaf=MIN_LEAF,
        max_features=features.shape[1],
        random_state=seed,
    )
    treatment = np.array([NO_OFFER, *(f"{number:04d}" for number in range(offer.max() + 1))])[offer + 1]
    return classifier.fit(features, treatment=treatment, y=stayed.astype(np.int64))


def export_tree(tree: Any, n_offers: int) -> UpliftTree:
    """One of CausalML's kernel trees as a served one. Its values are (nodes, 1 + offers, 1): P(stays | group)."""
    stays = np.nan_to_num(tree.value[:, :, 0], nan=0.0)  # as its forest counts a group that a leaf has not seen
    if stays.shape[1] != 1 + n_offers:
        raise ValueError(f"a tree knows {stays.shape[1] - 1} of {n_offers} offers; the pilot is too small")
    leaf = tree.children_left < 0
    itself = np.arange(len(leaf))
    return UpliftTree(
        feature=tuple(np.where(leaf, 0, tree.feature).tolist()),
        threshold=tuple(np.where(leaf, 0.0, tree.threshold).tolist()),
        left=tuple(np.where(leaf, itself, tree.children_left).tolist()),
        right=tuple(np.where(leaf, itself, tree.children_right).tolist()),
        uplift=tuple(tuple(row) for row in (stays[:, 1:] - stays[:, :1]).tolist()),
    )


def _causalml_forest() -> Any:
    """The class; its import takes seconds, warns of plots that nobody draws and misses a package for citations."""
    logging.getLogger("duecredit").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The set_", PendingDeprecationWarning, r"shap\.plots\.colors")
        tree = importlib.import_module("causalml.inference.tree")
    return tree.UpliftRandomForestClassifier


def fit_posteriors(world: World, pilot: Pilot) -> tuple[tuple[Scaling, ...], tuple[Posterior, ...]]:
    """Conjugate Bayesian linear regression of each offer's value on the customer's features.

    With noise variance s² and prior N(0, τ² I): covariance Σ = (XᵀX / s² + I / τ²)⁻¹, mean Σ Xᵀy / s²
    (Bishop 2006, 3.49 to 3.54); s² is that of the least-squares residuals.
    """
    features = pilot.observation[:, columns(world, FEATURES)].astype(np.float64)
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-9
    terms = quadratic((features - mean) / std)
    scaling = tuple(
        Scaling(name=name, mean=float(m), std=float(s)) for name, m, s in zip(FEATURES, mean, std, strict=True)
    )
    rows = (pilot.offer == number for number in range(len(world.offers)))
    return scaling, tuple(_posterior(terms[which], pilot.value_usd[which]) for which in rows)


def _posterior(terms: NDArray[np.float64], value_usd: NDArray[np.float64]) -> Posterior:
    fitted = np.linalg.lstsq(terms, value_usd, rcond=None)[0]
    noise = np.square(value_usd - terms @ fitted).mean() + 1e-9
    precision = terms.T @ terms / noise + np.eye(terms.shape[1]) / PRIOR_STD_USD**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ (terms.T @ value_usd) / noise
    lower = np.linalg.cholesky((covariance + covariance.T) / 2.0)
    return Posterior(mean=tuple(mean.tolist()), cholesky=tuple(tuple(row) for row in lower.tolist()))
