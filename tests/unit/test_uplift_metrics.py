"""Uplift metrics: scikit-uplift's numbers, weights that count draws, value by cost, and harm."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklift.metrics import qini_auc_score, uplift_at_k, uplift_auc_score

from trainers.eval.metrics import corrected_interval
from trainers.eval.uplift_metrics import Judge
from trainers.eval.uplift_value import (
    Prices,
    best_percent,
    deciles,
    effect,
    incremental,
    net_incremental_revenue,
    policy_value,
    sleeping_dogs,
    top,
)
from trainers.uplift.choose import order_value
from trainers.uplift.trial import Trial

CASES = ("plain", "ties", "few", "high")
Bools, Floats = NDArray[np.bool_], NDArray[np.float64]


def small(case: str) -> tuple[Bools, Bools, Floats]:
    """Outcome, treatment and score of 40 rows; `ties` has six scores, `few` fewer treated, `high` more yes."""
    i = np.arange(40)
    treatment = i * 7 % 5 < (2 if case == "few" else 3)
    outcome = (i * 11 + CASES.index(case)) % 7 < (5 if case == "high" else 3)
    score = (i * 13 % 6) / 6.0 if case == "ties" else (i * 13 % 29) / 29.0
    return outcome, treatment, score


def trial_with(outcome: Bools, treatment: Bools, propensity: Floats | float = 0.5) -> Trial:
    """A trial whose features do not matter."""
    matrix = np.zeros((len(outcome), 1), dtype=np.float32)
    return Trial(matrix, treatment, outcome, np.broadcast_to(propensity, outcome.shape), ["q"], "by design")


def harmful(rows: int, seed: int) -> tuple[Trial, Floats]:
    """A trial in which a contact gains 0.3 where the score is above zero and loses 0.2 elsewhere, half each."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=rows)
    treatment = rng.random(rows) < 0.5
    outcome = rng.random(rows) < 0.3 + treatment * np.where(score > 0.0, 0.3, -0.2)
    return trial_with(outcome, treatment), score


@pytest.mark.filterwarnings("ignore::FutureWarning")  # what scikit-learn deprecates is scikit-uplift's affair
@pytest.mark.parametrize("case", CASES)
def test_metrics_are_scikit_uplifts(case: str) -> None:
    """Qini, AUUC and uplift at 30 % equal the library's, ties and uneven arms included."""
    outcome, treatment, score = small(case)
    y, t = outcome.astype(int), treatment.astype(int)
    expected = (
        qini_auc_score(y, score, t),
        uplift_auc_score(y, score, t),
        uplift_at_k(y, score, t, strategy="overall", k=0.3),
    )
    judge = Judge(outcome, treatment)
    ranking = judge.ranking(score)
    assert (judge.qini(ranking), judge.auuc(ranking), ranking.at(0.3)) == pytest.approx(expected, abs=1e-9)


def confounded(rows: int, seed: int) -> tuple[Trial, Floats]:
    """A contact does nothing, but goes to those who say yes less; their score is the probability of a contact."""
    rng = np.random.default_rng(seed)
    likely = 0.1 + 0.8 * rng.random(rows)
    treatment = rng.random(rows) < likely
    return trial_with(rng.random(rows) < 0.75 - 0.6 * likely, treatment, likely), likely


def test_who_was_contacted_is_no_harm() -> None:
    """Known propensities that vary leave no effect, no harm and no Qini where plain rates would show all three."""
    covered, qinis, proven = 0, [], 0
    for seed in range(100):
        trial, score = confounded(1500, seed)
        every = effect(trial, np.ones(len(trial), dtype=bool))
        covered += every.low <= 0.0 <= every.high
        proven += sleeping_dogs(trial, score)["provably_harmed_percent"] > 0
        judge = Judge(trial.outcome, trial.treatment, trial.mass)
        qinis.append(judge.qini(judge.ranking(-score)))
    assert covered >= 90
    assert proven <= 6
    assert np.mean(qinis) == pytest.approx(0.0, abs=3.0 * np.std(qinis) / 10.0)
    naive = Judge(trial.outcome, trial.treatment)
    assert naive.qini(naive.ranking(-score)) > 0.05
    assert effect(trial_with(trial.outcome, trial.treatment), np.ones(len(trial), dtype=bool)).high < -0.1


def test_one_propensity_changes_nothing() -> None:
    """Where every row had the same propensity, rows are not weighted; two halves of a trial are the trial."""
    trial, _ = harmful(200, 3)
    assert trial.mass is None
    likely, _ = confounded(200, 3)
    halves = likely.pick(np.arange(100)).joined(likely.pick(np.arange(100, 200)))
    np.testing.assert_array_equal(halves.mass, likely.mass)


