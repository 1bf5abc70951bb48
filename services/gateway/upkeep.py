"""Keeps the ledger in Redis and this gateway's journal in step, in the background.

Each gateway's journal knows what that gateway booked and heard, and only all of them together know everything. So
each adds its own facts to every ledger that is new to it, each fact once however often it is added.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from services.gateway import ledger as keys
from services.gateway import metrics
from services.gateway.journal import Journal, OptOut
from services.gateway.ledger import Contact, LedgerUnavailable, RedisLedger, available

log = structlog.get_logger()

ROUND_S = 0.5
# A ledger that was lost stays closed for this long, in which the other gateways add their facts too.
GATHERING_S = 4 * ROUND_S
BATCH = 200  # what Redis does in a few milliseconds, for requests wait meanwhile


async def keep_ledger(ledger: RedisLedger, journal: Journal) -> None:
    """Until cancelled: forgets the erased, fills a ledger that is new, sends on what waits, keeps the journal small."""
    steps = (tell_after_failover, tell_opt_outs, forget_erased, fill, send_unsent, show_budgets, compact)
    while True:
        for step in steps:
            try:
                await step(ledger, journal)
            except LedgerUnavailable:
                pass  # Redis is away; the next round tries again
            except Exception:
                # One step must not keep the others from their work, and nobody would start this task again.
                metrics.BACKGROUND_FAILURES.labels("keep_ledger").inc()
                log.exception("ledger.upkeep_failed", step=step.__name__)
        await asyncio.sleep(ROUND_S)


async def fill(ledger: RedisLedger, journal: Journal) -> None:
    """Tells a ledger that is new to this gateway what its journal knows."""
    generation = await ledger.generation()
    if generation is None:
        # Nobody has anything to add to the first ledger of all.
        await rebuild(ledger, journal, GATHERING_S if journal.progress.generation else 0.0)
    elif generation != journal.progress.generation:
        await add_facts(ledger, journal)
        journal.remember(generation=generation)


async def show_budgets(ledger: RedisLedger, _: Journal) -> None:
    """Tells Prometheus."""
    await ledger.show_budgets()


async def compact(_: RedisLedger, journal: Journal) -> None:
    """Keeps the journal small."""
    await journal.compact()


async def rebuild(ledger: RedisLedger, journal: Journal, gathering_s: float = 0.0) -> None:
    """Fills an empty Redis, then opens the ledger; one that is cut off leaves it closed and starts again."""
    facts = await add_facts(ledger, journal)
    await asyncio.sleep(gathering_s)
    await ledger.open()
    if (generation := await ledger.generation()) is not None:
        journal.remember(generation=generation)
    log.warning("ledger.rebuilt", facts=facts)


async def add_facts(ledger: RedisLedger, journal: Journal) -> int:
    """Tells the ledger every opt-out, contact and reservation that this journal knows; returns how many."""
    # First and from memory: a long journal takes longer to read than a lost ledger stays closed.
    journal.untold |= journal.opt_outs
    await tell_opt_outs(ledger, journal)
    facts = await asyncio.to_thread(journal.facts)
    # A person may have added lines of another gateway's to the file.
    journal.untold |= {fact.opt_out for fact in facts if isinstance(fact, OptOut)} - journal.opt_outs
    await tell_opt_outs(ledger, journal)
    contacts = [fact for fact in facts if isinstance(fact, Contact)]
    for first in range(0, len(contacts), BATCH):
        await ledger.restore(contacts[first : first + BATCH])
    return len(facts)


async def tell_after_failover(ledger: RedisLedger, journal: Journal) -> None:
    """Where another Redis process answers than before, its last second may be missing: all opt-outs are told again."""
    server = await ledger.server()
    if server != journal.server:
        journal.untold |= journal.opt_outs
        journal.server = server


async def tell_opt_outs(ledger: RedisLedger, journal: Journal) -> None:
    """Sets what the ledger may not know, because it is new or because Redis refused it when it was heard."""
    refs = list(journal.untold)
    for first in range(0, len(refs), BATCH):
        some = refs[first : first + BATCH]
        async with available(), ledger.redis.pipeline(transaction=False) as pipe:
            for ref in some:
                pipe.setnx(keys.opt_out_key(ref), 1)
            await pipe.execute()
        journal.untold.difference_update(some)


async def forget_erased(ledger: RedisLedger, journal: Journal) -> None:
    """Erases from this journal whom another gateway was told to erase."""
    while True:
        async with available():
            after = f"({journal.progress.erasure}"
            found: Any = await ledger.redis.xrange(keys.ERASURES, min=after, count=BATCH)
        if not found:
            return
        await journal.erase({fields[b"customer"].decode() for _, fields in found})
        journal.remember(erasure=found[-1][0].decode())


async def send_unsent(ledger: RedisLedger, journal: Journal) -> None:
    """Sends journaled records to Redis, oldest first."""
    waiting = journal.unsent()
    for unsent in waiting:
        kept = await ledger.settle(unsent)
        if kept is not None:
            journal.add_contact(
                Contact(
                    contact=unsent.customer_ref,
                    campaign=unsent.campaign,
                    decision_id=unsent.token,
                    at_ms=kept.send_at_ms,
                    cents=kept.reserved_cents,
                    arm=kept.arm,
                )
            )
    if waiting:
        await journal.drop_unsent(waiting)
        log.info("journal.sent", records=len(waiting))
