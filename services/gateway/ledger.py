"""The contact ledger in Redis: idempotency, hard rules, budget, records and stored answers.

Two scripts answer a request. `claim` takes the idempotency key and reads what the decision needs; `book`
checks the hard rules once more and writes everything, or nothing. The scripts recognise their own token, so
that a second try after a lost reply returns the first answer. Where the second try fails too, the request is
answered without the ledger, and `settle` makes that answer the one that stands.

Customers appear under a pseudonym, but for the answers that are kept to be given again, which hold what the caller
was told: id, name and text. All keys begin with `cs:`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import structlog
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import (
    ClusterDownError,
    DataError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from churnsaver.domain.observation import HISTORY_HOURS
from churnsaver.domain.world import HOURS_PER_WEEK, Frozen, World
from churnsaver.message_counts import message_counts_key
from services.gateway import metrics

log = structlog.get_logger()

MS_PER_HOUR = 3_600_000
GENERATION = "cs:generation"
OUTBOX = "cs:outbox"
ERASURES = "cs:erasures"
KEPT_ERASURES = 100_000
REASON_PLACEHOLDER = "@@REASON@@"
LUA = Path(__file__).parent / "lua"
# With what a sound command is refused because of the state that Redis is in; within a script the code is text.
STATE_ERRORS = (ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
STATE_CODES = re.compile(r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN)\b")


class LedgerUnavailable(Exception):
    """Redis does not answer, or it came back without its data: nothing can be booked."""


class KeyMismatch(Exception):
    """The idempotency key was used with another body."""


class InFlight(Exception):
    """A request with this idempotency key is being answered right now."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A request's hold on its idempotency key.

    Attributes:
        key: the idempotency key.
        token: proves at booking that the claim is still ours.
        body_sha: hash of what the request asks for.
        slot: which standing decision it may meet.
        arm: the experiment's, whose part of the campaign's budget is drawn on.
    """

    key: str
    token: str
    body_sha: str
    customer_ref: str
    campaign: str
    arm: str
    slot: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the ledger knows of a customer at the moment of the claim.

    Attributes:
        reserved_cents: of the campaign.
        arm_reserved_cents: of it, by the customer's arm.
        contact_times_ms: contacts of the last four weeks and booked ones, Unix time in ms.
    """

    opted_out: bool
    reserved_cents: int
    arm_reserved_cents: int
    contact_times_ms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer that was given before; `standing` where another request of the customer got it."""

    body: bytes
    standing: bool


@dataclass(frozen=True, slots=True)
class Booking:
    """What is to be booked, in the slot that it will stand in.

    Attributes:
        send_at_ms: None when nobody is contacted.
        arm_budget_cents: the arm's part of the campaign's budget.
        message_id: of the bank's message; empty where it is none of the bank's, so that nothing is counted.
    """

    slot: str
    decision_id: str
    send_at_ms: int | None
    reserved_cents: int
    arm_budget_cents: int
    record: bytes
    answer: bytes
    answer_if_refused: bytes
    message_id: str = ""


class Unsent(Frozen):
    """A decision that was made while Redis was away, as the journal keeps it.

    Attributes:
        token: of the request's claim, under which it may have been booked before its reply was lost.
        campaign: whose budget that booking would have reserved from.
    """

    key: str
    token: str = ""
    body_sha: str
    customer_ref: str
    campaign: str = ""
    decision_id: str
    record: str
    answer: str


class Contact(Frozen):
    """A booked contact of the customer `contact`; a later line of the same decision says when it was really sent."""

    contact: str
    campaign: str
    decision_id: str
    at_ms: int
    cents: int
    arm: str = "champion"  # of lines from before arms had budgets of their own


@dataclass(frozen=True, slots=True)
class Kept:
    """A booking that stands although its own request was answered without it: another caller was told of it."""

    send_at_ms: int
    reserved_cents: int
    arm: str


class Ledger(Protocol):
    """What the story of a request needs of the ledger; `RedisLedger` is the real one."""

    async def claim(self, claim: Claim) -> Snapshot | StoredAnswer: ...

    async def book(self, claim: Claim, booking: Booking) -> tuple[str, bytes]: ...

    async def store_answer(self, claim: Claim, answer: bytes) -> None: ...


class RedisLedger:
    """The ledger behind one Redis primary.

    Args:
        redis: a client that returns bytes, with a timeout.
        claim_ms: how long a claim holds if its request dies.
    """

    def __init__(self, redis: Redis, world: World, *, claim_ms: int, idempotency_s: int, record_s: int) -> None:
        self.redis = redis
        self._world = world
        self._claim_ms, self._idempotency_s, self._record_s = claim_ms, idempotency_s, record_s
        names = ("claim", "book", "settle", "restore", "erase")
        self._claim, self._book, self._settle, self._restore, self._erase = (self.script(name) for name in names)

    def script(self, name: str) -> AsyncScript:
        """The script `lua/<name>.lua` with what all scripts share before it."""
        return self.redis.register_script((LUA / "common.lua").read_text() + (LUA / f"{name}.lua").read_text())

    async def claim(self, claim: Claim) -> Snapshot | StoredAnswer:
        """Takes the idempotency key and reads the customer's state.

        Raises:
            KeyMismatch, InFlight, LedgerUnavailable
        """
        ref, campaign = claim.customer_ref, claim.campaign
        names = [
            GENERATION,
            idempotency_key(claim.key),
            standing_key(ref, campaign, claim.slot),
            contacts_key(ref),
            opt_out_key(ref),
            reserved_key(campaign),
            reserved_by_arm_key(campaign),
        ]
        args = [claim.body_sha, claim.token, self._claim_ms, oldest_contact_ms(claim.now_ms), claim.arm]
        status, *rest = await self._run(self._claim, names, args)
        match status:
            case b"claimed":
                # Redis answers members and scores in turns; the scores are the times.
                times = tuple(int(float(score)) for score in rest[4::2])
                return Snapshot(bool(rest[0]), int(rest[1]), int(rest[2]), times)
            case b"replay" | b"standing":
                return StoredAnswer(rest[0], standing=status == b"standing")
            case b"mismatch":
                raise KeyMismatch
            case b"in_flight":
                raise InFlight
            case _:
                raise LedgerUnavailable("Redis came back without its data")

    async def book(self, claim: Claim, booking: Booking) -> tuple[str, bytes]:
        """Books, and returns the status and the answer that stands.

        The status is `booked`, `none`, `standing`, `replay`, or why the hard rules refused.

        Raises:
            LedgerUnavailable: nothing is known to have been booked; do not contact.
            InFlight: the claim ran out and another request holds the key.
        """
        ref, campaign = claim.customer_ref, claim.campaign
        names = [
            GENERATION,
            idempotency_key(claim.key),
            standing_key(ref, campaign, booking.slot),
            contacts_key(ref),
            opt_out_key(ref),
            reserved_key(campaign),
            decision_key(booking.decision_id),
            OUTBOX,
            customer_key(ref),
            reserved_by_arm_key(campaign),
            *([message_counts_key(booking.message_id)] if booking.message_id else []),
        ]
        args = [
            claim.token,
            "" if booking.send_at_ms is None else booking.send_at_ms,
            booking.reserved_cents,
            self._world.campaigns[campaign].budget_cents,
            *contact_rule_args(self._world),
            oldest_contact_ms(claim.now_ms),
            booking.decision_id,
            booking.record,
            booking.answer,
            booking.answer_if_refused,
            self._idempotency_s,
            self._world.epoch_hours * 3600,
            self._record_s,
            claim.body_sha,
            claim.arm,
            booking.arm_budget_cents,
        ]
        status, *rest = await self._run(self._book, names, args)
        if status == b"lost":
            raise LedgerUnavailable("Redis came back without its data")
        if status == b"superseded":
            raise InFlight
        return status.decode(), rest[0]

    async def store_answer(self, claim: Claim, answer: bytes) -> None:
        """Makes `answer` what a replay of the claimed key returns, until the customer is erased.

        A key that was answered before keeps its first answer.
        """
        key = idempotency_key(claim.key)
        async with available(), self.redis.pipeline(transaction=True) as pipe:
            pipe.hsetnx(key, "body", claim.body_sha)
            pipe.hsetnx(key, "answer", answer)
            pipe.expire(key, self._idempotency_s)
            pipe.sadd(customer_key(claim.customer_ref), key)
            pipe.expire(customer_key(claim.customer_ref), self._record_s)
            await pipe.execute()

    async def settle(self, unsent: Unsent) -> Kept | None:
        """Adds a decision that was made while Redis was away, and withdraws what its request booked unheard.

        Doing it twice is harmless. A key that another replica answered before keeps that answer.
        """
        names = [
            idempotency_key(unsent.key),
            decision_key(unsent.decision_id),
            decision_key(unsent.token),
            contacts_key(unsent.customer_ref),
            reserved_key(unsent.campaign),
            OUTBOX,
            customer_key(unsent.customer_ref),
            reserved_by_arm_key(unsent.campaign),
        ]
        args = [
            unsent.token,
            unsent.decision_id,
            unsent.record,
            unsent.answer,
            unsent.body_sha,
            self._idempotency_s,
            self._record_s,
        ]
        status = await self._run(self._settle, names, args)
        if not status:
            return None
        return Kept(send_at_ms=int(float(status[1])), reserved_cents=int(status[2]), arm=status[3].decode())

    async def restore(self, contacts: Sequence[Contact]) -> None:
        """Adds contacts and what they reserved, each once, with whom to ask for an opt-out of them."""
        names = (
            (
                contacts_key(each.contact),
                reserved_key(each.campaign),
                customer_key(each.contact),
                contacted_key(each.decision_id),
                decision_key(each.decision_id),
                reserved_by_arm_key(each.campaign),
            )
            for each in contacts
        )
        facts = ((each.decision_id, each.at_ms, each.cents, each.contact, each.arm) for each in contacts)
        await self._run(self._restore, list(chain(*names)), [self._record_s, *chain(*facts)])

    async def contacted(self, decision_id: str) -> str | None:
        """The pseudonym of the customer of a contact that was restored without its record."""
        async with available():
            found: Any = await self.redis.get(contacted_key(decision_id))
        return found.decode() if found else None

    async def erase(self, ref: str) -> int:
        """Deletes a customer's keys and tells all gateways to do the same in their journals; returns the count."""
        deleted: int = await self._run(self._erase, [customer_key(ref), ERASURES], [ref, KEPT_ERASURES])
        # What was deleted stays in the append-only file until that is written anew; not every Redis lets us ask.
        with contextlib.suppress(RedisError):
            await self.redis.bgrewriteaof()
        return deleted

    async def server(self) -> str:
        """Which process answers as Redis; another one after a restart or a failover."""
        async with available():
            found: Any = await self.redis.info("server")
        return str(found.get("run_id", ""))

    async def generation(self) -> str | None:
        """Which ledger this is; None where Redis answers but holds none."""
        async with available():
            found: Any = await self.redis.get(GENERATION)
        return found.decode() if found else None

    async def open(self) -> None:
        """Makes what Redis holds a ledger that books, unless another gateway has done so."""
        async with available():
            await self.redis.set(GENERATION, uuid.uuid4().hex, nx=True)

    async def show_budgets(self) -> None:
        """Shows in the metrics what each campaign may spend, and what is reserved of it."""
        campaigns = self._world.campaigns
        async with available():
            reserved = await self.redis.mget([reserved_key(name) for name in campaigns])
        for (name, campaign), cents in zip(campaigns.items(), reserved, strict=True):
            metrics.CAMPAIGN_BUDGET_CENTS.labels(name).set(campaign.budget_cents)
            metrics.CAMPAIGN_RESERVED_CENTS.labels(name).set(int(cents or 0))

    async def decision(self, decision_id: str) -> dict[bytes, bytes]:
        """The stored fields of a decision; empty where there is none."""
        async with available():
            fields: Any = await self.redis.hgetall(decision_key(decision_id))
        return dict(fields)

    async def _run(self, script: Callable[..., Awaitable[Any]], keys: list[str], args: list[Any]) -> Any:
        async with available():
            return await script(keys=keys, args=args)


