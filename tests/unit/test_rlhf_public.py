"""Real preferences: which headline pairs count, how much, and what nobody can know of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from churnsaver.errors import BadInput
from churnsaver.settings import load_world
from tests.conftest import SHARED_DATA
from trainers.data.csv_reader import read_csv
from trainers.rlhf.checks import read_preferences
from trainers.rlhf.examples import write_jsonl
from trainers.rlhf.public import POLITENESS, UPWORTHY, contrasts, politeness_pairs, read_public, true_spread

HEADER = "clickability_test_id,headline,eyecatcher_id,impressions,clicks,test_week\n"


def upworthy(folder: Path, *rows: str) -> Path:
    (folder / UPWORTHY).write_text(HEADER + "".join(f"{row},201446\n" for row in rows))
    return folder


def test_only_significant_pairs_of_one_test_and_image(tmp_path: Path) -> None:
    folder = upworthy(
        tmp_path,
        "t1,Good,i1,3000,90", "t1,Bad,i1,3000,40", "t1,Other image,i2,3000,200", "t1,Good,i1,3000,10",
        "t2,Better,i1,3000,50", "t2,Worse,i1,3000,49",
    )  # fmt: skip
    found = read_public(folder, 0)
    pairs = [(pair.chosen, pair.rejected) for part in found.parts.values() for pair in part]
    assert sorted(pairs) == [("Bad", "Good"), ("Good", "Bad")]  # the same headline never meets itself
    assert found.noise_ceiling is not None
    assert 0.9 < found.noise_ceiling < 1.0


def test_weights_and_ceiling_know_the_truth(tmp_path: Path) -> None:
    """Rates are drawn, tests simulated: the ceiling is the share of pairs whose true order was observed."""
    rng = np.random.default_rng(0)
    rates = 0.015 + 0.004 * rng.normal(size=(3000, 2)).clip(-3, 3)
    clicks = rng.binomial(3000, rates)
    rows = [f"t{i},headline {j},i,3000,{clicks[i, j]}" for i in range(3000) for j in range(2)]
    upworthy(tmp_path, *rows)
    found = contrasts(read_csv(tmp_path / UPWORTHY))
    spread = true_spread(found)
    assert spread == pytest.approx(0.004 * np.sqrt(2), rel=0.1)
    truth = [rates[int(c.test[1:]), int(c.better.headline[-1])] > rates[int(c.test[1:])].min() for c in found]
    for significant in (False, True):
        chosen = [
            (c.agrees(spread), right) for c, right in zip(found, truth, strict=True) if (c.z > 1.96) == significant
        ]
        claimed, right = np.mean(chosen, axis=0)
        assert claimed == pytest.approx(right, abs=0.03)


def test_absent_files_are_said(tmp_path: Path) -> None:
    said: list[str] = []
    found = read_public(tmp_path, 0, said.append)
    assert found.noise_ceiling is None
    assert not any(found.parts.values())
    assert [name in text for name, text in zip((UPWORTHY, POLITENESS), said, strict=True)] == [True, True]
    read_public(None, 0, said.append)
    assert "no folder of public data" in said[-1]


@pytest.mark.parametrize(
    ("row", "expected"),
    [("t1,Good,i1,10,11", "row 2: has '11' clicks of '10'"), ("t1,Good,i1,many,1", "expected whole numbers")],
)
def test_impossible_trials_are_refused(tmp_path: Path, row: str, expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        read_public(upworthy(tmp_path, row), 0)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / POLITENESS).write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="has no column 'Community'"):
        read_public(tmp_path, 0)
    with pytest.raises(BadInput, match="is no folder"):
        read_public(tmp_path / POLITENESS, 0)


def test_requests_of_about_one_length_are_paired(tmp_path: Path) -> None:
    rows = [
        f"Wiki,could you kindly look at it {i:03d}?,1.5\nWiki,look at this one right now! {i:03d},-1.5\n"
        for i in range(99)
    ]
    (tmp_path / POLITENESS).write_text("Community,Request,Normalized Score\n" + "".join(rows))
    pairs = [p for part in politeness_pairs(read_csv(tmp_path / POLITENESS), 0).values() for p in part]
    assert len(pairs) > 90
    assert all("kindly" in pair.chosen and "now!" in pair.rejected for pair in pairs)
    assert max(Counter(pair.chosen for pair in pairs).values()) == 1


def test_the_public_files(tmp_path: Path) -> None:
    if not (SHARED_DATA / UPWORTHY).exists():
        pytest.skip("public data are not here (../shared/data)")
    found = read_public(SHARED_DATA, 42)
    kinds = Counter(pair.kind for pair in found.parts["train"])
    assert kinds["headline"] > 2500
    assert kinds["politeness"] > 1000
    texts = {part: {p.chosen for p in pairs} | {p.rejected for p in pairs} for part, pairs in found.parts.items()}
    assert not texts["train"] & (texts["test"] | texts["valid"])
    for part, pairs in found.parts.items():  # `train rm` reads what was written, braces and all
        write_jsonl(tmp_path / f"{part}.jsonl", pairs)
        assert read_preferences(tmp_path / f"{part}.jsonl", load_world(), public=True) == pairs
