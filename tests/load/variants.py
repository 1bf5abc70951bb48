"""Checkpoints that differ from a served one in nothing but their model card, so that they can be swapped."""

from __future__ import annotations

from pathlib import Path

from churnsaver.checkpoints import Checkpoint, write_checkpoint
from churnsaver.checkpoints.checkpoint import MODEL_CARD


def write_variant(checkpoint: Checkpoint, number: int, out: Path, **changed: bytes) -> str:
    """Writes variant `number` of a checkpoint to `out`; returns its version.

    Args:
        changed: other content of files, by name without its suffix `.json`.
    """
    files = {name: (checkpoint.path / name).read_bytes() for name in checkpoint.manifest.files}
    files[MODEL_CARD] = f"# Variant {number}\n".encode()
    files |= {f"{name}.json": content for name, content in changed.items()}
    manifest = checkpoint.manifest
    written = write_checkpoint(
        out, manifest.kind, files, seed=manifest.seed, metrics=manifest.metrics, parents=manifest.parents
    )
    return written.version
