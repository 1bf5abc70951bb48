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
from trainers.eval.resample import TwoWayBootstrap

N = 400


def setting() -> Setting:
    return Setting(*settings(), population(N))


def bootstrap(campaigns: int) -> TwoWayBootstrap:
    return TwoWayBootstrap(campaigns, N, seed=3, resamples=500)


def gaining(gain_usd: np.ndarray) -> Play:
    """A play of one campaign in which customers brought this."""
    nothing = play(setting(), NeverContact(), [1])
    return replace(nothing, gain_usd=gain_usd[None], value_usd=gain_usd[None])


def test_common_luck_cancels_in_a_pair() -> None:
    """A small lead over noise that both share is certain; without pairs it would drown."""
    noise = np.random.default_rng(1).normal(0.0, 50.0, N)
    arena = compare({"a": gaining(noise), "b": gaining(noise + 1.0)}, bootstrap(1))
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
    arena = compare(plays, bootstrap(1))
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
        replicates = TwoWayBootstrap(1, 100, trial, 300).means(values[None])
        intervals = simultaneous_intervals(values.mean(axis=0), replicates)
        together += any(interval.low > 0 or interval.high < 0 for interval in intervals)
        low, high = np.quantile(replicates, [0.025, 0.975], axis=0)
        apart += bool(((low > 0) | (high < 0)).any())
    assert together <= 13
    assert apart >= 25


def test_intervals_of_customers_cover_their_mean() -> None:
    """A mean of one campaign lies within its 95 % interval in about 95 of 100 samples."""
    rng, covered = np.random.default_rng(5), 0
    for trial in range(100):
        interval = TwoWayBootstrap(1, 80, trial, 400).mean(rng.exponential(2.0, (1, 80)))
        covered += interval.low <= 2.0 <= interval.high
    assert 87 <= covered <= 99


@pytest.mark.parametrize(
    ("campaigns", "of_customers", "of_campaigns"), [(4, 1.0, 0.0), (12, 0.5, 0.0), (4, 0.5, 2.0), (12, 0.5, 2.0)]
)
def test_intervals_cover_the_luck_of_campaigns(campaigns: int, of_customers: float, of_campaigns: float) -> None:
    """The truth is inside in about 95 of 100 samples, whether campaigns have luck of their own or none.

    Customers alone would cover 65 of 100 where they have, and the pigeonhole bootstrap 99 where they have none, with
    intervals 1.3 times as wide. Sizes are each kind's standard error of the mean; single contacts' luck has 1.
    """
    rng, customers, trials = np.random.default_rng(6), 60, 400
    draws = TwoWayBootstrap(campaigns, customers, 1, 1_000)
    truth = np.hypot(np.hypot(of_customers, of_campaigns), 1.0)
    covered, widths = 0, []
    for _ in range(trials):
        played = of_customers * np.sqrt(customers) * rng.normal(size=(1, customers))
        played = played + of_campaigns * np.sqrt(campaigns) * rng.normal(size=(campaigns, 1))
        played = played + np.sqrt(campaigns * customers) * rng.normal(size=(campaigns, customers))
        interval = draws.mean(played)
        covered += interval.low <= 0.0 <= interval.high
        widths.append((interval.high - interval.low) / (2.0 * 1.96 * truth))
    assert 0.90 <= covered / trials <= 0.98
    assert 0.9 <= np.mean(widths) <= (1.2 if of_campaigns == 0 else 1.5 if campaigns == 4 else 1.15)


def test_what_campaigns_share_is_in_every_interval() -> None:
    """A whole campaign's luck widens the intervals of pairs, figures and standings alike; else they are narrow."""
    made, rng = setting(), np.random.default_rng(7)
    never = play(made, NeverContact(), range(8))
    luck = rng.normal(0.0, 3.0, (8, 1))
    widths = {}
    for name, shared in (("none", 0.0 * luck), ("some", luck)):
        gain = 5.0 + rng.normal(0.0, 1.0, never.gain_usd.shape) + shared
        played = replace(never, gain_usd=gain, value_usd=never.value_usd + gain)
        arena = compare({"ppo": played, "never": never}, bootstrap(8))
        figure = business_figures(made, played, never, bootstrap(8))["gain_usd"]
        assert figure is not None
        pair = arena.pair("ppo", "never")
        intervals = (pair.gain, pair.simultaneous, pair.as_drawn, arena.standings[0].gain, figure)
        widths[name] = np.array([interval.high - interval.low for interval in intervals])
    assert (widths["none"] < 0.12).all()
    expected = 2.0 * 2.36 * luck.std(ddof=1) / np.sqrt(8)  # t with 7 degrees of freedom
    np.testing.assert_allclose(widths["some"], expected, rtol=0.2)


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
    figures = business_figures(made, played, never, bootstrap(2))
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
            if (figure := business_figures(made, played, never, bootstrap(2), rows)["gain_usd"])
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
