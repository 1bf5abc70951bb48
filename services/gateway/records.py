"""What happens to a decision after it was made: look-up, release before sending, outcome, erasure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from churnsaver.domain.eligibility import hour_of_day, in_quiet_hours
from churnsaver.domain.world import HOURS_PER_DAY, World
from services.gateway import ledger as keys
from services.gateway.case import pseudonym
from services.gateway.contract import (
    Outcome,
    OutcomeRequest,
    OutcomeResponse,
    ReleaseRequest,
    ReleaseResponse,
)
from services.gateway.journal import Journal
from services.gateway.kill_switch import KillSwitch
from services.gateway.ledger import LUA, MS_PER_HOUR, LedgerUnavailable, RedisLedger, available, decision_key
from services.gateway.problems import Problem, unavailable

# Reasons after which a booked contact never takes place.
FINAL = frozenset({"do_not_contact", "consent", "expired"})
DURABLE_FIRST = "nothing was recorded because the ledger does not answer; send it again"


class Records:
    """Decisions after the fact. Every method raises a 503 Problem while the ledger is away."""

    def __init__(
        self,
        ledger: RedisLedger,
        journal: Journal,
        kill_switch: KillSwitch,
        world: World,
        *,
        pseudonym_key: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ledger, self._journal, self._kill_switch = ledger, journal, kill_switch
        self._world, self._pseudonym_key, self._clock = world, pseudonym_key, clock
        self._outcome = ledger.redis.register_script((LUA / "outcome.lua").read_text())
        self._cancel = ledger.redis.register_script((LUA / "cancel.lua").read_text())

    async def get(self, decision_id: str) -> dict[str, Any]:
        """The decision's record with its booking, its answer and its outcomes."""
        fields = await self._fields(decision_id)
        outcomes = {
            name.decode().removeprefix("outcome:"): _iso(int(at_ms))
            for name, at_ms in fields.items()
            if name.startswith(b"outcome:")
        }
        record: dict[str, Any] = orjson.loads(fields[b"record"])
        answer = orjson.loads(fields[b"answer"])
        return {**record, "booking": fields[b"booking"].decode(), "outcomes": outcomes, "answer": answer}

    async def release(self, decision_id: str, request: ReleaseRequest) -> ReleaseResponse:
        """Whether a booked contact may be sent now: consent, switch, time, quiet hours and caps once more."""
        fields = await self._fields(decision_id)
        record, answer = orjson.loads(fields[b"record"]), orjson.loads(fields[b"answer"])
        booked = fields[b"booking"] == b"booked"
        reason = await self._why_not(record, request) if booked else "not_booked"
        if reason in FINAL:
            await self._cancel_booking(decision_id, record)
        if reason is not None:
            due_at = _iso(record["send_at_ms"]) if reason == "not_due" else None
            return ReleaseResponse(decision_id=decision_id, action="skip", reason=reason, due_at=due_at)
        channel, text = answer["decision"]["channel"], answer["message"]["text"]
        return ReleaseResponse(decision_id=decision_id, action="send", channel=channel, text=text)

    async def _why_not(self, record: dict[str, Any], request: ReleaseRequest) -> str | None:
        """The first reason not to send a booked contact now, or None."""
        ref, due_ms = record["customer_ref"], record["send_at_ms"]
        async with available_or_503():
            opted_out = await self._ledger.redis.exists(keys.opt_out_key(ref))
            contacts: Any = await self._ledger.redis.zrange(keys.contacts_key(ref), 0, -1, withscores=True)
        now = self._clock()
        now_ms, rules = now.timestamp() * 1000, self._world.contact_rules
        local_hour = np.array([hour_of_day(now.astimezone(ZoneInfo(record["timezone"])))])
        others = [at_ms for member, at_ms in contacts if member != record["decision_id"].encode()]
        checks = (
            ("do_not_contact", opted_out),
            ("consent", not request.consent),
            ("kill_switch", self._kill_switch.nobody_contacted),
            ("not_due", now_ms < due_ms),
            ("expired", now_ms > due_ms + rules.offer_valid_days * HOURS_PER_DAY * MS_PER_HOUR),
            ("quiet_hours", in_quiet_hours(rules.quiet_hours, local_hour)[0]),
            ("cooldown", any(abs(at_ms - now_ms) < rules.cooldown_hours * MS_PER_HOUR for at_ms in others)),
        )
        return next((reason for reason, holds in checks if holds), None)

    async def outcome(self, request: OutcomeRequest) -> OutcomeResponse:
        """Records what came of a decision, once; returns only when it is durable."""
        fields = await self._fields(request.decision_id)
        ref = orjson.loads(fields[b"record"])["customer_ref"]
        if request.outcome is Outcome.OPTED_OUT:
            self._journal.add_opt_out(ref)
        now_ms = int(self._clock().timestamp() * 1000)
        async with available_or_503():
            status = await self._outcome(
                keys=[keys.GENERATION, decision_key(request.decision_id), keys.opt_out_key(ref), keys.OUTBOX],
                args=[request.outcome, now_ms, request.decision_id],
            )
        if status == b"lost":
            raise unavailable(DURABLE_FIRST)
        return OutcomeResponse(decision_id=request.decision_id, outcome=request.outcome, recorded=status == b"recorded")

    async def erase(self, customer_id: str) -> int:
        """Deletes everything kept of a customer but the fact that they opted out; returns the count of keys."""
        ref = pseudonym(self._pseudonym_key, customer_id)
        async with available_or_503():
            redis = self._ledger.redis
            listed = await redis.smembers(keys.customer_key(ref))
            deleted: int = await redis.delete(keys.customer_key(ref), *listed)
        self._journal.erase(ref)
        return deleted

    async def _fields(self, decision_id: str) -> dict[bytes, bytes]:
        try:
            fields = await self._ledger.decision(decision_id)
        except LedgerUnavailable:
            raise unavailable(DURABLE_FIRST) from None
        if not fields:
            raise Problem(HTTPStatus.NOT_FOUND, "unknown-decision", f"there is no decision {decision_id!r}")
        return fields

    async def _cancel_booking(self, decision_id: str, record: dict[str, Any]) -> None:
        ref, campaign = record["customer_ref"], record["campaign"]
        async with available_or_503():
            cancelled = await self._cancel(
                keys=[decision_key(decision_id), keys.contacts_key(ref), keys.reserved_key(campaign)],
                args=[decision_id],
            )
        if cancelled:
            self._journal.add_cancellation(ref, campaign, decision_id, record["reserved_cents"])


@asynccontextmanager
async def available_or_503() -> AsyncIterator[None]:
    """Turns a ledger that is away into a 503 with Retry-After."""
    try:
        async with available():
            yield
    except LedgerUnavailable:
        raise unavailable(DURABLE_FIRST) from None


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
