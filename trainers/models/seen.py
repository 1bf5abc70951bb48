"""Fingerprints of the rows that a checkpoint was trained on, so that they are never measured as held out.

A hash of the file is not enough: one more line makes it another file. Of the rows' 32-bit hashes the KEPT smallest
are kept (Broder's 1997 sketch), so that a checkpoint stays small and the share of known rows can still be told of any
file. A row that was altered, or rounded, is another row: this guards against a slip, not against intent.

What is hashed is the features, not the id. Ids are few, public and easily listed (an e-mail address, a number), so
that whoever has the checkpoint could ask of each whether it was a customer's; to ask it of a row of features, one must
already hold the row. A key would not help: it would have to lie in the checkpoint, too.
"""

from __future__ import annotations

import base64
import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.schema import DatasetSchema
from churnsaver.errors import BadInput, CheckpointError
from trainers.data import Dataset, Part

TRAINED_ON = "trained_on.json"
KEPT = 16384  # × 4 bytes, 87 kB as base64
# So many rows may be known beyond those that chance explains; fewer than LEAST say nothing.
TRIVIAL_SHARE, LEAST = 0.02, 10
MEND = "measure with --rows test on the file that it was trained on, or give rows that it never saw"

Hashes = NDArray[np.uint32]


def trained_on(rows: Dataset, schema: DatasetSchema | None = None) -> bytes:
    """The file TRAINED_ON of a checkpoint that was fitted on `rows`, encoded as `schema` says; default: their own.

    Only rows that occur once are kept: customers who share all their features are no evidence. How often rows occur
    twice says how many of new customers equal one of those by chance (Good, 1953): 2 × pairs / rows.
    """
    distinct, counts = np.unique(_hashes(rows, schema or rows.schema), return_counts=True)
    kept = distinct[counts == 1][:KEPT]
    complete = (counts == 1).sum() <= KEPT
    content = {
        "below": 2**32 if complete else int(kept[-1]) + 1,
        "by_chance": 2.0 * float((counts == 2).sum()) / max(len(rows), 1),
        "hashes": base64.b64encode(kept.astype("<u4").tobytes()).decode(),
    }
    return json.dumps(content).encode()


def require_unseen(rows: Dataset, opened: Checkpoint, schema: DatasetSchema, mend: str = MEND) -> None:
    """BadInput where `rows`, which are to be measured, hold rows that `opened` was trained on.

    Args:
        schema: the checkpoint's, which says how features are encoded. Checkpoints without TRAINED_ON pass.
        mend: what to say that a person can do.
    """
    if rows.sha256 == opened.manifest.data_sha256 and (rows.parts != str(Part.TEST)).any():
        raise BadInput(f"{rows.source}: the checkpoint was trained on this file; measure with --rows test")
    if TRAINED_ON not in opened.contents:
        return
    content = opened.read_json(TRAINED_ON)
    try:
        kept = np.frombuffer(base64.b64decode(content["hashes"], validate=True), dtype="<u4")
        below, by_chance = int(content["below"]), float(content["by_chance"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{opened.path / TRAINED_ON}: holds no fingerprints; train it again") from None
    found = _hashes(rows, schema)
    looked_at = found[found < below]
    known = int(np.isin(looked_at, kept).sum())
    if known < LEAST or known <= (TRIVIAL_SHARE + 2.0 * by_chance) * len(looked_at):
        return
    raise BadInput(
        f"{rows.source}: the checkpoint was trained on {100.0 * known / len(looked_at):.0f} % of the {len(rows)} rows "
        f"to be measured (they have the same features); {mend}"
    )


def _hashes(rows: Dataset, schema: DatasetSchema) -> Hashes:
    """A hash of each row's features, (n,), the same on every machine."""
    matrix = rows.matrix(schema).astype("<f4") + np.float32(0.0)  # −0 is 0
    matrix[np.isnan(matrix)] = np.nan  # one of the many NaNs
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=4).digest() for row in matrix)
    return np.frombuffer(digests, dtype="<u4")
