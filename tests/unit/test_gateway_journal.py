"""The gateway's journal: torn, damaged and rewritten files, and a disk that takes nothing more."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from churnsaver.errors import BadInput
from services.gateway import journal as journal_module
from services.gateway import line_file, metrics
from services.gateway.journal import Journal, OptOut, Progress
from services.gateway.ledger import Contact, Unsent


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path)
    yield opened
    opened.close()


def unsent(key: str = "k1", ref: str = "ann") -> Unsent:
    return Unsent(
        key=key, token="t", body_sha="s", customer_ref=ref, campaign="c", decision_id=f"d-{key}", record="r", answer="a"
    )


def contact(decision_id: str, at_ms: int = 1, ref: str = "ann") -> Contact:
    return Contact(contact=ref, campaign="c", decision_id=decision_id, at_ms=at_ms, cents=600)


def test_a_line_from_before_arms_had_budgets_is_the_champions() -> None:
    """Gateways read what older ones wrote."""
    line = '{"contact": "ann", "campaign": "c", "decision_id": "d", "at_ms": 1, "cents": 600}'
    assert Contact.model_validate_json(line).arm == "champion"


def test_without_an_experiment_lines_are_as_older_gateways_wrote_them(journal: Journal, tmp_path: Path) -> None:
    """Their readers refuse a field that they do not know, and a rollback must lose no contact."""
    journal.add_contact(contact("d1"))
    journal.add_contact(contact("d2").model_copy(update={"arm": "baseline"}))
    first, second = (tmp_path / "facts.jsonl").read_text().splitlines()
    assert set(json.loads(first)) == {"contact", "campaign", "decision_id", "at_ms", "cents"}
    assert json.loads(second)["arm"] == "baseline"


def reopened(folder: Path) -> tuple[list[OptOut | Contact], list[Unsent]]:
    """What a gateway finds that starts on `folder`."""
    journal = Journal(folder)
    found = journal.facts(), journal.unsent()
    journal.close()
    return found


@pytest.mark.parametrize("torn", [b'{"opt_out": "an', b'{"opt_out": "ann"}', b"\xff\x00"])
def test_a_torn_line_does_not_swallow_the_next_one(tmp_path: Path, torn: bytes) -> None:
    """A power loss cut the last line; what comes after it is found at the next start."""
    (tmp_path / "facts.jsonl").write_bytes(b'{"opt_out":"zoe"}\n' + torn)
    journal = Journal(tmp_path)
    journal.add_opt_out("bob")
    journal.close()
    assert {OptOut(opt_out="zoe"), OptOut(opt_out="bob")} <= set(reopened(tmp_path)[0])


def test_facts_of_other_gateways_can_be_added_from_outside(journal: Journal, tmp_path: Path) -> None:
    """What DEPLOYMENT.md says of a lost Redis: all journals together, appended to each while it runs."""
    journal.add_contact(contact("d-1", 1, "ann"))
    journal.add_cancellation("ann", "c", "d-1", 600)
    other = Journal(tmp_path / "other")
    other.add_opt_out("bob")
    other.add_contact(contact("d-2", 2, "eve"))
    other.close()
    ours, theirs = (tmp_path / "facts.jsonl"), (tmp_path / "other" / "facts.jsonl")
    together = ours.read_bytes() + theirs.read_bytes()
    with ours.open("ab") as file:  # as `cat >>` does
        file.write(together)
    journal.add_opt_out("zoe")
    expected = [OptOut(opt_out="bob"), OptOut(opt_out="zoe"), contact("d-2", 2, "eve")]
    assert journal.facts() == expected
    assert reopened(tmp_path)[0] == expected


def test_a_line_torn_while_it_runs_does_not_swallow_the_next_one(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes a part of a line; when there is room again the next line is whole."""

    def a_part(file: Any, content: bytes) -> None:
        file.write(content[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(line_file, "_write_all", a_part)
        journal.add_contact(contact("d1", 1, "ann"))
    journal.add_contact(contact("d2", 1, "ann"))
    journal.close()
    assert reopened(tmp_path)[0] == [contact("d2")]


DAMAGED = [b"[1]", b"{}", b'"text"', b'{"contact": "ann"}', b'{"opt_out": 7}', b"{nope"]


@pytest.mark.parametrize("line", DAMAGED)
def test_damaged_lines_are_set_aside(tmp_path: Path, line: bytes) -> None:
    """Neither a start that fails nor a line that is lost: file and line are logged, the line lies beside."""
    for name in ("facts.jsonl", "unsent.jsonl"):
        (tmp_path / name).write_bytes(line + b"\n")
    with (tmp_path / "facts.jsonl").open("ab") as file:
        file.write(b'{"opt_out":"zoe"}\n')
    with capture_logs() as logs:
        assert reopened(tmp_path) == ([OptOut(opt_out="zoe")], [])
    damaged = [(Path(log["file"]).name, log["line"]) for log in logs if log["event"] == "journal.line_damaged"]
    assert sorted(damaged) == [("facts.jsonl", 1), ("unsent.jsonl", 1)]
    assert (tmp_path / "facts.jsonl.damaged").read_bytes() == line + b"\n"
    assert (tmp_path / "facts.jsonl").read_bytes() == b'{"opt_out":"zoe"}\n'


def test_lines_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Without a token and a campaign, as unsent decisions were written before."""
    old = {name: value for name, value in unsent().model_dump().items() if name not in {"token", "campaign"}}
    (tmp_path / "unsent.jsonl").write_text(json.dumps(old) + "\n")
    assert [found.key for found in reopened(tmp_path)[1]] == ["k1"]


async def test_a_rewrite_keeps_what_is_appended_meanwhile(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DELETE rewrites in a thread: the event loop goes on, and its appends are not lost."""
    journal.add_contact(contact("d1", 1, "ann"))
    journal.add_contact(contact("d2", 1, "bob"))
    going, go_on = threading.Event(), threading.Event()
    fold = journal_module.fold

    def slowly(facts: Iterable[Any]) -> list[Any]:
        going.set()
        assert go_on.wait(5.0)
        return fold(facts)

    monkeypatch.setattr(journal_module, "fold", slowly)
    erasing = asyncio.create_task(journal.erase(["ann"]))
    await asyncio.to_thread(going.wait, 5.0)
    journal.add_contact(contact("d3", 1, "cid"))
    go_on.set()
    await erasing
    journal.add_contact(contact("d4", 1, "dan"))
    journal.close()
    monkeypatch.undo()
    found, _ = reopened(tmp_path)
    assert found == [contact("d2", ref="bob"), contact("d3", ref="cid"), contact("d4", ref="dan")]


async def test_a_crash_during_a_rewrite_leaves_the_old_file(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file is complete on the disk before it takes the old one's place; later appends go where they count."""
    journal.add_contact(contact("d1", 1, "ann"))

    def crash(*_: Any) -> None:
        raise OSError(errno.EIO, "gone")

    with monkeypatch.context() as failing:
        failing.setattr(line_file.Path, "replace", crash)
        with pytest.raises(OSError, match="gone"):
            await journal.erase(["ann"])
    journal.add_contact(contact("d2", 1, "bob"))
    journal.close()
    assert reopened(tmp_path)[0] == [contact("d1"), contact("d2", ref="bob")]


async def test_a_rewrite_is_on_the_disk_before_and_after_it_takes_over(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of the new file, replacement, fsync of the folder, in this order."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    journal.add_unsent(unsent())
    await journal.drop_unsent([unsent()])
    assert steps == ["sync file", "sync file", "replace", "sync folder"]
    assert (tmp_path / "unsent.jsonl").read_bytes() == b""


def test_an_opt_out_is_written_once(journal: Journal, tmp_path: Path) -> None:
    """A customer who says STOP a thousand times costs one line, after a restart too."""
    assert [journal.add_opt_out("ann") for _ in range(3)] == [True, False, False]
    journal.close()
    again = Journal(tmp_path)
    assert again.add_opt_out("ann") is False
    again.close()
    assert (tmp_path / "facts.jsonl").read_text().count("\n") == 1


async def test_facts_are_compacted_when_most_lines_say_nothing(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled contacts and earlier times go; what is true stays, also what earlier versions repeated."""
    monkeypatch.setattr(journal_module, "COMPACT_LINES", 10)
    journal.add_opt_out("zoe")
    journal.add_contact(contact("d0", 1, "ann"))
    journal.move_contact(contact("d0", 2, "ann"))
    await journal.compact()
    assert len((tmp_path / "facts.jsonl").read_text().splitlines()) == 3
    for number in range(1, 10):
        journal.add_contact(contact(f"d{number}", 1, "bob"))
        journal.add_cancellation("bob", "c", f"d{number}", 600)
    await journal.compact()
    assert len((tmp_path / "facts.jsonl").read_text().splitlines()) == 2
    assert journal.facts() == [OptOut(opt_out="zoe"), contact("d0", at_ms=2)]


async def test_erasure_reaches_every_file(tmp_path: Path) -> None:
    """Contacts, answers that wait for Redis, and damaged lines."""
    (tmp_path / "facts.jsonl").write_bytes(b'{"contact":"ann","cam\n{"contact":"bob","cam\n')
    journal = Journal(tmp_path)
    journal.add_contact(contact("d1", 1, "ann"))
    journal.add_unsent(unsent())
    journal.add_unsent(unsent("k2", ref="bob"))
    await journal.erase(["ann"])
    assert journal.waiting("k1") is None
    assert journal.waiting("k2") is not None
    journal.close()
    for name in ("facts.jsonl", "unsent.jsonl", "facts.jsonl.damaged"):
        assert b"ann" not in (tmp_path / name).read_bytes()
    assert (tmp_path / "facts.jsonl.damaged").read_bytes() == b'{"contact":"bob","cam\n'


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


WRITES: list[tuple[str, Callable[[Journal], None]]] = [
    ("unsent.jsonl", lambda journal: journal.add_unsent(unsent())),
    ("facts.jsonl", lambda journal: journal.add_contact(contact("d1", 1, "ann"))),
    ("facts.jsonl", lambda journal: journal.add_cancellation("ann", "c", "d1", 600)),
]


@pytest.mark.parametrize(("name", "write"), WRITES)
def test_a_full_disk_is_logged_and_counted(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, name: str, write: Callable[[Journal], None]
) -> None:
    """The request was answered, so nothing is raised."""
    monkeypatch.setattr(line_file, "_write_all", no_space)
    counter = metrics.JOURNAL_FAILURES.labels(name)
    before = counter._value.get()
    with capture_logs() as logs:
        write(journal)
    assert counter._value.get() == before + 1
    assert [log["event"] for log in logs] == ["journal.write_failed"]


def test_what_a_full_disk_did_not_take_waits_in_memory(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay gets its answer, and the record is sent on when Redis is back."""
    monkeypatch.setattr(line_file, "_write_all", no_space)
    journal.add_unsent(unsent())
    assert journal.waiting("k1") == unsent()
    assert journal.unsent() == [unsent()]


def test_an_opt_out_that_the_disk_did_not_take_is_refused(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told that it was recorded; asked again, it is tried again."""
    with monkeypatch.context() as full:
        full.setattr(line_file, "_write_all", no_space)
        with pytest.raises(OSError, match="No space"):
            journal.add_opt_out("ann")
    assert journal.add_opt_out("ann") is True


def test_two_requests_with_one_key_keep_the_first_answer(journal: Journal) -> None:
    """Both are settled, one is replayed."""
    first, second = unsent(), unsent().model_copy(update={"token": "t2"})
    journal.add_unsent(first)
    journal.add_unsent(second)
    assert journal.waiting("k1") == first
    assert journal.unsent() == [first, second]


def progress_after_a_restart(folder: Path) -> Progress:
    journal = Journal(folder)
    journal.close()
    return journal.progress


def test_progress_outlives_a_restart(journal: Journal, tmp_path: Path) -> None:
    """What is remembered later leaves the rest as it was."""
    journal.remember(generation="g1")
    journal.remember(erasure="7-0")
    assert progress_after_a_restart(tmp_path) == Progress(generation="g1", erasure="7-0")


@pytest.mark.parametrize("content", ["", "{", '{"generation": 7}', "[]"])
def test_damaged_progress_is_the_beginning(tmp_path: Path, content: str) -> None:
    """Work is done twice then, which harms nobody."""
    (tmp_path / "progress.json").write_text(content)
    assert progress_after_a_restart(tmp_path) == Progress()


def test_progress_that_the_disk_does_not_take_is_counted(journal: Journal, tmp_path: Path) -> None:
    """While the process lives it is remembered all the same."""
    (tmp_path / "progress.new").mkdir()
    before = metrics.JOURNAL_FAILURES.labels("progress.json")._value.get()
    journal.remember(generation="g1")
    assert metrics.JOURNAL_FAILURES.labels("progress.json")._value.get() == before + 1
    assert journal.progress.generation == "g1"
    assert progress_after_a_restart(tmp_path) == Progress()


def test_another_pseudonym_key_is_refused(journal: Journal, tmp_path: Path) -> None:
    """Under another key nobody would be recognised who opted out."""
    journal.require_key("fingerprint-1")
    again = Journal(tmp_path)
    again.require_key("fingerprint-1")
    with pytest.raises(BadInput, match="CHURN_SAVER_PSEUDONYM_KEY"):
        again.require_key("fingerprint-2")
    again.close()


def test_the_order_of_lines_says_nothing() -> None:
    """Files of several gateways, one after the other: the latest time holds, and a cancellation whenever it comes."""
    gone = journal_module.Cancelled(cancelled="ann", campaign="c", decision_id="d2", cents=600)
    facts = [contact("d1", 200), contact("d1", 100), gone, contact("d2")]
    assert journal_module.fold(facts) == [contact("d1", 200)] == journal_module.fold(reversed(facts))
