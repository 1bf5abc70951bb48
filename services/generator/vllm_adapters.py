"""The folder in which a vLLM server looks for adapters, shared by every generator that the server writes for.

Each generator marks the adapters that it uses and renews its marks. So the last one that lets go of an adapter takes it
away, and what a generator that was killed left behind goes as well.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import structlog

from churnsaver.checkpoints import Checkpoint
from churnsaver.errors import CheckpointError
from churnsaver.models.adapters import ADAPTER, ADAPTER_CONFIG, WRITER

log = structlog.get_logger()

RENEW_S = 30.0
# Whoever has not renewed a mark for so long is gone.
STALE_S = 300.0


class AdapterFolder:
    """Adapters by name, each a folder of files and marks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark = f".used-{uuid.uuid4().hex}"
        self._held: Counter[str] = Counter()
        self._holding = threading.Lock()  # hold and let_go come from several threads

    def hold(self, adapter: str) -> None:
        """Somebody here uses the adapter; until as many have let go of it, it stays."""
        with self._holding:
            self._held[adapter] += 1

    def let_go(self, adapter: str) -> bool:
        """Returns whether nobody uses the adapter any more, here or elsewhere."""
        with self._holding:  # also of the mark: whoever holds the adapter next marks it anew
            self._held[adapter] -= 1
            if self._held[adapter] > 0:
                return False
            del self._held[adapter]
            (self.path / adapter / self._mark).unlink(missing_ok=True)
        return not self.is_used(adapter)

    def put(self, checkpoint: Checkpoint, base: str) -> None:
        """Writes an adapter that is held. vLLM wants the name of the base in it, as the server calls it.

        Raises:
            CheckpointError: it cannot be written.
        """
        folder = self.path / checkpoint.version
        config = json.dumps(checkpoint.read_json(ADAPTER_CONFIG) | {"base_model_name_or_path": base})
        try:
            try:
                self._write(folder, checkpoint.path / ADAPTER, config)
            except FileNotFoundError:  # another generator, its last user until now, took the folder away meanwhile
                self._write(folder, checkpoint.path / ADAPTER, config)
        except OSError as error:
            raise CheckpointError(
                f"{folder}: cannot be written ({error.strerror or error}); generator.vllm.adapters is a folder that "
                "generator and vLLM server share"
            ) from None

    def _write(self, folder: Path, weights: Path, config: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self._mark).touch()
        # The config last: without it the server sees no adapter. What is there may be in use, so it is replaced.
        copied, described = (folder / f".{name}.{uuid.uuid4().hex}" for name in (ADAPTER, ADAPTER_CONFIG))
        shutil.copyfile(weights, copied)
        copied.replace(folder / ADAPTER)
        described.write_text(config)
        described.replace(folder / ADAPTER_CONFIG)

    def remove(self, adapter: str) -> None:
        """Takes it out of sight at once, then away; not where somebody has gone back to it meanwhile."""
        if self.is_used(adapter):
            return
        gone = self.path / f".gone-{uuid.uuid4().hex}"
        try:
            (self.path / adapter).rename(gone)
        except OSError:  # never written, or somebody else was quicker
            return
        shutil.rmtree(gone, ignore_errors=True)

    def renew(self) -> None:
        """Says that what is held here is still used."""
        for adapter in tuple(self._held):  # in a thread: adapters come and go meanwhile
            try:
                (self.path / adapter / self._mark).touch()
            except OSError as error:  # not written yet, or the folder is away: then nobody can take it away either
                log.debug("adapter.not_marked", adapter=adapter, reason=str(error))

    def unused(self) -> list[str]:
        """The adapters that nobody uses, and nobody is writing."""
        return [
            each.name
            for each in self.path.glob(f"{WRITER}-*")  # whatever else lies there is not ours
            if not self.is_used(each.name) and _age_s(each) > STALE_S
        ]

    def is_used(self, adapter: str) -> bool:
        """Whether somebody uses it, here or elsewhere."""
        marks = (self.path / adapter).glob(".used-*")
        return adapter in self._held or any(_age_s(mark) < STALE_S for mark in marks)


def _age_s(path: Path) -> float:
    """How long ago it was written; for ever where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")