@asynccontextmanager
async def available() -> AsyncIterator[None]:
    """Turns whatever Redis or the network raise into LedgerUnavailable; what only a bug can cause is loud."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        if _is_bug(error):
            metrics.LEDGER_BUGS.inc()
            log.exception("ledger.command_refused")
        raise LedgerUnavailable(str(error) or type(error).__name__) from None


def _is_bug(error: Exception) -> bool:
    """Whether Redis refused a command for what it says, not for the state that Redis is in."""
    if isinstance(error, STATE_ERRORS) or STATE_CODES.search(str(error)):
        return False
    return isinstance(error, ResponseError | DataError)


def contact_rule_args(world: World) -> tuple[int, int, int]:
    """Cooldown and week in ms and the weekly cap, as the scripts take them."""
    rules = world.contact_rules
    return int(rules.cooldown_hours * MS_PER_HOUR), HOURS_PER_WEEK * MS_PER_HOUR, rules.weekly_cap


def oldest_contact_ms(now_ms: int) -> int:
    """Contacts before this moment no longer matter to any rule or feature."""
    return now_ms - int(HISTORY_HOURS * MS_PER_HOUR)


def idempotency_key(key: str) -> str:
    return "cs:idempotency:" + hashlib.sha256(key.encode()).hexdigest()


def standing_key(ref: str, campaign: str, slot: str) -> str:
    """`slot` keeps what was decided under the kill switch apart: flipping it must take effect at once."""
    return f"cs:standing:{ref}:{campaign}:{slot}"


def contacts_key(ref: str) -> str:
    return f"cs:contacts:{ref}"


def opt_out_key(ref: str) -> str:
    return f"cs:opt-out:{ref}"


def reserved_key(campaign: str) -> str:
    return f"cs:reserved:{campaign}"


def reserved_by_arm_key(campaign: str) -> str:
    """The same by the arm of an experiment, a hash."""
    return f"cs:reserved-by-arm:{campaign}"


def decision_key(decision_id: str) -> str:
    return f"cs:decision:{decision_id}"


def contacted_key(decision_id: str) -> str:
    """Whom a decision contacts, where its record was lost."""
    return f"cs:contacted:{decision_id}"


def customer_key(ref: str) -> str:
    return f"cs:customer:{ref}"
