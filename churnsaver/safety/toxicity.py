"""The toxicity classifier: logistic regression on hashed character and word n-grams, in numpy alone.

A text's n-grams are hashed into a fixed number of buckets (Weinberger et al. 2009,
https://arxiv.org/abs/0902.2206), so there is no vocabulary to ship: the model is one weight a bucket.
Long texts are scored in pieces of about a tweet, the length that it was trained on, and the worst piece
counts, so that one insult is not diluted by a page of courtesy.
"""

from __future__ import annotations

import html
import math
import re
import zlib
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from churnsaver.checkpoints import Checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN
from churnsaver.domain.world import Frozen
from churnsaver.errors import CheckpointError
from churnsaver.safety.normal import plain, views
from churnsaver.safety.review import MAX_REVIEW_CHARS, Finding

KIND, CONFIG, WEIGHTS = "shield", "config.json", "toxicity.safetensors"
# A golden score may differ by this much between machines: sums of float32 in another order.
GOLDEN_TOLERANCE = 1e-4

_NOISE = re.compile(r"https?://\S+|www\.\S+|@\w+|&\w+;|\brt\b")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[*#@$!]{2,}")
_PIECE = re.compile(r"[^.!?\n]+[.!?\n]*")
_FNV_OFFSET, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)  # FNV-1a, 32 bits


class ToxicityConfig(Frozen):
    """How texts become buckets, and logits become scores.

    Attributes:
        buckets: how many weights there are; a power of two.
        char_ngrams: shortest and longest character n-gram.
        word_ngrams: longest word n-gram.
        piece_chars: texts are scored in pieces of at most about this many characters.
        intercept: added to the weights' sum.
        scale: Platt's slope, from validation rows (https://en.wikipedia.org/wiki/Platt_scaling).
        shift: Platt's offset, moved so that a score of 0.5 is the operating point that training chose.
    """

    buckets: int = Field(gt=1)
    char_ngrams: tuple[int, int]
    word_ngrams: int = Field(ge=1)
    piece_chars: int = Field(ge=20)
    intercept: float
    scale: float
    shift: float


class GoldenCase(Frozen):
    """A text and the score that the model gave it when it was written."""

    text: str
    score: float


def buckets_of(text: str, config: ToxicityConfig) -> NDArray[np.uint32]:
    """The distinct buckets of a cleaned text's n-grams, sorted, shape (found,). See `clean`."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le", "replace"), dtype=np.uint32)
    shortest, longest = config.char_ngrams
    hashes = [_char_ngram_hashes(codes, n) for n in range(shortest, longest + 1)]
    words = _WORD.findall(text)
    grams = ("\x00".join(words[i : i + n]) for n in range(1, config.word_ngrams + 1) for i in range(len(words) - n + 1))
    hashes.append(np.fromiter((zlib.crc32(gram.encode("utf-8", "replace")) for gram in grams), dtype=np.uint32))
    every = np.concatenate(hashes)
    return np.unique((every ^ (every >> np.uint32(15))) & np.uint32(config.buckets - 1))


def _char_ngram_hashes(codes: NDArray[np.uint32], n: int) -> NDArray[np.uint32]:
    """FNV-1a of each run of n code points, shape (len(codes) - n + 1,)."""
    count = max(len(codes) - n + 1, 0)
    hashes = np.full(count, _FNV_OFFSET ^ np.uint32(n), dtype=np.uint32)
    for i in range(n):
        hashes = (hashes ^ codes[i : i + count]) * _FNV_PRIME
    return hashes


def clean(text: str) -> str:
    """A text as the model reads it: plain, without links, mentions and the marks of retweets."""
    return " ".join(_NOISE.sub(" ", plain(html.unescape(text))).split())


def pieces(text: str, piece_chars: int) -> list[str]:
    """Runs of whole sentences of at most `piece_chars`; a longer sentence is one piece."""
    runs: list[str] = []
    for sentence in _PIECE.findall(text):
        if runs and len(runs[-1]) + len(sentence) <= piece_chars:
            runs[-1] += sentence
        else:
            runs.append(sentence)
    return runs


@dataclass(frozen=True, slots=True)
class ToxicityModel:
    """Scores texts.

    Attributes:
        config: how texts become buckets and logits become scores.
        weights: (buckets,) float32.
    """

    config: ToxicityConfig
    weights: NDArray[np.float32]

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Self:
        """The classifier of a verified checkpoint, after its golden cases scored as recorded.

        Raises:
            CheckpointError: a file is missing or holds no such model, or a golden case scores differently.
        """
        path = checkpoint.path
        try:
            config = ToxicityConfig.model_validate(checkpoint.read_json(CONFIG))
            weights = load(checkpoint.read(WEIGHTS))["weights"].astype(np.float32)
            golden = TypeAdapter(list[GoldenCase]).validate_python(checkpoint.read_json(GOLDEN))
        except (ValidationError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{path}: holds no toxicity classifier ({error}); train it again") from None
        if weights.shape != (config.buckets,) or not np.isfinite(weights).all():
            raise CheckpointError(f"{path / WEIGHTS}: expected {config.buckets} finite weights; train it again")
        model = cls(config, weights)
        for case in golden:
            if abs((found := model.score(case.text)) - case.score) > GOLDEN_TOLERANCE:
                raise CheckpointError(
                    f"{path}: the golden case {case.text!r} scores {found:.4f}, training computed {case.score:.4f}; "
                    "restore the checkpoint or train it again"
                )
        return model

    def logit(self, text: str) -> float:
        """Uncalibrated log-odds of the worst piece of `text`, in any spelling; -inf without words."""
        cleaned = dict.fromkeys(clean(view) for view in views(text[:MAX_REVIEW_CHARS]))
        parts = (piece for view in cleaned for piece in pieces(view, self.config.piece_chars))
        return max(map(self._piece_logit, parts), default=-math.inf)

    def score(self, text: str) -> float:
        """How toxic `text` is, in [0, 1]; 0.5 is the operating point."""
        exponent = -(self.config.scale * self.logit(text) + self.config.shift)
        return 1.0 / (1.0 + math.exp(min(exponent, 60.0)))

    def review(self, own_words: str, threshold: float) -> tuple[float, list[Finding]]:
        """The score of a text's own words, and the finding `toxicity` where it reaches the threshold."""
        score = self.score(own_words)
        found = [Finding("toxicity", f"reads as toxic ({score:.2f}); say it kindly")] if score >= threshold else []
        return score, found

    def _piece_logit(self, piece: str) -> float:
        found = buckets_of(piece, self.config)
        return float(self.weights[found].sum()) / math.sqrt(max(len(found), 1)) + self.config.intercept
