"""What outcomes say against a message: bad ones are found, equals are mostly left alone."""

from __future__ import annotations

import numpy as np
import pytest

from services.generator.evidence import Counts, Evidence, p_more_opt_outs, since_all_were_used


def on_one_day(counts: dict[str, Counts]) -> dict[str, dict[int, Counts]]:
    return {message: {20_000: each} for message, each in counts.items()}


def retired(rates: tuple[float, ...], uses_each: int, seed: int) -> tuple[int, int] | None:
    """Which message of a brief is retired, and after how many uses of it; each is used as often as the others."""
    rng, evidence = np.random.default_rng(seed), Evidence()
    uses, opted_out = np.zeros(len(rates), int), np.zeros(len(rates), int)
    while uses.max() < uses_each:
        uses += 5
        opted_out += rng.binomial(5, rates)
        counts = {str(i): Counts(int(uses[i]), int(opted_out[i])) for i in range(len(rates))}
        if (found := evidence.against("brief", on_one_day(counts))) is not None:
            return int(found.message_id), int(uses[0])
    return None


def test_a_message_that_draws_opt_outs_is_retired() -> None:
    """At five times its sibling's rate within some two hundred uses, and never the sibling."""
    found = [retired((0.02, 0.10), 1000, seed) for seed in range(40)]
    assert [each[0] for each in found if each] == [1] * 40
    assert np.median([each[1] for each in found if each]) < 200


def test_equals_are_seldom_retired() -> None:
    """Looked at again and again over 500 uses each (a month of 45,000 contacts): at most a brief in ten."""
    for rates in ((0.02, 0.02), (0.005, 0.005)):
        found = [retired(rates, 500, seed) for seed in range(100)]
        assert sum(each is not None for each in found) <= 10


def test_the_older_of_two_equals_is_not_blamed_for_opt_outs_that_come_late() -> None:
    """They come three days after their contacts on average, and one was used alone for three days."""
    blamed = [retired_with_late_opt_outs(seed) for seed in range(60)]
    assert sum(each is not None for each in blamed) <= 9


def retired_with_late_opt_outs(seed: int, rate: float = 0.02, a_day: int = 500, lag_days: float = 3.0) -> str | None:
    """Which of two equals is retired within six days of its successor's first use, looked at twenty times a day."""
    rng, evidence = np.random.default_rng(seed), Evidence()
    uses: dict[str, dict[int, int]] = {"old": {}, "new": {}}
    told_at: dict[str, list[tuple[float, int]]] = {"old": [], "new": []}  # of opt-outs, and the day of their contact
    for now in np.arange(0.0, 9.0, 0.05):
        day = int(now)
        for message in ("old", "new") if now >= 3.0 else ("old",):
            used = rng.poisson(a_day * 0.05)
            uses[message][day] = uses[message].get(day, 0) + used
            lags = rng.exponential(lag_days, rng.binomial(used, rate))
            told_at[message] += [(now + lag, day) for lag in lags]
        by_day = {
            message: {
                day: Counts(count, sum(told <= now and of == day for told, of in told_at[message]))
                for day, count in days.items()
            }
            for message, days in uses.items()
        }
        if (found := evidence.against("brief", by_day)) is not None:
            return found.message_id
    return None


def test_contacts_from_before_a_sibling_came_are_not_compared() -> None:
    """Nor is what was never used, which would make it wait for ever."""
    by_day = {"a": {7: Counts(900, 90), 9: Counts(100, 2)}, "b": {8: Counts(9, 0), 9: Counts(90, 1)}, "c": {}}
    assert since_all_were_used(by_day) == {"a": Counts(100, 2), "b": Counts(99, 1)}


def test_a_single_opt_out_retires_nothing() -> None:
    """However rare they are, and however well the sibling is known."""
    for sibling in (Counts(), Counts(100, 0), Counts(10_000, 1), Counts(1_000_000, 10)):
        assert p_more_opt_outs(Counts(1, 1), sibling) < 0.8
        assert Evidence().against("brief", on_one_day({"a": Counts(1, 1), "b": sibling})) is None


def test_without_evidence_messages_are_equal() -> None:
    """And what is known of one is symmetrical to what is known of the other."""
    assert p_more_opt_outs(Counts(), Counts()) == pytest.approx(0.5)
    own, other = Counts(200, 9), Counts(300, 2)
    assert p_more_opt_outs(own, other) + p_more_opt_outs(other, own) == pytest.approx(1.0)
    assert Evidence().against("brief", on_one_day({"a": Counts(50, 0), "b": Counts(50, 0)})) is None


def test_the_probability_is_that_of_the_posteriors() -> None:
    """Against a million draws from the two Beta distributions."""
    own, other = Counts(120, 9), Counts(640, 12)
    rate = (21 + 1) / (760 + 50)
    rng = np.random.default_rng(42)
    draws = [
        rng.beta(5 + each.opted_out, 5 / rate - 5 + each.uses - each.opted_out, 1_000_000) for each in (own, other)
    ]
    assert p_more_opt_outs(own, other) == pytest.approx(float((draws[0] > draws[1]).mean()), abs=0.002)


def test_it_waits_for_more_before_it_looks_again() -> None:
    """The same counts are not weighed twice; half as many opt-outs more are."""
    evidence = Evidence()
    assert evidence.against("brief", on_one_day({"a": Counts(500, 10), "b": Counts(500, 10)})) is None
    assert evidence.against("brief", on_one_day({"a": Counts(500, 19), "b": Counts(1000, 10)})) is None
    found = evidence.against("brief", on_one_day({"a": Counts(600, 40), "b": Counts(1000, 10)}))
    assert found is not None
    assert found.message_id == "a"
    assert "40 of 600 against 10 of 1000" in found.reason


def test_what_takes_a_message_s_place_is_weighed_from_its_first_opt_out() -> None:
    """After a promotion, a retirement by a person, or old age: what the former ones drew says nothing of them."""
    evidence = Evidence()
    assert evidence.against("brief", on_one_day({"a": Counts(1000, 20), "b": Counts(1000, 20)})) is None
    found = evidence.against("brief", on_one_day({"c": Counts(200, 20), "d": Counts(200, 0)}))
    assert found is not None
    assert found.message_id == "c"


def test_counts_that_redis_lost_are_not_waited_for() -> None:
    """Growth is counted from what is left."""
    evidence = Evidence()
    assert evidence.against("brief", on_one_day({"a": Counts(1000, 20), "b": Counts(1000, 20)})) is None
    assert evidence.against("brief", on_one_day({"a": Counts(), "b": Counts()})) is None
    assert evidence.against("brief", on_one_day({"a": Counts(200, 20), "b": Counts(200, 0)})) is not None


def test_a_message_of_few_uses_shields_no_other() -> None:
    """The likeliest to be worse is retired, not the one whose rate happens to be the highest."""
    found = Evidence().against("brief", on_one_day({"a": Counts(300, 60), "b": Counts(300, 3), "c": Counts(2, 1)}))
    assert found is not None
    assert found.message_id == "a"


def test_counts_that_contradict_each_other_break_nothing() -> None:
    """More opt-outs than uses: some counts were lost."""
    assert 0.5 < p_more_opt_outs(Counts(2, 5), Counts(100, 1)) <= 1.0
