"""What the gateway writes to its own disk, so that an outage of Redis loses nothing.

`unsent.jsonl` holds the records of decisions made while Redis was away; they are sent on when it is
back. `facts.jsonl` holds every opt-out and every booked contact, from which the ledger is rebuilt when
Redis comes back without its data; until then nobody is contacted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import structlog

from churnsaver.errors import BadInput
from services.gateway import ledger as keys
from services.gateway.ledger import LedgerUnavailable, RedisLedger, Unsent, available

log = structlog.get_logger()


class Journal:
    """Append-only files in `folder`; every append reaches the operating system before it returns."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._unsent = (folder / "unsent.jsonl").open("ab+", buffering=0)
            self._facts = (folder / "facts.jsonl").open("ab+", buffering=0)
        except OSError as error:
            raise BadInput(f"{folder}: the journal cannot be written ({error.strerror}); set state_dir") from None
        self._waiting = {unsent.key: unsent for unsent in self.unsent()}

    def close(self) -> None:
        """Nothing can be added after this."""
        self._unsent.close()
        self._facts.close()

    def add_unsent(self, unsent: Unsent) -> None:
        """Keeps a decision that Redis could not take; a replay of its key gets its answer from here."""
        self._unsent.write(orjson.dumps(unsent.model_dump()) + b"\n")
        self._waiting[unsent.key] = unsent

    def waiting(self, key: str) -> Unsent | None:
        """The decision under an idempotency key that is not in Redis yet."""
        return self._waiting.get(key)

    def add_contact(self, ref: str, campaign: str, decision_id: str, send_at_ms: int, cents: int) -> None:
        """Remembers a booked contact."""
        line = {"contact": ref, "campaign": campaign, "decision_id": decision_id, "at_ms": send_at_ms, "cents": cents}
        self._facts.write(orjson.dumps(line) + b"\n")

    def add_cancellation(self, ref: str, campaign: str, decision_id: str, cents: int) -> None:
        """Remembers that a booked contact will not take place."""
        line = {"cancelled": ref, "campaign": campaign, "decision_id": decision_id, "cents": cents}
        self._facts.write(orjson.dumps(line) + b"\n")

    def add_opt_out(self, ref: str) -> None:
        """Remembers an opt-out through a power loss: it is on the disk when this returns."""
        self._facts.write(orjson.dumps({"opt_out": ref}) + b"\n")
        os.fsync(self._facts.fileno())

    def erase(self, ref: str) -> None:
        """Forgets a customer's contacts; that they opted out is kept, or they would be contacted again."""
        kept = [fact for fact in self.facts() if ref not in (fact.get("contact"), fact.get("cancelled"))]
        _rewrite(self._facts, kept)

    def unsent(self) -> list[Unsent]:
        """Everything that waits for Redis, oldest first."""
        return [Unsent.model_validate(line) for line in _lines(self._unsent)]

    def facts(self) -> list[dict[str, Any]]:
        return list(_lines(self._facts))

    def drop_unsent(self, count: int) -> None:
        """Forgets the oldest `count` records, which are in Redis now."""
        remaining = self.unsent()[count:]
        _rewrite(self._unsent, [unsent.model_dump() for unsent in remaining])
        self._waiting = {unsent.key: unsent for unsent in remaining}


async def keep_ledger(ledger: RedisLedger, journal: Journal, every_s: float = 0.5) -> None:
    """Until cancelled: rebuilds a lost ledger and sends on what was journaled while Redis was away."""
    while True:
        try:
            if await ledger.is_lost():
                await rebuild(ledger, journal)
            await send_unsent(ledger, journal)
        except LedgerUnavailable:
            pass  # Redis is away; the next round tries again
        await asyncio.sleep(every_s)


async def rebuild(ledger: RedisLedger, journal: Journal) -> None:
    """Writes every known opt-out, contact and reservation to an empty Redis, then opens the ledger.

    The last write opens it, so a rebuild that is cut off leaves the ledger closed and starts again.
    """
    facts = journal.facts()
    async with available(), ledger.redis.pipeline(transaction=True) as pipe:
        reserved: dict[str, int] = {}
        for fact in facts:
            if ref := fact.get("opt_out"):
                pipe.set(keys.opt_out_key(ref), 1)
            elif ref := fact.get("contact"):
                pipe.zadd(keys.contacts_key(ref), {fact["decision_id"]: fact["at_ms"]})
                reserved[fact["campaign"]] = reserved.get(fact["campaign"], 0) + fact["cents"]
            elif ref := fact.get("cancelled"):
                pipe.zrem(keys.contacts_key(ref), fact["decision_id"])
                reserved[fact["campaign"]] = reserved.get(fact["campaign"], 0) - fact["cents"]
        for campaign, cents in reserved.items():
            pipe.set(keys.reserved_key(campaign), cents)
        pipe.set(keys.GENERATION, 1)
        await pipe.execute()
    log.warning("ledger.rebuilt", facts=len(facts))


async def send_unsent(ledger: RedisLedger, journal: Journal) -> None:
    """Sends journaled records to Redis, oldest first."""
    waiting = journal.unsent()
    for unsent in waiting:
        await ledger.record_offline(unsent)
    if waiting:
        journal.drop_unsent(len(waiting))
        log.info("journal.sent", records=len(waiting))


def _rewrite(file: Any, lines: Sequence[dict[str, Any]]) -> None:
    """Replaces the file's content; written beside it first, so that a crash leaves one or the other."""
    content = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    Path(file.name + ".new").write_bytes(content)
    file.truncate(0)
    file.write(content)
    Path(file.name + ".new").unlink()


def _lines(file: Any) -> Iterator[dict[str, Any]]:
    file.seek(0)
    for number, line in enumerate(file.read().splitlines(), start=1):
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError:
            # A power loss can cut the last line; the caller never got an answer for it.
            log.warning("journal.line_unreadable", file=file.name, line=number)