def test_without_a_yes_no_order_is_better() -> None:
    """Where no row says yes, Qini and AUUC are 0, not a division by zero."""
    judge = Judge(np.zeros(40, dtype=bool), np.arange(40) % 2 == 0)
    ranking = judge.ranking(np.arange(40.0))
    assert (judge.qini(ranking), judge.auuc(ranking)) == (0.0, 0.0)


@given(st.lists(st.integers(0, 3), min_size=40, max_size=40), st.sampled_from(["plain", "few"]))
@settings(max_examples=60, deadline=None)
def test_weights_count_rows(counts: list[int], case: str) -> None:
    """A row with weight 2 is two rows with weight 1, and one with weight 0 is not there."""
    outcome, treatment, score = small(case)
    weights, rows = np.array(counts, dtype=float), np.repeat(np.arange(40), counts)
    drawn = Judge(outcome[rows], treatment[rows])
    if min(drawn.treatment.sum(), (~drawn.treatment).sum()) == 0 or not 0 < drawn.outcome.sum() < len(rows):
        return
    judge = Judge(outcome, treatment)
    assert judge.ranking(score).qini_curve(weights).area_over_random() == pytest.approx(
        drawn.ranking(score[rows]).qini_curve().area_over_random(), abs=1e-9
    )
    assert judge.ranking(score).uplift_curve(weights).gained[-1] == pytest.approx(
        drawn.ranking(score[rows]).uplift_curve().gained[-1], abs=1e-9
    )


def test_perfect_order_is_one_and_its_opposite_is_negative() -> None:
    """Who knew every outcome would have a Qini of 1; reversing any order turns gains into losses."""
    outcome, treatment, _ = small("plain")
    judge = Judge(outcome, treatment)
    perfect = np.where(outcome, np.where(treatment, 1.0, -1.0), 0.0)
    assert judge.qini(judge.ranking(perfect)) == pytest.approx(1.0)
    assert judge.qini(judge.ranking(-perfect)) < 0.0
    assert judge.qini(judge.ranking(np.zeros(40))) == pytest.approx(0.0)


def test_bootstrap_tells_an_order_from_a_coin() -> None:
    """The interval of a true order lies above 0, a random one gains nothing, and the paired gain is sure."""
    trial, score = harmful(1200, 1)
    judge = Judge(trial.outcome, trial.treatment)
    coin = np.random.default_rng(2).normal(size=len(trial))
    assert judge.measure(score, 42)["qini"].low > 0.0
    assert judge.qini_gain(score, coin, 42).low > 0.0
    assert judge.qini_gain(coin, np.zeros(len(trial)), 42).low < 0.0
    assert judge.qini_gain(score, score, 42).as_dict() == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_gains_are_the_uplift_curve() -> None:
    """With constant propensities the gain a customer is the uplift curve's, by percent."""
    trial, score = harmful(1000, 3)
    curve = Judge(trial.outcome, trial.treatment).ranking(score).uplift_curve()
    np.testing.assert_allclose(incremental(trial, score), curve.gained[10::10] / 1000, atol=1e-12)


def test_gains_are_unbiased_by_who_was_contacted() -> None:
    """Where eager customers were contacted more often, propensities take that out of the gain."""
    rng = np.random.default_rng(4)
    eager = rng.random(40_000) < 0.5
    propensity = np.where(eager, 0.8, 0.2)
    treatment = rng.random(len(eager)) < propensity
    outcome = rng.random(len(eager)) < 0.1 + 0.5 * eager + 0.05 * treatment
    score = rng.normal(size=len(eager))
    naive = incremental(trial_with(outcome, treatment), score)[-1]
    assert incremental(trial_with(outcome, treatment, propensity), score)[-1] == pytest.approx(0.05, abs=0.02)
    assert naive > 0.2


def test_how_many_to_contact_follows_the_price() -> None:
    """A cheap contact goes to everybody who gains, a dear one to fewer, one that never pays to nobody."""
    gains = np.minimum(np.arange(1, 101), 50) / 100.0 * 0.2  # the best half gain 0.2 each, the others nothing
    assert best_percent(gains, Prices(cost_usd=0.1, value_usd=10.0)) == 50
    assert best_percent(gains, Prices(cost_usd=3.0, value_usd=10.0)) == 0
    assert best_percent(np.sqrt(np.arange(1, 101)) / 100.0, Prices(1.0, 10.0)) < 50


