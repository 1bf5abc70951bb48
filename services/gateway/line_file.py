"""An append-only file of JSON lines that survives torn writes, damaged lines and being rewritten while in use."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import IO, Generic, TypeVar

import structlog
from pydantic import TypeAdapter, ValidationError

from churnsaver.domain.world import Frozen

log = structlog.get_logger()

Record = TypeVar("Record", bound=Frozen)


class LineFile(Generic[Record]):
    """Records of one type, one a line. Appends come from one thread, that of the event loop.

    Damaged lines that are there at the start are moved to `<name>.damaged` beside the file.

    Args:
        adapter: reads and checks one line.

    Attributes:
        lines: how many records the file holds.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, adapter: TypeAdapter[Record]) -> None:
        self.path, self._adapter = path, adapter
        self._file = path.open("ab+", buffering=0)
        self._rewriting = asyncio.Lock()
        self.lines = self._set_damaged_aside()

    def close(self) -> None:
        """Nothing can be added after this."""
        self._file.close()

    def append(self, record: Record, *, sync: bool = False) -> None:
        """Adds a record; it has reached the operating system when this returns, and with `sync` the disk.

        Raises:
            OSError: the record was not written as a whole.
        """
        # Without what is as always, so that a gateway that is rolled back reads it as long as nothing is new.
        # A line that a crash or a full disk cut off must not swallow this one.
        _write_all(self._file, self._line_break() + record.model_dump_json(exclude_defaults=True).encode() + b"\n")
        if sync:
            os.fsync(self._file.fileno())
        self.lines += 1

    def records(self, holding: str = "") -> Iterator[Record]:
        """Every record whose line holds the text, oldest first; damaged lines are passed over."""
        return (record for _, _, record in self._read(holding=holding) if record is not None)

    async def rewrite(self, change: Callable[[Iterable[Record]], Iterable[Record]]) -> None:
        """Replaces the records by what `change` makes of them, in a thread; what is appended meanwhile is kept.

        Raises:
            OSError: the records are as they were.
        """
        async with self._rewriting:
            lines, size = self.lines, self._size()
            written = await asyncio.to_thread(self._write_beside, change, size)
            self._take_over(size)
            self.lines += written - lines

    def forget_damaged(self, text: str) -> None:
        """Removes the damaged lines that hold `text`."""
        if self._damaged_path.exists():
            lines = self._damaged_path.read_bytes().splitlines(keepends=True)
            self._damaged_path.write_bytes(b"".join(line for line in lines if text.encode() not in line))

    @property
    def _damaged_path(self) -> Path:
        return self.path.with_name(self.path.name + ".damaged")

    @property
    def _new_path(self) -> Path:
        return self.path.with_name(self.path.name + ".new")

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _line_break(self) -> bytes:
        size = self._size()
        return b"" if size == 0 or os.pread(self._file.fileno(), 1, size - 1) == b"\n" else b"\n"

    def _read(self, size: int | None = None, holding: str = "") -> Iterator[tuple[int, bytes, Record | None]]:
        """Number, bytes and record of each line in the first `size` bytes; no record for a damaged one."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if size is not None and file.tell() > size:
                    return
                if line == b"\n" or holding.encode() not in line:
                    continue
                try:
                    record = self._adapter.validate_json(line)
                except ValidationError:
                    record = None
                yield number, line, record

    def _set_damaged_aside(self) -> int:
        """Returns how many records there are; damaged lines, such as a power loss leaves, are kept elsewhere."""
        count, damaged = 0, []
        for number, line, record in self._read():
            if record is not None:
                count += 1
                continue
            damaged.append(line.rstrip(b"\n") + b"\n")
            log.error("journal.line_damaged", file=str(self.path), line=number, bytes=len(line))
        if damaged:
            try:
                with self._damaged_path.open("ab") as beside:
                    beside.writelines(damaged)
                    _sync(beside)
                self._write_beside(lambda records: records, self._size())
                self._take_over(self._size())
            except OSError:
                log.exception("journal.damaged_lines_stay", file=str(self.path))
        return count

    def _write_beside(self, change: Callable[[Iterable[Record]], Iterable[Record]], size: int) -> int:
        """Writes what `change` makes of the first `size` bytes to a file beside; returns how many records."""
        records = (record for _, _, record in self._read(size) if record is not None)
        written = 0
        with self._new_path.open("wb") as beside:
            for record in change(records):
                beside.write(record.model_dump_json(exclude_defaults=True).encode() + b"\n")
                written += 1
            _sync(beside)
        return written

    def _take_over(self, size: int) -> None:
        """Adds what was appended after the first `size` bytes to the file beside, and puts it in place."""
        new = self._new_path.open("ab+", buffering=0)
        try:
            _write_all(new, os.pread(self._file.fileno(), self._size() - size, size))
            _sync(new)
            self._new_path.replace(self.path)
        except OSError:
            new.close()
            raise
        self._file.close()
        self._file = new
        _sync_folder(self.path.parent)


def _write_all(file: FileIO, content: bytes) -> None:
    """A disk that is nearly full may take a part of it without an error."""
    if file.write(content) != len(content):
        raise OSError(errno.ENOSPC, f"{file.name}: a part was written only")


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """A replaced file survives a power loss only when its folder is on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
