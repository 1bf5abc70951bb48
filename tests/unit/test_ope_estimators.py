"""Off-policy estimators against OBP 0.4.1, their intervals, and when they refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from churnsaver.errors import BadInput
from trainers.eval.ope import MIN_EFFECTIVE, MIN_MEAN_WEIGHT, evaluate_logged, missed_targets
from trainers.ope.estimators import (
    ESTIMATORS,
    Estimator,
    Predicted,
    Ratio,
    doubly_robust,
    estimate,
    mean_of,
    shrunk_dr,
    switch_dr,
)
from trainers.ope.intervals import empirical_bernstein, estimates, student_t
from trainers.ope.logged import PROPENSITY_FLOOR, LoggedBandit, Support
from trainers.ope.outcome_model import cross_fit, folds_of

Floats = NDArray[np.float64]

# OBP 0.4.1 on `obp_log()`; SwitchDR with tau=2, DRos with lambda_=5.
OBP = {
    "ips": 0.47231077293755974,
    "snips": 0.5665405614782413,
    "dm": 0.4997678368359098,
    "dr": 0.5288217318723732,
    "switch_dr": 0.5168396551803547,
    "dr_os": 0.5140914501377908,
}


def obp_log(n: int = 200, k: int = 4, seed: int = 7) -> tuple[Floats, Floats, Predicted]:
    """Weights, rewards and a poor outcome model of random policies, as OBP was given them."""
    rng = np.random.default_rng(seed)
    logging, target = rng.dirichlet(np.ones(k), n), rng.dirichlet(np.ones(k), n)
    mean = rng.random((n, k))
    actions = np.array([rng.choice(k, p=p) for p in logging])
    rows = np.arange(n)
    rewards = mean[rows, actions] + rng.normal(0, 0.3, n)
    model = mean + rng.normal(0, 0.2, (n, k))
    predicted = Predicted(model[rows, actions], (target * model).sum(axis=1))
    return target[rows, actions] / logging[rows, actions], rewards, predicted


def bandit(n: int, seed: int = 0, **changes: Floats) -> LoggedBandit:
    """A log of uniform logging over four actions for a target that prefers the first."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(4, size=n)
    columns = {
        "rewards": rng.normal(actions == 0, 1.0),
        "propensities": np.full(n, 0.25),
        "target": np.where(actions == 0, 0.7, 0.1),
    }
    return LoggedBandit(**(columns | changes), costs={}, clusters=np.arange(n))


def zeros(n: int) -> Predicted:
    return Predicted(np.zeros(n), np.zeros(n))


class TestAgainstObp:
    """The same numbers as OBP, to 1e-9."""

    @pytest.mark.parametrize("name", ["ips", "snips", "dm", "dr"])
    def test_without_settings(self, name: str) -> None:
        """Estimators that choose nothing."""
        assert ESTIMATORS[name](*obp_log()).value == pytest.approx(OBP[name], abs=1e-9)

    def test_switch(self) -> None:
        """Switch-DR with the threshold given."""
        assert switch_dr(*obp_log(), tau=2.0).value == pytest.approx(OBP["switch_dr"], abs=1e-9)

    def test_shrinkage(self) -> None:
        """DR-OS with λ given."""
        assert shrunk_dr(*obp_log(), lam=5.0).value == pytest.approx(OBP["dr_os"], abs=1e-9)


class TestChoice:
    """Switch-DR's τ and DR-OS's λ: what they do when given, and how they are chosen."""

    @staticmethod
    def errors(estimator: Callable[[Floats, Floats, Predicted], Ratio]) -> tuple[float, float]:
        """Root mean squared errors of an estimator and of DR, with log-normal weights and a model that is right."""
        found = []
        for run in range(200):
            rng = np.random.default_rng(run)
            weights, rewards, model = rng.lognormal(-2.0, 2.0, 300), rng.normal(size=300), zeros(300)
            found.append([estimator(weights, rewards, model).value, doubly_robust(weights, rewards, model).value])
        ours, plain = np.sqrt(np.mean(np.square(found), axis=0)).tolist()
        return ours, plain

    @pytest.mark.parametrize("given", [partial(switch_dr, tau=5.0), partial(shrunk_dr, lam=25.0)])
    def test_given_they_tame_heavy_weights(self, given: Callable[[Floats, Floats, Predicted], Ratio]) -> None:
        """A few weights no longer carry all of the error."""
        ours, plain = self.errors(given)
        assert ours < 0.6 * plain

    def test_chosen_it_shrinks_a_little(self) -> None:
        """The bound of the bias allows some shrinkage, and the error is less for it."""
        ours, plain = self.errors(shrunk_dr)
        assert ours < plain

    @pytest.mark.parametrize("estimator", [switch_dr, shrunk_dr])
    def test_no_bias_is_bought_where_the_model_is_wrong(self, estimator: Estimator) -> None:
        """With mild weights and a model that is off by 5, the residuals are kept."""
        logged, model = bandit(5_000), Predicted(np.full(5_000, 5.0), np.full(5_000, 5.0))
        dr = doubly_robust(logged.weights, logged.rewards, model).value
        assert estimator(logged.weights, logged.rewards, model).value == pytest.approx(dr, abs=0.02)


