"""What the gateway writes to its own disk, so that an outage of Redis loses nothing.

`unsent.jsonl` holds the records of decisions made while Redis was away; they are sent on when it is
back. `facts.jsonl` holds every opt-out and every booked contact, from which the ledger is rebuilt when
Redis comes back without its data; until then nobody is contacted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from churnsaver.domain.world import Frozen
from churnsaver.errors import BadInput
from services.gateway import metrics
from services.gateway.ledger import Contact, Unsent
from services.gateway.line_file import LineFile, Record

log = structlog.get_logger()

# Fewer lines that say nothing any more are not worth a rewrite.
COMPACT_LINES = 1000


class OptOut(Frozen):
    """A customer, by pseudonym, who must never be contacted again."""

    opt_out: str


class Cancelled(Frozen):
    """A booked contact of the customer `cancelled` that will not take place."""

    cancelled: str
    campaign: str
    decision_id: str
    cents: int


Fact = OptOut | Contact | Cancelled


class Progress(Frozen):
    """How far this gateway has come with what all gateways share.

    Attributes:
        key: tells which pseudonym key the journal's names were made with.
        generation: the ledger that holds this journal's facts.
        erasure: the last erasure that this journal has obeyed, by its id in the stream.
    """

    key: str = ""
    generation: str = ""
    erasure: str = "0-0"


class Journal:
    """Append-only files in `folder`; every append reaches the operating system before it returns.

    Only an opt-out is refused with an OSError when the disk does not take it. Whatever else it does not take is
    logged and counted, because the request that it belongs to was answered.

    Attributes:
        progress: how far this gateway has come with what all gateways share; set by `remember`.
        untold: opt-outs that the ledger may not know: all at the start, and what comes while Redis refuses it.
        server: the Redis process that was told of the others.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._unsent: LineFile[Unsent] = LineFile(folder / "unsent.jsonl", TypeAdapter(Unsent))
            self._facts: LineFile[Fact] = LineFile(folder / "facts.jsonl", TypeAdapter(Fact))
        except OSError as error:
            raise BadInput(f"{folder}: the journal cannot be written ({error.strerror}); set state_dir") from None
        self._progress_file = folder / "progress.json"
        self.progress = _remembered(self._progress_file)
        self._set_waiting(self._unsent.records())
        facts = self.facts()
        self._opted_out = {fact.opt_out for fact in facts if isinstance(fact, OptOut)}
        self.untold = set(self._opted_out)
        self.server = ""
        self._dead_lines = self._facts.lines - len(facts)

    def close(self) -> None:
        """Nothing can be added after this."""
        self._unsent.close()
        self._facts.close()

    def require_key(self, fingerprint: str) -> None:
        """BadInput where the journal was written with another pseudonym key: its opt-outs would match nobody."""
        if self.progress.key not in ("", fingerprint):
            raise BadInput(
                f"{self._progress_file.parent}: was written with another pseudonym_key, so who opted out would be "
                "contacted again; set CHURN_SAVER_PSEUDONYM_KEY to that key, or delete the folder to forget everyone"
            )
        self.remember(key=fingerprint)

    def remember(self, **changed: str) -> None:
        """Remembers another progress; a disk that does not take it makes work be done twice after a restart."""
        self.progress = self.progress.model_copy(update=changed)
        beside = self._progress_file.with_suffix(".new")
        try:
            beside.write_text(self.progress.model_dump_json(), encoding="utf-8")
            beside.replace(self._progress_file)
        except OSError:
            metrics.JOURNAL_FAILURES.labels(self._progress_file.name).inc()
            log.exception("journal.write_failed", file=str(self._progress_file))

    # -- decisions that wait for Redis -------------------------------------------------------------

    def add_unsent(self, unsent: Unsent) -> None:
        """Keeps a decision that Redis could not take; a replay of its key gets its answer from here."""
        self._waiting.append(unsent)
        self._first.setdefault(unsent.key, unsent)
        metrics.JOURNAL_WAITING.set(len(self._waiting))
        self._append(self._unsent, unsent)

    def waiting(self, key: str) -> Unsent | None:
        """The first decision under an idempotency key that is not in Redis yet."""
        return self._first.get(key)

    def unsent(self) -> list[Unsent]:
        """Everything that waits for Redis, oldest first."""
        return list(self._waiting)

    async def drop_unsent(self, sent: Collection[Unsent]) -> None:
        """Forgets records which are in Redis now."""
        gone = set(sent)
        self._set_waiting(unsent for unsent in self._waiting if unsent not in gone)
        await self._unsent.rewrite(lambda records: (unsent for unsent in records if unsent not in gone))

    def _set_waiting(self, waiting: Iterable[Unsent]) -> None:
        self._waiting = list(waiting)
        self._first: dict[str, Unsent] = {}
        for unsent in self._waiting:
            self._first.setdefault(unsent.key, unsent)
        metrics.JOURNAL_WAITING.set(len(self._waiting))

    # -- opt-outs and contacts ---------------------------------------------------------------------

    def add_contact(self, contact: Contact) -> None:
        """Remembers a booked contact."""
        self._append(self._facts, contact)

    def move_contact(self, contact: Contact) -> None:
        """Remembers when a booked contact was really sent."""
        self.add_contact(contact)
        self._dead_lines += 1

    def add_cancellation(self, ref: str, campaign: str, decision_id: str, cents: int) -> None:
        """Remembers that a booked contact will not take place."""
        cancelled = Cancelled(cancelled=ref, campaign=campaign, decision_id=decision_id, cents=cents)
        self._append(self._facts, cancelled)
        self._dead_lines += 2

    def add_opt_out(self, ref: str) -> bool:
        """Remembers an opt-out through a power loss: it is on the disk when this returns.

        Returns:
            Whether it is news.

        Raises:
            OSError: the disk did not take it.
        """
        if ref in self._opted_out:
            return False
        self._facts.append(OptOut(opt_out=ref), sync=True)
        self._opted_out.add(ref)
        self.untold.add(ref)
        return True

    @property
    def opt_outs(self) -> frozenset[str]:
        """The pseudonyms of all who opted out."""
        return frozenset(self._opted_out)

    def contacted(self, decision_id: str) -> str | None:
        """The pseudonym of the customer whom a decision contacts; reads the whole file."""
        for fact in self._facts.records(holding=decision_id):
            if isinstance(fact, Contact) and fact.decision_id == decision_id:
                return fact.contact
        return None

    def facts(self) -> list[OptOut | Contact]:
        """What is true now: each opt-out, and each contact that takes place with its latest time."""
        return fold(self._facts.records())

    async def erase(self, refs: Collection[str]) -> None:
        """Forgets customers; that they opted out is kept, or they would be contacted again.

        Raises:
            OSError: the disk does not take the files without the customers.
        """
        self._set_waiting(unsent for unsent in self._waiting if unsent.customer_ref not in refs)
        await self._unsent.rewrite(lambda records: (unsent for unsent in records if unsent.customer_ref not in refs))
        await self._facts.rewrite(lambda facts: fold(fact for fact in facts if not _tells_of(fact, refs)))
        self._dead_lines = 0
        for file in (self._unsent, self._facts):
            for ref in refs:
                file.forget_damaged(ref)

    async def compact(self) -> None:
        """Rewrites the facts when most lines say nothing any more."""
        dead = self._dead_lines
        if dead > max(COMPACT_LINES, self._facts.lines - dead):
            await self._facts.rewrite(fold)
            self._dead_lines -= dead

    def _append(self, file: LineFile[Record], record: Record) -> None:
        try:
            file.append(record)
        except OSError:
            metrics.JOURNAL_FAILURES.labels(file.path.name).inc()
            log.exception("journal.write_failed", file=str(file.path))


def _remembered(file: Path) -> Progress:
    """The progress in a file; the beginning where there is none, for all of it may be done twice."""
    try:
        return Progress.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return Progress()


def fold(facts: Iterable[Fact]) -> list[OptOut | Contact]:
    """The same in the fewest lines: each opt-out once, each contact that takes place with its latest time.

    The order of lines says nothing: they may come from several gateways' files.
    """
    opt_outs: dict[str, OptOut] = {}
    contacts: dict[str, Contact] = {}
    cancelled: set[str] = set()
    for fact in facts:
        match fact:
            case OptOut():
                opt_outs[fact.opt_out] = fact
            case Contact():
                known = contacts.get(fact.decision_id)
                contacts[fact.decision_id] = max(known or fact, fact, key=lambda each: each.at_ms)
            case Cancelled():
                cancelled.add(fact.decision_id)
    return [*opt_outs.values(), *(each for each in contacts.values() if each.decision_id not in cancelled)]


def _tells_of(fact: Fact, refs: Collection[str]) -> bool:
    match fact:
        case OptOut():
            return False
        case Contact():
            return fact.contact in refs
        case Cancelled():
            return fact.cancelled in refs
