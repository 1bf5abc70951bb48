"""The journal: torn, corrupt, compacted, and on a disk that is full."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from churnsaver.errors import BadInput
from churnsaver.events.embedded import journal as journal_module
from churnsaver.events.embedded.journal import FILE, Journal, format_line, parse_line
from churnsaver.events.embedded.state import Change
from churnsaver.events.embedded.wire import Refused


def change(number: int) -> Change:
    return {"op": "kept", "number": number}


def replayed(folder: Path) -> list[int]:
    """The numbers on disk."""
    numbers: list[int] = []
    journal = Journal(folder, list)
    journal.replay(lambda each: numbers.append(each["number"]))
    journal._lock.close()
    return numbers


async def write(folder: Path, *numbers: int) -> None:
    """Appends to what is there, as the server does."""
    known = [change(number) for number in replayed(folder)]
    async with Journal(folder, lambda: known) as journal:
        for number in numbers:
            known.append(change(number))
            journal.append(change(number))
            await journal.synced()


async def test_what_is_synced_is_there_after_a_restart(tmp_path: Path) -> None:
    await write(tmp_path, 1, 2)
    await write(tmp_path, 3)
    assert replayed(tmp_path) == [1, 2, 3]


async def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    await write(tmp_path, 1, 2)
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-5])
    with capture_logs() as logs:
        assert replayed(tmp_path) == [1]
    assert [(line["event"], line["log_level"]) for line in logs] == [("journal.last_line_torn", "info")]
    await write(tmp_path, 3)
    assert replayed(tmp_path) == [1, 3]


async def test_corrupt_line_is_named_and_left_out(tmp_path: Path) -> None:
    await write(tmp_path, 1, 2, 3)
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes().replace(b'"number":2', b'"number":7'))
    with capture_logs() as logs:
        assert replayed(tmp_path) == [1, 3]
    assert [(line["file"], line["line"]) for line in logs] == [(str(file), 2)]


async def test_changes_that_arrive_together_are_synced_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = []
    monkeypatch.setattr(os, "fsync", syncs.append)
    known = [change(0)]
    async with Journal(tmp_path, lambda: known) as journal:
        journal.append(change(0))
        await journal.synced()
        syncs.clear()

        async def call(number: int) -> None:
            journal.append(change(number))
            await journal.synced()

        await asyncio.gather(*(call(number) for number in range(100)))
    assert len(syncs) <= 2


async def test_journal_is_rewritten_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 1000)
    sizes = []
    async with Journal(tmp_path, lambda: [change(1)]) as journal:
        for _ in range(200):
            journal.append(change(1))
            await journal.synced()
            sizes.append((tmp_path / FILE).stat().st_size)
    assert max(sizes) < 1100
    assert min(sizes[100:]) < 100
    assert replayed(tmp_path)[0] == 1


async def test_full_disk_refuses_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [change(1)]

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with Journal(tmp_path, lambda: known) as journal:
        journal.append(change(1))
        await journal.synced()
        known.append(change(2))
        journal.append(change(2))
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(os, "fsync", full)
            with pytest.raises(Refused, match="No space left on device"):
                await journal.synced()
        assert [line["event"] for line in logs] == ["journal.unwritable"]
        known.append(change(3))
        journal.append(change(3))
        await journal.synced()
    assert replayed(tmp_path) == [1, 2, 3]


async def test_what_is_appended_last_is_written_at_the_end(tmp_path: Path) -> None:
    async with Journal(tmp_path, lambda: [change(1)]) as journal:
        journal.append(change(1))
    assert replayed(tmp_path) == [1]


def test_folder_of_another_process(tmp_path: Path) -> None:
    first = Journal(tmp_path, list)
    with pytest.raises(BadInput, match="another embedded Pub/Sub writes here"):
        Journal(tmp_path, list)
    first._lock.close()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="set state_dir"):
        Journal(tmp_path / "file" / "pubsub", list)


@pytest.mark.parametrize("line", [b"", b"\n", b"garbage\n", b"00000000 {}\n", b"\xff\xfe\n"])
def test_lines_that_were_never_written(line: bytes) -> None:
    with pytest.raises(ValueError, match="not as it was written"):
        parse_line(line)


def test_lines_come_back() -> None:
    assert parse_line(format_line(change(7))) == change(7)