@given(seed=st.integers(0, 10_000), n=st.integers(20, 200), scale=st.floats(0.1, 50.0), shift=st.floats(-5.0, 5.0))
@settings(max_examples=30, deadline=None)
def test_scaling_rewards_scales_estimates(seed: int, n: int, scale: float, shift: float) -> None:
    """Every estimator is equivariant to scale; SNIPS, DM and DR also to a shift of rewards and model together."""
    weights, rewards, model = obp_log(n, seed=seed)
    scaled = Predicted(model.logged * scale, model.target * scale)
    plain, times = estimate(weights, rewards, model), estimate(weights, rewards * scale, scaled)
    for name, ratio in plain.items():
        assert times[name].value == pytest.approx(ratio.value * scale, rel=1e-6, abs=1e-9)
    moved = estimate(weights, rewards + shift, Predicted(model.logged + shift, model.target + shift))
    for name in ("snips", "dm", "dr"):
        assert moved[name].value == pytest.approx(plain[name].value + shift, abs=1e-9)


class TestIntervals:
    """Bootstrap, empirical Bernstein and t, by customer."""

    def test_t_is_the_textbook_one(self) -> None:
        """On a plain mean of independent terms."""
        terms = np.random.default_rng(0).normal(size=50)
        low, high = student_t(mean_of(terms))
        margin = 2.009575 * terms.std(ddof=1) / np.sqrt(50)  # t of 49 degrees of freedom
        assert (low, high) == pytest.approx((terms.mean() - margin, terms.mean() + margin), abs=1e-5)

    def test_bernstein_by_hand(self) -> None:
        """√(2 V ln(4/α)/n) + 7 R ln(4/α)/(3(n - 1))."""
        terms = np.array([0.0, 1.0] * 50)
        log = np.log(80.0)
        margin = np.sqrt(2 * terms.var(ddof=1) * log / 100) + 7 * log / (3 * 99)
        assert empirical_bernstein(mean_of(terms)) == pytest.approx((0.5 - margin, 0.5 + margin))

    def test_customers_are_resampled_whole(self) -> None:
        """Ten copies of each customer's decision are worth no more than one."""
        terms = np.random.default_rng(3).normal(size=200)
        once = estimates({"x": mean_of(terms)}, np.arange(200), 42)["x"]
        copied = estimates({"x": mean_of(np.repeat(terms, 10))}, np.repeat(np.arange(200), 10), 42)["x"]
        assert copied.bootstrap == pytest.approx(once.bootstrap)
        assert copied.student_t == pytest.approx(once.student_t)

    def test_coverage(self) -> None:
        """The truth is inside the bootstrap's interval in 93 % of small logs with skewed weights, or more."""
        runs, inside = 120, 0
        for run in range(runs):
            logged = bandit(400, seed=run)  # truth: 0.7
            found = estimates({"ips": mean_of(logged.weights * logged.rewards)}, logged.clusters, run)["ips"]
            inside += found.bootstrap[0] <= 0.7 <= found.bootstrap[1]
        assert inside / runs >= 0.9  # 93 % less what 120 runs leave to chance

    def test_few_events_get_the_wide_interval(self) -> None:
        """Five clicks in a thousand: the variance is made of five terms, and Bernstein's interval is stated."""
        clicks = np.zeros(1_000)
        clicks[:5] = 1.0
        few = estimates({"x": mean_of(clicks)}, np.arange(1_000), 42)["x"]
        assert few.terms == pytest.approx(5.0, rel=0.05)
        assert few.as_dict()["interval"] == "empirical_bernstein"
        assert few.as_dict()["high"] > few.bootstrap[1] > 0.005
        many = estimates({"x": mean_of(np.arange(1_000) % 2.0)}, np.arange(1_000), 42)["x"]
        assert many.as_dict()["interval"] == "bootstrap"


