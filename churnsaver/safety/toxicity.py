"""A toxicity classifier that needs nothing but NumPy: logistic regression over hashed n-grams.

Character 3- to 5-grams inside words, and whole words, are hashed into a fixed number of buckets (the
"hashing trick", Weinberger et al. 2009), so that there is no vocabulary to ship and a word never seen
still shares n-grams with those that were.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from churnsaver.checkpoints import Checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN
from churnsaver.errors import CheckpointError
from churnsaver.safety.normal import plain

KIND = "shield"
WEIGHTS = "toxicity.safetensors"
CONFIG = "config.json"
BUCKETS = 1 << 17
NGRAMS = (3, 4, 5)
MAX_CHARS = 2_000
GOLDEN_TOLERANCE = 1e-4


def features(text: str) -> dict[int, float]:
    """Bucket → weight of one text, L2-normalised; a feature's weight grows with the log of its count."""
    counts: dict[int, int] = {}
    for gram in _grams(plain(text[:MAX_CHARS])):
        bucket = zlib.crc32(gram.encode()) % BUCKETS
        counts[bucket] = counts.get(bucket, 0) + 1
    weights = {bucket: 1.0 + math.log(count) for bucket, count in counts.items()}
    norm = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
    return {bucket: weight / norm for bucket, weight in weights.items()}


def _grams(text: str) -> Iterator[str]:
    for word in text.split():
        yield f"w:{word}"
        padded = f" {word} "
        for n in NGRAMS:
            for start in range(len(padded) - n + 1):
                yield padded[start : start + n]


@dataclass(frozen=True, slots=True)
class ToxicityModel:
    """Calibrated probability that a text is toxic.

    Attributes:
        weights: (BUCKETS,) log-odds of each bucket.
        scale, shift: Platt calibration of the raw log-odds, intercept included.
        threshold: probability from which a text is blocked.
    """

    weights: NDArray[np.float32]
    scale: float
    shift: float
    threshold: float

    def score(self, text: str) -> float:
        """Probability of toxicity, [0, 1]."""
        found = features(text)
        raw = sum(float(self.weights[bucket]) * weight for bucket, weight in found.items())
        return 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, self.scale * raw + self.shift))))

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> ToxicityModel:
        """The classifier of a verified checkpoint, after its golden cases.

        Raises:
            CheckpointError: it cannot be read, or a golden case has another score than training computed.
        """
        config = checkpoint.read_json(CONFIG)
        try:
            weights = load(checkpoint.read(WEIGHTS))["weights"].astype(np.float32)
            model = cls(weights, float(config["scale"]), float(config["shift"]), float(config["threshold"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.path}: is no toxicity classifier ({error!r}); train it again") from None
        if weights.shape != (BUCKETS,):
            raise CheckpointError(f"{checkpoint.path / WEIGHTS}: expected {BUCKETS} weights, got {weights.shape}")
        for case in checkpoint.read_json(GOLDEN):
            if abs(model.score(case["text"]) - case["score"]) > GOLDEN_TOLERANCE:
                raise CheckpointError(
                    f"{checkpoint.path}: the golden case {case['text']!r} scores {model.score(case['text']):.4f}, "
                    f"training computed {case['score']:.4f}; restore the checkpoint or train it again"
                )
        return model
