"""The judge: what it tells apart on scenarios that it never saw, and win rates that length and luck do not make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from churnsaver.domain.message import Brief
from churnsaver.errors import BadInput
from churnsaver.settings import load_world
from tests.support.rlhf import SEED, seeded_corpus, seeded_preferences
from trainers.rlhf.corpus import Corpus
from trainers.rlhf.corruptions import MARGINS
from trainers.rlhf.judge import Judge, judge_pairs, win_rate
from trainers.rlhf.judge_features import FEATURES, LENGTH


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return seeded_corpus()


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.train(SEED)


def test_it_tells_its_own_faults_apart_on_held_out_scenarios(judge: Judge, corpus: Corpus) -> None:
    accuracy = judge.accuracy(judge_pairs(corpus.test[::4], load_world(), seed=7))
    assert not set(accuracy) & set(MARGINS)
    assert min(accuracy.values()) > 0.85, accuracy


@pytest.mark.stack
def test_it_tells_the_reward_models_faults_apart_untrained(judge: Judge) -> None:
    accuracy = judge.accuracy(seeded_preferences()["test"])
    assert set(accuracy) == set(MARGINS)
    assert min(accuracy.values()) > 0.7, accuracy


def test_length_alone_moves_no_score(judge: Judge, corpus: Corpus) -> None:
    assert judge.weights[LENGTH] == 0.0
    assert judge.describe()["log_words"] == 0.0
    assert judge.describe()["fits_brief"] > 0 > judge.describe()["repetition"]
    scores = judge.score([m.brief for m in corpus.test], [m.text for m in corpus.test])
    words = [len(m.text.split()) for m in corpus.test]
    assert scores.shape == (len(corpus.test),)
    assert abs(np.corrcoef(scores, words)[0, 1]) < 0.5


def test_any_text_is_scored(judge: Judge, corpus: Corpus) -> None:
    brief = corpus.test[0].brief
    scores = judge.score([brief] * 3, ["", "{offer}", corpus.test[0].text])
    assert np.isfinite(scores).all()
    assert scores.argmax() == 2
    assert judge.features.of([], []).shape == (0, len(FEATURES))


def test_a_folder_without_spam_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadInput, match=rf"^{folder}: has no sms_spam.csv; .*leave out --public"):
            Judge.train(SEED, folder)


@pytest.mark.stack
def test_it_repeats(judge: Judge) -> None:
    assert np.array_equal(Judge.train(SEED).weights, judge.weights)


def brief(i: int = 0, offer: str = "check_in") -> Brief:
    reasons = ("general", "price", "usage", "contract", "service")
    tones = ("warm", "plain", "cheerful")
    return Brief(
        segment=("new", "settled", "loyal")[i % 3], offer=offer, tone=tones[i // 3 % 3], channel="sms",
        language="en", reason=reasons[i // 9 % 5],
    )  # fmt: skip


class Stand:
    """Scores a text by its number of "good"s and, by `per_word`, its words."""

    def __init__(self, per_word: float = 0.0) -> None:
        self.per_word = per_word

    def score(self, briefs: Sequence[Brief], texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([text.split().count("good") + self.per_word * len(text.split()) for text in texts], dtype=float)


def test_wins_losses_and_ties() -> None:
    briefs = [brief(i) for i in range(4)]
    found = win_rate(Stand(), briefs, ["good", "good", "a", "a"], ["a", "a", "good", "b"], seed=0)
    assert found["win_rate"] == pytest.approx((2 + 0.5) / 4)
    assert found["ties"] == 0.25
    assert found["win_rate_low"] < found["win_rate"] < found["win_rate_high"]
    back = win_rate(Stand(), briefs, ["a", "a", "good", "b"], ["good", "good", "a", "a"], seed=0)
    assert back["win_rate"] == pytest.approx(1 - found["win_rate"])
    assert back["length_controlled"] == pytest.approx(1 - found["length_controlled"])


def test_a_text_against_itself_is_a_tie() -> None:
    found = win_rate(Stand(), [brief()], ["good  one"], ["good one"], seed=0)
    assert (found["win_rate"], found["length_controlled"], found["ties"]) == (0.5, 0.5, 1.0)


def test_length_control_takes_out_what_length_wins() -> None:
    """A judge that only counts words: our longer texts win mostly, and at equal length about half the time."""
    rng = np.random.default_rng(0)
    ours = ["w " * n for n in rng.integers(5, 16, 600)]
    theirs = ["w " * n for n in rng.integers(4, 14, 600)]
    found = win_rate(Stand(per_word=1.0), [brief(i) for i in range(600)], ours, theirs, seed=0)
    assert found["win_rate"] > 0.57
    assert abs(found["length_controlled"] - 0.5) < 0.1
    assert found["words_ours"] > found["words_theirs"]


def test_intervals_are_clustered_by_brief() -> None:
    """The same verdict on one brief ten times over is one piece of evidence."""
    few, many = [brief(i) for i in range(12)], [brief(i) for i in range(12) for _ in range(10)]
    ours = ["good" if i % 3 else "bad" for i in range(12)]
    once = win_rate(Stand(), few, ours, ["a good" if o == "bad" else "a" for o in ours], seed=0)
    again = [text for text in ours for _ in range(10)]
    often = win_rate(Stand(), many, again, ["a good" if o == "bad" else "a" for o in again], seed=0)
    assert (once["briefs"], often["briefs"], often["pairs"]) == (12, 12, 120)
    assert often["win_rate_high"] - often["win_rate_low"] == pytest.approx(
        once["win_rate_high"] - once["win_rate_low"], abs=0.02
    )
    merged = win_rate(Stand(), [brief(0), brief(0, "bonus_pack")], ["good", "a"], ["a", "good"], seed=0)
    assert merged["briefs"] == 1


class Swayed(Stand):
    """Adds half a point to what it is asked about first, whoever wrote it."""

    asked = 0

    def score(self, briefs: Sequence[Brief], texts: Sequence[str]) -> NDArray[np.float64]:
        self.asked += 1
        return super().score(briefs, texts) + 0.5 * (self.asked % 2)


def test_a_judge_that_the_order_sways_decides_nothing_by_it() -> None:
    """Each pair is judged both ways round: what the order alone decides is a tie, what the texts decide stands."""
    briefs = [brief(i) for i in range(4)]
    found = win_rate(Swayed(), briefs, ["a", "b", "c", "d"], ["e", "f", "g", "h"], seed=0)
    assert (found["win_rate"], found["ties"]) == (0.5, 1.0)
    found = win_rate(Swayed(), briefs, ["good", "a", "a", "a"], ["a", "b", "c", "d"], seed=0)
    assert (found["win_rate"], found["ties"]) == ((1 + 3 * 0.5) / 4, 0.75)


def test_briefs_that_all_say_the_same_leave_a_doubt() -> None:
    """Five of five may be luck (p = 0.06), six of six is hardly (p = 0.03): Clopper-Pearson's exact bounds."""
    for n, low in ((1, 0.025), (5, 0.4782), (6, 0.5407)):
        briefs, ours, theirs = [brief(i) for i in range(n)], ["good"] * n, ["a"] * n
        won, lost = win_rate(Stand(), briefs, ours, theirs, seed=0), win_rate(Stand(), briefs, theirs, ours, seed=0)
        assert (won["win_rate_low"], won["win_rate"], won["win_rate_high"]) == (pytest.approx(low, abs=1e-4), 1.0, 1.0)
        assert (lost["win_rate_low"], lost["win_rate_high"]) == (0.0, pytest.approx(1.0 - low, abs=1e-4))
        assert won["length_controlled_low"] == pytest.approx(low * won["length_controlled"], abs=1e-4)
    ties = win_rate(Stand(), [brief(i) for i in range(5)], ["a"] * 5, ["b"] * 5, seed=0)
    assert ties["win_rate_low"] == pytest.approx(0.5 * 0.4782, abs=1e-4)
    assert ties["win_rate_low"] + ties["win_rate_high"] == pytest.approx(1.0)


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(BadInput, match="got 0 briefs"):
        win_rate(Stand(), [], [], [], seed=0)
    with pytest.raises(BadInput, match="1 of our texts and 2 of theirs"):
        win_rate(Stand(), [brief()], ["a"], ["a", "b"], seed=0)