class TestOutcomeModel:
    """Cross-fitted ridge."""

    def test_learns_and_is_not_fitted_on_what_it_predicts(self) -> None:
        """A linear truth is found; pure noise is not."""
        rng = np.random.default_rng(5)
        x, actions = rng.normal(size=(3_000, 2)), rng.integers(3, size=3_000)
        truth = x[:, 0] * np.array([0.0, 1.0, -1.0])[actions] + actions
        noise = rng.normal(size=3_000)
        target = np.tile([0.0, 1.0, 0.0], (3_000, 1))
        outcomes = {"truth": truth, "noise": noise}
        found = cross_fit(x, actions, np.eye(3), outcomes, target, folds_of(np.arange(3_000), 1))
        assert np.corrcoef(found["truth"].logged, truth)[0, 1] > 0.999
        assert found["truth"].target == pytest.approx(x[:, 0] + 1.0, abs=0.1)
        assert np.corrcoef(found["noise"].logged, noise)[0, 1] < 0.05

    def test_a_customers_decisions_share_a_fold(self) -> None:
        """Else the model would have seen who it predicts."""
        clusters = np.repeat(np.arange(100), 3)
        folds = folds_of(clusters, 42).reshape(100, 3)
        assert (folds == folds[:, :1]).all()


class TestRefusal:
    """No number where the log cannot carry one."""

    def test_too_few_effective_decisions(self) -> None:
        """Kish's effective sample size below the threshold."""
        logged = bandit(60)
        result = evaluate_logged(logged, {"reward": zeros(60)}, 42)
        assert "fewer than the 100 asked" in result["refused"][0]
        assert "value" not in result
        assert missed_targets(result, {}, 1.0)

    def test_actions_that_were_never_logged(self) -> None:
        """Weights that average far below 1."""
        n = 2_000
        logged = bandit(n, propensities=np.ones(n), target=np.full(n, 0.3))
        refused = Support.of(logged).refusals(MIN_EFFECTIVE, MIN_MEAN_WEIGHT)
        assert len(refused) == 1
        assert "never took" in refused[0]

    def test_given_where_it_can_be(self) -> None:
        """The same seed gives the same numbers, and the truth is inside."""
        logged = bandit(3_000)
        result = evaluate_logged(logged, {"reward": zeros(3_000)}, 42)
        again = evaluate_logged(logged, {"reward": zeros(3_000)}, 42)
        assert result == again
        assert result["value"]["dr"]["low"] < 0.7 < result["value"]["dr"]["high"]
        assert result["value"]["gain"]["value"] == pytest.approx(
            result["value"]["dr"]["value"] - result["value"]["logged"]["value"]
        )
        assert missed_targets(result, {}, 1.0) == []

    def test_propensities_are_floored(self) -> None:
        """One propensity of 1e-9 does not speak for a billion."""
        propensities = np.full(500, 0.25)
        propensities[0] = 1e-9
        support = Support.of(bandit(500, propensities=propensities))
        assert support.floored == 1
        assert support.max_weight <= 1.0 / PROPENSITY_FLOOR


class TestGate:
    """Promotion on value and on cost."""

    @pytest.mark.parametrize(
        ("gain", "high", "missed"),
        [(0.1, 0.4, []), (-0.1, 0.4, ["gain"]), (0.1, 0.6, ["contact"]), (-0.1, 0.6, ["gain", "contact"])],
    )
    def test_value_and_cost(self, gain: float, high: float, missed: list[str]) -> None:
        """The gain's lower bound and each cost's upper bound, put on a month."""
        result = {
            "refused": [],
            "value": {"gain": {"value": 0.2, "low": gain, "high": 0.3}},
            "costs": {"contact": {"dr": {"high": high}}},
        }
        said = missed_targets(result, {"contact": 5.0}, 10.0)
        assert len(said) == len(missed)
        assert all(word in sentence for word, sentence in zip(missed, said, strict=True))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("rewards", np.nan, "decision 3: reward is nan; expected a finite number"),
        ("propensities", 0.0, r"decision 3: propensity is 0.0; expected a probability in \(0, 1\]"),
        ("propensities", 1.5, "decision 3: propensity is 1.5"),
        ("target", -0.1, r"decision 3: target is -0.1; expected a probability in \[0, 1\]"),
    ],
)
def test_bad_input(column: str, value: float, message: str) -> None:
    """What cannot be evaluated is refused by number and name."""
    good = bandit(10)
    values = np.array(getattr(good, column))
    values[3] = value
    with pytest.raises(BadInput, match=message):
        bandit(10, **{column: values})