def test_net_incremental_revenue() -> None:
    """NIR = value · buyers(T) − cost · n(T) − value · buyers(C), counted by hand."""
    outcome = np.array([1, 1, 0, 1, 0, 1], dtype=bool)
    treatment = np.array([1, 1, 1, 0, 0, 1], dtype=bool)
    contacted = np.array([1, 1, 1, 1, 1, 0], dtype=bool)
    found = net_incremental_revenue(trial_with(outcome, treatment), contacted, Prices(0.15, 10.0))
    assert found == pytest.approx(10 * 2 - 0.15 * 3 - 10 * 1)


def test_policy_value_against_everybody() -> None:
    """Leaving out those whom a contact harms earns more than contacting everybody, and the interval says so."""
    trial, score = harmful(2500, 5)
    value = policy_value(trial, score, -score, 50, Prices(0.1, 10.0), 42)
    # The better half gains 0.3 outcomes each: 10 × 0.5 × 0.3 − 0.05 dollars a customer.
    assert value["profit_usd_per_customer"]["low"] < 1.45 < value["profit_usd_per_customer"]["high"]
    assert value["gain_usd_per_customer_over_everybody"]["low"] > 0.0
    assert value["gain_usd_per_customer_over_propensity"]["low"] > 0.0
    assert [value["curve"][0][name] for name in ("value", "low", "high")] == [0.0, 0.0, 0.0]


def test_sleeping_dogs_are_found_and_not_made_up() -> None:
    """Half of the customers are harmed and that is proven; without an effect nothing is."""
    trial, score = harmful(6000, 6)
    found = sleeping_dogs(trial, score)
    assert found["provably_harmed_percent"] == 50
    assert found["effect_on_lowest"]["20_percent"]["high"] < 0.0
    rng = np.random.default_rng(7)
    nothing = trial_with(rng.random(6000) < 0.3, trial.treatment)
    assert sleeping_dogs(nothing, score)["provably_harmed_percent"] == 0
    assert sleeping_dogs(nothing, np.abs(score))["effect_on_predicted"] is None


def test_harm_is_rarely_proven_by_chance() -> None:
    """Looking at eight groups at once, harm that is not there is proven in at most about one of forty trials."""
    rng = np.random.default_rng(8)
    proven = 0
    for _ in range(200):
        trial = trial_with(rng.random(1500) < 0.2, rng.random(1500) < 0.5)
        proven += sleeping_dogs(trial, rng.normal(size=1500))["provably_harmed_percent"] > 0
    assert proven <= 10  # 200 × 0.025 and more than two standard deviations


def test_effect_interval_covers_rare_outcomes() -> None:
    """Agresti and Caffo's interval holds the true difference in at least 93 % of trials with a rate of 1 %."""
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(400):
        treatment = rng.random(2000) < 0.5
        trial = trial_with(rng.random(2000) < 0.01 + 0.005 * treatment, treatment)
        interval = effect(trial, np.ones(2000, dtype=bool))
        covered += interval.low <= 0.005 <= interval.high
    assert covered >= 0.93 * 400


def test_deciles_and_top() -> None:
    """Ten equal groups, best first, each with its measured effect; `top` takes exactly the best."""
    trial, score = harmful(5000, 10)
    points = deciles(trial, score)
    assert [point["rows"] for point in points] == [500] * 10
    assert all(a["predicted"] > b["predicted"] for a, b in itertools.pairwise(points))
    assert points[0]["value"] > 0.15 > -0.05 > points[-1]["value"]
    assert set(np.flatnonzero(top(score, 10))) == set(np.argsort(-score)[:500])


def test_order_value() -> None:
    """The value of an order is its Qini area counted in scores; a reversed order is worth the opposite."""
    rng = np.random.default_rng(11)
    uplift = rng.normal(size=500)
    scores = uplift + rng.normal(size=500)
    ordered = scores[np.argsort(-uplift)]
    area = np.mean(np.cumsum(ordered) - 0.5 * ordered) / 500 - 0.5 * scores.mean()
    assert order_value(scores, uplift) == pytest.approx(area, abs=1e-12)
    assert order_value(scores, -uplift) == pytest.approx(-order_value(scores, uplift))
    assert order_value(scores, np.zeros(500)) == pytest.approx(0.0, abs=1e-12)


def test_corrected_interval_is_wider_than_the_plain_one() -> None:
    """Overlapping training sets widen the t-test's interval by sqrt(1 + n / (folds − 1))."""
    values = [0.1, 0.2, 0.3, 0.2, 0.15]
    interval = corrected_interval(values, 5)
    plain = 2.7764 * np.std(values, ddof=1) / np.sqrt(5)
    assert interval.high - interval.value == pytest.approx(plain * 1.5, rel=1e-3)
