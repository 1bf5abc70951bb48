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
BATCH = 500


async def keep_ledger(ledger: RedisLedger, journal: Journal) -> None:
    """Until cancelled: forgets the erased, fills a ledger that is new, sends on what waits, keeps the journal small."""
    while True:
        try:
            await forget_erased(ledger, journal)
            await tell_opt_outs(ledger, journal)
            generation = await ledger.generation()
            if generation is None:
                # Nobody has anything to add to the first ledger of all.
                await rebuild(ledger, journal, GATHERING_S if journal.progress.generation else 0.0)
            elif generation != journal.progress.generation:
                await add_facts(ledger, journal)
                journal.remember(generation=generation)
            await send_unsent(ledger, journal)
            await ledger.show_budgets()
            await journal.compact()
        except LedgerUnavailable:
            pass  # Redis is away; the next round tries again
        except Exception:
            # Nobody would start this task again, and without it no outage ever ends.
            metrics.BACKGROUND_FAILURES.labels("keep_ledger").inc()
            log.exception("ledger.upkeep_failed")
        await asyncio.sleep(ROUND_S)


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


async def tell_opt_outs(ledger: RedisLedger, journal: Journal) -> None:
    """Sets what the ledger may not know, because it is new or because Redis refused it when it was heard."""
    refs = list(journal.untold)
    for first in range(0, len(refs), BATCH):
        some = refs[first : first + BATCH]
        async with available():
            await ledger.redis.mset({keys.opt_out_key(ref): 1 for ref in some})
        journal.untold.difference_update(some)


async def forget_erased(ledger: RedisLedger, journal: Journal) -> None:
    """Erases from this journal whom another gateway was told to erase."""
    async with available():
        found: Any = await ledger.redis.xrange(keys.ERASURES, min=f"({journal.progress.erasure}")
    if found:
        await journal.erase({fields[b"customer"].decode() for _, fields in found})
        journal.remember(erasure=found[-1][0].decode())


async def send_unsent(ledger: RedisLedger, journal: Journal) -> None:
    """Sends journaled records to Redis, oldest first."""
    waiting = journal.unsent()
    for unsent in waiting:
        kept = await ledger.settle(unsent)
        if kept is not None:
            journal.add_contact(
                unsent.customer_ref, unsent.campaign, unsent.token, kept.send_at_ms, kept.reserved_cents
            )
    if waiting:
        await journal.drop_unsent(waiting)
        log.info("journal.sent", records=len(waiting))
