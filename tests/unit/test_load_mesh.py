"""The interval of the mesh's speed against that of its server alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.load.mesh import PAIRS_FOR_AN_INTERVAL, ratio_interval


def blocks(pairs: int, slower: float) -> dict[str, list[dict[str, Any]]]:
    """Of pairs with the same tokens both ways, the generator's so much slower, give or take a tenth."""
    random = np.random.default_rng(42)
    tokens, alone_s = random.uniform(100.0, 300.0, pairs), random.uniform(8.0, 18.0, pairs)
    through_s = alone_s * slower * random.normal(1.0, 0.1, pairs)
    rows = {"vllm": zip(tokens, alone_s, strict=True), "generator": zip(tokens, through_s, strict=True)}
    return {way: [{"tokens": count, "wall_s": wall_s} for count, wall_s in found] for way, found in rows.items()}


@pytest.mark.parametrize("slower", [1.0, 1.25])
def test_the_true_ratio_lies_in_a_narrow_interval(slower: float) -> None:
    low, high = ratio_interval(blocks(32, slower), seed=42) or (0.0, 0.0)
    assert low < 1.0 / slower < high
    assert high - low < 0.15


def test_few_pairs_have_no_interval() -> None:
    assert ratio_interval(blocks(PAIRS_FOR_AN_INTERVAL - 1, 1.0), seed=42) is None
    assert ratio_interval(blocks(PAIRS_FOR_AN_INTERVAL, 1.0), seed=42) is not None
