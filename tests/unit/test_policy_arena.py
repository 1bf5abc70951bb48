"""The arena's statistics, and the figures of a business, on plays that are made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.campaign import population, settings
from trainers.agents.baselines import NeverContact, PropensityPolicy
from trainers.eval.arena import compare, simultaneous_intervals
from trainers.eval.business import FIGURES, business_figures, segments
from trainers.eval.play import Play, Setting, play
from trainers.eval.resample import CustomerBootstrap

N = 400
BOOTSTRAP = CustomerBootstrap(N, seed=3, resamples=500)


def setting() -> Setting:
    return Setting(*settings(), population(N))


def gaining(gain_usd: np.ndarray) -> Play:
    """A play of one campaign in which customers brought this."""
    nothing = play(setting(), NeverContact(), [1])
    return replace(nothing, gain_usd=gain_usd[None], value_usd=gain_usd[None])


def test_common_luck_cancels_in_a_pair() -> None:
    """A small lead over noise that both share is certain; without pairs it would drown."""
    noise = np.random.default_rng(1).normal(0.0, 50.0, N)
    arena = compare({"a": gaining(noise), "b": gaining(noise + 1.0)}, BOOTSTRAP)
    assert [standing.policy for standing in arena.standings] == ["b", "a"]
    assert arena.standings[0].gain.high - arena.standings[0].gain.low > 5.0
    pair = arena.pair("b", "a")
    assert pair.gain.value == pytest.approx(1.0)
    assert pair.gain.low > 0.99
    turned = arena.pair("a", "b").gain
    assert (turned.value, turned.low, turned.high) == (-pair.gain.value, -pair.gain.high, -pair.gain.low)
    with pytest.raises(KeyError):
        arena.pair("a", "c")


def test_ranks_stay_open_where_policies_cannot_be_told_apart() -> None:
    """Two equals share the ranks, one far worse is last, and the simultaneous interval is the wider one."""
    rng = np.random.default_rng(2)
    plays = {name: gaining(rng.normal(mean, 1.0, N)) for name, mean in (("a", 5.0), ("b", 5.0), ("c", 0.0))}
    arena = compare(plays, BOOTSTRAP)
    ranks = {standing.policy: (standing.best_rank, standing.worst_rank) for standing in arena.standings}
    assert (ranks["a"], ranks["b"], ranks["c"]) == ((1, 2), (1, 2), (3, 3))
    for pair in arena.pairs:
        assert pair.simultaneous.low < pair.gain.low
        assert pair.simultaneous.high > pair.gain.high


def test_simultaneous_intervals_hold_for_all_at_once() -> None:
    """Of ten differences without an effect, one in twenty tries finds any; separate intervals find far more."""
    rng, together, apart = np.random.default_rng(4), 0, 0
    for trial in range(100):
        values = rng.normal(0.0, 1.0, (100, 10))
        replicates = CustomerBootstrap(100, trial, 300).means(values)
        intervals = simultaneous_intervals(values.mean(axis=0), replicates)
        together += any(interval.low > 0 or interval.high < 0 for interval in intervals)
        low, high = np.quantile(replicates, [0.025, 0.975], axis=0)
        apart += bool(((low > 0) | (high < 0)).any())
    assert together <= 13
    assert apart >= 25


def test_intervals_of_customers_cover_their_mean() -> None:
    """A mean lies within its 95 % interval in about 95 of 100 samples."""
    rng, covered = np.random.default_rng(5), 0
    for trial in range(100):
        interval = CustomerBootstrap(80, trial, 400).mean(rng.exponential(2.0, 80))
        covered += interval.low <= 2.0 <= interval.high
    assert 87 <= covered <= 99


def test_business_figures_are_what_they_say() -> None:
    """Counted by hand on a play of two campaigns in which everything is known."""
    made = setting()
    never, monthly = play(made, NeverContact(), [1, 2]), made.population.features.monthly_usd
    shape = never.gain_usd.shape
    costs = np.zeros((*shape, 4))
    costs[0, :, 0], costs[0, :, 1] = 2.0, 4.0
    churned = np.zeros(shape, dtype=bool)
    churned[1] = True
    played = replace(
        never,
        gain_usd=np.full(shape, 3.0),
        costs=costs,
        churned=churned,
        accepted=np.ones(shape, dtype=np.int64),
        discount_usd=np.full(shape, 1.0),
        opted_out=~churned,
    )
    figures = business_figures(made, played, never, BOOTSTRAP)
    values = {name: figure.value for name, figure in figures.items() if figure}
    assert values["net_revenue_retention"] == pytest.approx((monthly.sum() - N) / (2 * monthly.sum()))
    margin = made.world.money.gross_margin * monthly.sum()
    assert values["gross_margin_retained"] == pytest.approx((margin - N) / (2 * margin))
    assert values["roi"] == pytest.approx(3.0)
    assert values["incremental_saves_per_1000"] == pytest.approx(1000 * (never.churned.mean() - 0.5))
    assert (values["spend_usd"], values["contacts"], values["acceptance"]) == (1.0, 2.0, 0.5)
    assert (values["opt_outs"], values["churned"], values["gain_usd"]) == (0.5, 0.5, 3.0)
    assert set(values) == set(FIGURES)


def test_segments_part_the_customers() -> None:
    """Every customer is in exactly one part of each kind, and the parts' gains add up to the whole."""
    made = setting()
    never, played = (
        play(made, policy, [1, 2]) for policy in (NeverContact(), PropensityPolicy(made.world, 0.3, "check_in", 168.0))
    )
    kinds = segments(made, played)
    assert set(kinds) == {"risk", "tenure", "charge", "response"}
    for parts in kinds.values():
        assert (np.sum(list(parts.values()), axis=0) == 1).all()
        gains = [
            rows.mean() * figure.value
            for rows in parts.values()
            if (figure := business_figures(made, played, never, BOOTSTRAP, rows)["gain_usd"])
        ]
        assert sum(gains) == pytest.approx(played.gain_usd.mean())
    assert kinds["risk"]["low"].mean() == pytest.approx(1 / 3, abs=0.01)


def test_running_discounts_are_counted_once_each() -> None:
    """Only accepted discounts that outlast the campaign lower the revenue at its end."""
    made = setting()
    played = play(made, PropensityPolicy(made.world, 0.2, "discount_20", 672.0), [1])
    monthly = made.population.features.monthly_usd
    np.testing.assert_allclose(played.discount_usd[0], 0.2 * monthly * played.accepted[0])
    assert played.accepted.sum() > 10
    gift = play(made, PropensityPolicy(made.world, 0.2, "bonus_pack", 672.0), [1])
    assert gift.accepted.sum() > 10
    assert not gift.discount_usd.any()
