"""Checkpoints: folders of data files with a manifest that says what they are and what they hash to.

`registry` keeps what was published, `follower` keeps a process on it.
"""

from churnsaver.checkpoints.checkpoint import (
    Checkpoint,
    Gate,
    Manifest,
    open_checkpoint,
    require_replaceable,
    write_checkpoint,
)

__all__ = ["Checkpoint", "Gate", "Manifest", "open_checkpoint", "require_replaceable", "write_checkpoint"]
