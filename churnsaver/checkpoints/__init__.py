"""Checkpoints: folders of data files with a manifest that says what they are and what they hash to."""

from churnsaver.checkpoints.checkpoint import Checkpoint, Manifest, open_checkpoint, write_checkpoint

__all__ = ["Checkpoint", "Manifest", "open_checkpoint", "write_checkpoint"]
