"""The gateway's baseline: a logistic regression, written out as a `Scorecard`."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from churnsaver.domain.money import offer_cost_cents, retained_value_usd
from churnsaver.domain.schema import NUMERIC_ROLES, Role
from churnsaver.domain.scorecard import NumericTerm, Scorecard
from churnsaver.domain.world import Offer, World
from churnsaver.models.calibration import sigmoid
from trainers.data import Dataset

DEFAULT_CAMPAIGN = "default"
MAX_ITERATIONS = 2000


def fit_scorecard(dataset: Dataset, world: World) -> Scorecard:
    """A scorecard fitted on every row of `dataset`, with the baseline's offer and threshold for `world`."""
    schema = dataset.schema
    target = dataset.yes(Role.LABEL)
    scales = _scales(dataset)
    blocks = [_standardised(dataset, name, *scale) for name, scale in scales.items()]
    blocks += [_one_hot(dataset, name) for name in schema.names(Role.CATEGORICAL)]
    model = LogisticRegression(C=1.0, max_iter=MAX_ITERATIONS).fit(np.column_stack(blocks), target)
    weights = iter(model.coef_[0].tolist())
    numeric = {name: NumericTerm(mean=mean, std=std, weight=next(weights)) for name, (mean, std) in scales.items()}
    categorical = {
        name: {category: next(weights) for category in schema.columns[name].categories or ()}
        for name in schema.names(Role.CATEGORICAL)
    }
    offer = baseline_offer(world)
    card = Scorecard(
        version="",
        dataset=schema,
        intercept=float(model.intercept_[0]),
        numeric=numeric,
        categorical=categorical,
        threshold=0.0,
        offer=offer.id,
    )
    risk = scorecard_risk(card, dataset)
    card = card.model_copy(update={"threshold": baseline_threshold(world, offer, risk, dataset.monthly_usd())})
    digest = hashlib.sha256(card.model_dump_json().encode()).hexdigest()
    return card.model_copy(update={"version": f"scorecard-{digest[:12]}"})


def scorecard_risk(card: Scorecard, dataset: Dataset) -> NDArray[np.float64]:
    """What the gateway's baseline would say of each row, (n,): `Scorecard.risk`, column by column."""
    log_odds = np.full(len(dataset), card.intercept)
    for name, term in card.numeric.items():
        log_odds += term.weight * (dataset.frame[name].fill_null(term.mean).to_numpy() - term.mean) / term.std
    for name, weights in card.categorical.items():
        log_odds += dataset.frame[name].replace_strict(weights, default=0.0, return_dtype=pl.Float64).to_numpy()
    return sigmoid(log_odds)


def baseline_offer(world: World) -> Offer:
    """The smallest discount; where the world has none, its first offer."""
    discounts = [offer for offer in world.offers if offer.discount_fraction * offer.months > 0]
    return min(discounts or world.offers[:1], key=lambda offer: offer.discount_fraction * offer.months)


def baseline_threshold(
    world: World, offer: Offer, risk: NDArray[np.float64], monthly_usd: NDArray[np.float64]
) -> float:
    """The risk from which the baseline contacts: the riskiest customers that the budget pays for once.

    Never below the risk at which the offer costs more than the customer who stays is worth. `risk` and
    `monthly_usd` are (n,), of customers like those of the default campaign.
    """
    campaign = world.campaigns.get(DEFAULT_CAMPAIGN) or next(iter(world.campaigns.values()))
    cost_usd = offer_cost_cents(offer, monthly_usd) / 100.0
    budget_usd = campaign.budget_cents / 100.0 * len(risk) / campaign.customers
    riskiest = np.argsort(-risk, kind="stable")
    affordable = int(np.searchsorted(np.cumsum(cost_usd[riskiest]), budget_usd, side="right"))
    from_budget = float(risk[riskiest[min(affordable, len(risk) - 1)]])
    value_usd = retained_value_usd(world, monthly_usd)
    break_even = float(cost_usd.sum() / value_usd.sum()) if value_usd.sum() > 0 else 0.0
    return min(1.0, max(from_budget, break_even))


def _scales(dataset: Dataset) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each numeric column; a constant column is left unscaled."""
    scales = {}
    for name in dataset.schema.names(*NUMERIC_ROLES):
        values = dataset.frame[name].drop_nulls().to_numpy()
        std = float(values.std()) if values.size else 0.0
        scales[name] = (float(values.mean()) if values.size else 0.0, std if std > 0 else 1.0)
    return scales


def _standardised(dataset: Dataset, name: str, mean: float, std: float) -> NDArray[np.float64]:
    """(n, 1); a missing value stands at the mean, as in `NumericTerm`."""
    values = dataset.frame[name].fill_null(mean).to_numpy()
    return np.asarray((values - mean) / std, dtype=np.float64)[:, None]


def _one_hot(dataset: Dataset, name: str) -> NDArray[np.float64]:
    """(n, categories); a missing value is all zero, as in `Scorecard.risk`."""
    values = dataset.frame[name].to_numpy()
    categories = dataset.schema.columns[name].categories or ()
    return np.column_stack([values == category for category in categories]).astype(np.float64)
