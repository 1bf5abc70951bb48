"""What a tree model reads, and in which segments its probabilities hold: for reports and model cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churnsaver.models.trees import CalibratedTrees
from trainers.eval.segments import Segment, segment_calibration

SHAP_ROWS = 10_000

Floats = NDArray[np.float64]


def mean_shap(
    trees: CalibratedTrees, matrix: NDArray[np.float32], feature_types: list[str], names: list[str]
) -> dict[str, float]:
    """Mean |SHAP value| of each feature over rows of `matrix` (n, features), in log-odds, by name.

    Of many rows, SHAP_ROWS or a few more are taken at even distances.
    """
    spread = matrix[:: max(1, len(matrix) // SHAP_ROWS)]
    values = np.abs(trees.contributions(spread, feature_types)[:, :-1]).mean(axis=0)
    return dict(zip(names, values.tolist(), strict=True))


def explained(
    importance: Mapping[str, float], segments: list[Segment], target: NDArray[np.bool_], probability: Floats, seed: int
) -> dict[str, Any]:
    """The part of a result that says what a model reads and where it holds, the most important feature first."""
    calibration = segment_calibration(segments, target, probability, seed)
    return {
        "importance": dict(sorted(importance.items(), key=lambda item: -item[1])),
        "segments_miscalibrated": sum(not segment["calibrated"] for segment in calibration),
        "segments": calibration,
    }
