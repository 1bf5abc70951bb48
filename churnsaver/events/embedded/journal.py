"""The disk: every change is written and synced before the call that made it is answered.

One line a change: its CRC-32 in hexadecimal and the change as JSON. Changes that arrive while the disk
syncs are written together. The journal is rewritten from the state by the first write after a start, when
it has doubled, and after a write that failed, so that a full disk costs errors and no data.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import structlog
from google.protobuf.message import DecodeError

from churnsaver.errors import BadInput
from churnsaver.events.embedded.state import Change
from churnsaver.events.embedded.wire import Refused

log = structlog.get_logger()

FILE = "journal.jsonl"
COMPACT_BYTES = 1 << 20  # a smaller journal is never worth a rewrite


class Journal:
    """The journal in `folder`; an asynchronous context manager, which writes while it is open.

    Args:
        folder: made where it is missing.
        whole: the changes that make the present state, for a rewrite.

    Raises:
        BadInput: the folder cannot be written, or another process uses it.
    """

    def __init__(self, folder: Path, whole: Callable[[], Iterable[Change]]) -> None:
        self._path, self._whole = folder / FILE, whole
        self._lines: list[bytes] = []
        self._batch: asyncio.Future[None] | None = None
        self._wanted = asyncio.Event()
        self._closing = False
        self._file: Any = None  # None asks for a rewrite
        self._compact_at = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("ab")
        except OSError as error:
            raise BadInput(f"{folder}: the journal cannot be written ({error.strerror}); set state_dir") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise BadInput(f"{folder}: another embedded Pub/Sub writes here; stop it or set state_dir") from None

    def replay(self, apply: Callable[[Change], None]) -> None:
        """Hands every change on disk to `apply`; a line that cannot be used is logged and skipped."""
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                # A power loss cut it; whoever made the change never got an answer.
                log.info("journal.last_line_torn", file=str(self._path), line=number)
                break
            try:
                apply(parse_line(line))
            except (LookupError, TypeError, ValueError, DecodeError) as error:
                log.warning("journal.line_skipped", file=str(self._path), line=number, reason=str(error))

    def append(self, change: Change) -> None:
        """Takes a change; it is on the disk when `synced` returns."""
        self._lines.append(format_line(change))
        self._wanted.set()
        if self._batch is None:
            self._batch = asyncio.get_running_loop().create_future()

    async def synced(self) -> None:
        """Waits for what has been appended; Refused (UNAVAILABLE) where it cannot be written now."""
        if self._batch is not None:
            await asyncio.shield(self._batch)

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write_batches())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Writes what is left and closes."""
        self._closing = True
        self._wanted.set()
        await self._writer
        self._close_file()
        self._lock.close()

    async def _write_batches(self) -> None:
        while self._lines or not self._closing:
            await self._wanted.wait()
            self._wanted.clear()
            # What is appended from here on belongs to the next batch.
            lines, self._lines = self._lines, []
            batch, self._batch = self._batch, None
            if batch is None:
                continue
            try:
                if self._file is None or self._file.tell() > self._compact_at:
                    # Read here, in the loop, where the state stands still; it holds the batch's changes.
                    lines = [format_line(change) for change in self._whole()]
                    await asyncio.to_thread(self._rewrite, lines)
                else:
                    await asyncio.to_thread(self._add, lines)
                batch.set_result(None)
            except OSError as error:
                self._close_file()
                log.error("journal.unwritable", file=str(self._path), reason=error.strerror)  # noqa: TRY400
                message = f"{self._path}: cannot be written ({error.strerror}); nothing new is acknowledged"
                batch.set_exception(Refused(grpc.StatusCode.UNAVAILABLE, message))
                batch.exception()  # nobody may be waiting for it

    def _add(self, lines: list[bytes]) -> None:
        self._file.write(b"".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _rewrite(self, lines: list[bytes]) -> None:
        """Replaces the journal; written beside it first, so that a crash leaves one or the other."""
        beside = self._path.with_suffix(".new")
        self._close_file()
        self._file = beside.open("wb")
        self._add(lines)
        beside.replace(self._path)
        _sync_folder(self._path.parent)
        self._compact_at = max(COMPACT_BYTES, 2 * self._file.tell())

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # it may want to write once more what the disk would not take
                self._file.close()
            self._file = None


def format_line(change: Change) -> bytes:
    """A change as one line with its checksum."""
    body = json.dumps(change, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse_line(line: bytes) -> Change:
    """The change in a line; ValueError where it is not as it was written."""
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        raise ValueError("the line is not as it was written")
    change: Change = json.loads(body)
    return change


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
