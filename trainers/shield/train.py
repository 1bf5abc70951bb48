"""Training of the toxicity classifier: hashed n-grams, logistic regression, Platt scaling, operating point."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from churnsaver.checkpoints import Gate, Manifest, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN, MODEL_CARD
from churnsaver.safety.toxicity import CONFIG, KIND, WEIGHTS, ToxicityConfig, ToxicityModel, buckets_of, clean
from trainers.eval.metrics import auc, ece
from trainers.shield.card import shield_card
from trainers.shield.corpus import Example, Part, read_corpus, require_both_classes
from trainers.shield.templates import templates

# 2^17 float16 weights are 256 KiB: small enough to ship in the repository.
SHAPE = ToxicityConfig(
    buckets=1 << 17, char_ngrams=(2, 5), word_ngrams=2, piece_chars=160, intercept=0.0, scale=1.0, shift=0.0
)
INVERSE_REGULARISATION = 8.0
# The operating point: this share of benign validation texts of customers may be flagged. Half of the target of
# 1 %, so that the share on other texts of the kind stays below it.
FALSE_ALARM_SHARE = 0.005
MIN_AUC = 0.8
TRAINING_STEPS = 3  # fit, calibrate, measure: what `advance` counts after the files
GOLDEN_TEXTS = (
    "Thank you for being our customer; we would like to make your plan work better for you.",
    "We are glad that you joined us, and we would like your first months to go well.",
    "My card has not arrived yet, can you tell me where it is?",
    "You are a worthless idiot.",
    "We will find you and hurt you.",
    "Women are disgusting and should be wiped out.",
    "We welcome women and men of every age.",
    "y0u \u0430re a st.u.p.i.d m0r0n",
)


def train_shield(paths: Sequence[Path], out: Path, seed: int, advance: Callable[[], None] = lambda: None) -> Manifest:
    """Trains on `paths` and the templates and writes a shield checkpoint to `out`.

    Args:
        paths: CSV files, each in one of `corpus.LAYOUTS`.
        advance: called after each file and after each of TRAINING_STEPS.

    Raises:
        SchemaError: a file has no labelled texts, or there are too few of a class.
    """
    read, hashes = read_corpus(paths, advance)
    require_both_classes(read)
    parts = {part: [e for e in read if e.part(seed) is part] + templates(part) for part in Part}
    fitted = fit(parts[Part.TRAIN], seed)
    advance()
    model = calibrated(fitted, parts[Part.VALID])
    advance()
    metrics = measure(model, parts[Part.TEST])
    advance()
    files = {
        WEIGHTS: save({"weights": model.weights.astype(np.float16)}),
        CONFIG: (model.config.model_dump_json(indent=2) + "\n").encode(),
        GOLDEN: _json([{"text": text, "score": model.score(text)} for text in GOLDEN_TEXTS]),
        MODEL_CARD: shield_card(parts, hashes, metrics, seed).encode(),
    }
    data_sha256 = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    gate = Gate.of((metrics["auc"] >= MIN_AUC, f"AUC {metrics['auc']:.3f} on held-out texts is below {MIN_AUC}"))
    return write_checkpoint(out, KIND, files, seed=seed, metrics=metrics, data_sha256=data_sha256, gate=gate)


def fit(examples: Sequence[Example], seed: int) -> ToxicityModel:
    """Balanced logistic regression on the hashed n-grams, its weights rounded to float16 as they are stored."""
    features = vectorise([clean(example.text) for example in examples])
    target = np.array([example.toxic for example in examples])
    regression = LogisticRegression(
        C=INVERSE_REGULARISATION, class_weight="balanced", solver="liblinear", random_state=seed, max_iter=200
    ).fit(features, target)
    weights = regression.coef_[0].astype(np.float16).astype(np.float32)
    config = SHAPE.model_copy(update={"intercept": float(regression.intercept_[0])})
    return ToxicityModel(config, weights)


def vectorise(texts: Sequence[str]) -> csr_matrix:
    """Rows of unit length with equal values in the found buckets, shape (texts, buckets)."""
    found = [buckets_of(text, SHAPE) for text in texts]
    sizes = np.array([len(row) for row in found])
    values = np.repeat(1.0 / np.sqrt(np.maximum(sizes, 1)), sizes)
    return csr_matrix(
        (values, np.concatenate(found), np.concatenate([[0], np.cumsum(sizes)])), shape=(len(texts), SHAPE.buckets)
    )


def calibrated(model: ToxicityModel, valid: Sequence[Example]) -> ToxicityModel:
    """Platt's scale from the validation rows, and the shift that puts the operating point at 0.5.

    The rows hold far more toxic texts than a shop's messages do, so Platt's own offset means nothing in
    service; the shift is chosen by the share of benign customers' texts that may be flagged instead.
    """
    logits = np.array([model.logit(example.text) for example in valid])
    target = np.array([example.toxic for example in valid])
    platt = LogisticRegression(C=math.inf, class_weight="balanced").fit(logits[:, None], target)
    scale = float(platt.coef_[0, 0])
    benign = np.array([e.customer_like or not any(x.customer_like for x in valid) for e in valid]) & ~target
    threshold = float(np.quantile(logits[benign], 1.0 - FALSE_ALARM_SHARE, method="higher"))
    threshold = max(threshold, float(-platt.intercept_[0] / scale))
    config = model.config.model_copy(update={"scale": scale, "shift": -scale * threshold - 1e-6})
    return ToxicityModel(config, model.weights)


def measure(model: ToxicityModel, test: Sequence[Example]) -> dict[str, float]:
    """AUC, recall and false alarms at 0.5 on held-out rows, over all and by source."""
    scores = np.array([model.score(example.text) for example in test])
    target = np.array([example.toxic for example in test])
    metrics = {"auc": auc(target, scores), "ece": ece(target, scores), "test_rows": float(len(test))}
    for source in sorted({example.source for example in test}):
        rows = np.array([example.source == source for example in test])
        name = source.split(".")[0]
        metrics |= _shares(name, target[rows], scores[rows])
    return metrics


def _shares(name: str, target: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, float]:
    flagged = scores >= 0.5
    shares = {}
    if target.any():
        shares[f"{name}_recall"] = float(flagged[target].mean())
    if not target.all():
        shares[f"{name}_false_alarms"] = float(flagged[~target].mean())
    if target.any() and not target.all():
        shares[f"{name}_auc"] = auc(target, scores)
    return shares


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
