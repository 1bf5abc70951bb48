"""Checkpoints that differ from a served one in nothing but their model card, so that they can be swapped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from churnsaver.checkpoints import Checkpoint, write_checkpoint
from churnsaver.checkpoints.checkpoint import MODEL_CARD


def write_variant(checkpoint: Checkpoint, number: int, out: Path, changed: Mapping[str, bytes] | None = None) -> str:
    """Writes variant `number` of a checkpoint to `out`; returns its version.

    Args:
        changed: other content of files, by name.
    """
    files = {name: (checkpoint.path / name).read_bytes() for name in checkpoint.manifest.files}
    files[MODEL_CARD] = f"# Variant {number}\n".encode()
    files |= changed or {}
    manifest = checkpoint.manifest
    written = write_checkpoint(
        out, manifest.kind, files, seed=manifest.seed, metrics=manifest.metrics, parents=manifest.parents
    )
    return written.version
