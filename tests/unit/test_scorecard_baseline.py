"""The scorecard: what the gateway's baseline computes is what training fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from churnsaver.checkpoints import open_checkpoint
from churnsaver.domain.schema import Role
from churnsaver.domain.scorecard import Scorecard
from churnsaver.domain.world import Campaign
from churnsaver.settings import load_schema, load_world
from tests.support.decision import CUSTOMER, SCHEMAS
from trainers.data import Dataset, Part, load_dataset
from trainers.eval.metrics import auc
from trainers.models.scorecard import baseline_offer, baseline_threshold, fit_scorecard, scorecard_risk


@pytest.fixture(scope="module")
def customers(decision_checkpoints: Path) -> Dataset:
    """The simulated customers that the checkpoints were trained on."""
    return load_dataset(decision_checkpoints / "customers.csv", load_schema(SCHEMAS / "default.yaml"))


@pytest.fixture(scope="module")
def card(customers: Dataset) -> Scorecard:
    return fit_scorecard(customers.take(Part.TRAIN, Part.VALID), load_world())


def test_scorecard_is_the_logistic_regression(customers: Dataset, card: Scorecard) -> None:
    """Written-out weights give scikit-learn's probabilities, missing values included."""
    fit = customers.take(Part.TRAIN, Part.VALID)
    columns = []
    for name, term in card.numeric.items():
        columns.append((fit.frame[name].fill_null(term.mean).to_numpy() - term.mean) / term.std)
    for name, weights in card.categorical.items():
        columns += [(fit.frame[name] == category).to_numpy().astype(float) for category in weights]
    design = np.column_stack(columns)
    model = LogisticRegression(C=1.0, max_iter=2000).fit(design, fit.yes(Role.LABEL))
    np.testing.assert_allclose(scorecard_risk(card, fit), model.predict_proba(design)[:, 1], atol=1e-9)


def test_scorecard_ranks_held_out_customers(customers: Dataset, card: Scorecard) -> None:
    """It is a risk model, if a simple one."""
    test = customers.take(Part.TEST)
    assert auc(test.yes(Role.LABEL), scorecard_risk(card, test)) > 0.65


def test_checkpoint_carries_it(decision_checkpoints: Path, card: Scorecard) -> None:
    """The risk checkpoint's scorecard is the one that was fitted on the same rows, JSON and back."""
    opened = open_checkpoint(decision_checkpoints / "risk", "risk")
    assert Scorecard.model_validate(opened.read_json("scorecard.json")) == card
    assert card.version.startswith("scorecard-")


def test_missing_and_extreme_values_are_harmless(card: Scorecard) -> None:
    """A missing value adds nothing; absurd numbers saturate without overflow."""
    assert 0.0 < card.risk(CUSTOMER) < 1.0
    assert card.risk({**CUSTOMER, "satisfaction": None}) == card.risk(
        {k: CUSTOMER[k] for k in CUSTOMER if k != "satisfaction"}
    )
    for calls in (1e12, -1e12):
        assert card.risk({**CUSTOMER, "support_calls_90d": calls}) in {0.0, 1.0}


def test_baseline_offers_the_smallest_discount() -> None:
    """Of the shipped offers that is discount_10; without discounts, the first offer."""
    world = load_world()
    assert baseline_offer(world).id == "discount_10"
    free = world.model_copy(update={"offers": (world.offers[4],)})
    assert baseline_offer(free).id == "bonus_pack"


def test_threshold_spends_the_budget_once() -> None:
    """Customers from the threshold up cost about the budget that was planned for as many customers."""
    world, rng = load_world(), np.random.default_rng(42)
    world = world.model_copy(update={"campaigns": {"default": Campaign(budget_cents=5_000_000, customers=5000)}})
    risk, monthly_usd = rng.beta(1.0, 3.0, 5000), rng.uniform(20.0, 120.0, 5000)
    threshold = baseline_threshold(world, baseline_offer(world), risk, monthly_usd)
    spent_usd = (0.3 * monthly_usd)[risk > threshold].sum()
    assert spent_usd == pytest.approx(world.campaigns["default"].budget_cents / 100.0, rel=0.01)


def test_threshold_never_pays_more_than_a_customer_is_worth() -> None:
    """With money for everyone, contact starts where the risk times the value covers the offer."""
    world = load_world()
    rich = world.model_copy(
        update={"campaigns": {"default": world.campaigns["default"].model_copy(update={"budget_cents": 10**12})}}
    )
    threshold = baseline_threshold(rich, baseline_offer(rich), np.linspace(0.0, 0.5, 100), np.full(100, 50.0))
    assert threshold == pytest.approx(0.3 / (12 * 0.55))  # three tenths of a month against twelve at 55 % margin
