"""What happens to a decision after it was made: look-up, release before sending, outcome, erasure."""

from __future__ import annotations

import asyncio
import uuid
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
from churnsaver.message_counts import JUDGEMENTS
from services.gateway import ledger as keys
from services.gateway import metrics
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
from services.gateway.ledger import (
    MS_PER_HOUR,
    Contact,
    LedgerUnavailable,
    RedisLedger,
    available,
    contact_rule_args,
    decision_key,
)
from services.gateway.problems import Problem, unavailable

# Reasons after which a booked contact never takes place.
FINAL = frozenset({"do_not_contact", "consent", "expired", "message_retired"})
# What callers are told while the ledger is away.
NOT_READ = "the decision cannot be read because the ledger does not answer; ask again"
NOT_RELEASED = "do not send: the ledger does not answer; ask again, with the same Idempotency-Key"
NOT_RECORDED = "nothing was recorded because the ledger does not answer; send it again"
NOT_ERASED = "not everything was erased because the ledger does not answer; send it again"


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
        self._outcome, self._cancel, self._release = (ledger.script(name) for name in ("outcome", "cancel", "release"))

    async def get(self, decision_id: str) -> dict[str, Any]:
        """The decision's record with its booking, when it was released, its answer and its outcomes."""
        fields = await self._fields(decision_id, NOT_READ)
        outcomes = {
            name.decode().removeprefix("outcome:"): _iso(int(at_ms))
            for name, at_ms in fields.items()
            if name.startswith(b"outcome:")
        }
        record: dict[str, Any] = orjson.loads(fields[b"record"])
        answer = orjson.loads(fields[b"answer"])
        released_at_ms = fields.get(b"released_at_ms")
        return {
            **record,
            "booking": fields[b"booking"].decode(),
            "released_at": _iso(int(released_at_ms)) if released_at_ms else None,
            "outcomes": outcomes,
            "answer": answer,
        }

    async def release(
        self, decision_id: str, request: ReleaseRequest, idempotency_key: str | None = None
    ) -> ReleaseResponse:
        """Whether a booked contact may be sent now: consent, switch, time, quiet hours and caps once more.

        The answer `send` is given once; with the same idempotency key it is given again, as long as nothing
        speaks against sending.
        """
        fields = await self._fields(decision_id, NOT_RELEASED)
        record, answer = orjson.loads(fields[b"record"]), orjson.loads(fields[b"answer"])
        booked = fields[b"booking"] in {b"booked", b"released"}
        reason = await self._release_or_why_not(record, request, idempotency_key) if booked else "not_booked"
        metrics.RELEASES.labels(reason or "send").inc()
        if reason in FINAL:
            await self._cancel_booking(decision_id, record)
        if reason is not None:
            due_at = _iso(record["send_at_ms"]) if reason == "not_due" else None
            return ReleaseResponse(decision_id=decision_id, action="skip", reason=reason, due_at=due_at)
        channel, message = answer["decision"]["channel"], answer["message"]
        subject, text = message.get("subject"), message["text"]  # older gateways stored no subject
        return ReleaseResponse(decision_id=decision_id, action="send", channel=channel, subject=subject, text=text)

    async def _release_or_why_not(
        self, record: dict[str, Any], request: ReleaseRequest, idempotency_key: str | None
    ) -> str | None:
        """Releases a contact, or returns the first reason not to send it now."""
        ref, campaign, decision_id = record["customer_ref"], record["campaign"], record["decision_id"]
        now = self._clock()
        now_ms = int(now.timestamp() * 1000)
        async with available_or_503(NOT_RELEASED):
            status = await self._release(
                keys=[
                    keys.GENERATION,
                    decision_key(decision_id),
                    keys.contacts_key(ref),
                    keys.opt_out_key(ref),
                    keys.OUTBOX,
                    JUDGEMENTS,
                ],
                args=[
                    decision_id,
                    # Also without a caller's key a script that is run again after a lost reply must know itself.
                    idempotency_key or uuid.uuid4().hex,
                    now_ms,
                    self._why_not_now(record, request, now) or "",
                    *contact_rule_args(self._world),
                ],
            )
        match status:
            case b"lost":
                raise unavailable(NOT_RELEASED)
            case b"released":
                self._journal.move_contact(
                    Contact(
                        contact=ref,
                        campaign=campaign,
                        decision_id=decision_id,
                        at_ms=now_ms,
                        cents=record["reserved_cents"],
                        arm=record["drawn_arm"],
                    )
                )
                return None
            case b"again":
                return None
            case _:
                return str(status.decode())

    def _why_not_now(self, record: dict[str, Any], request: ReleaseRequest, now: datetime) -> str | None:
        """The first reason that needs no ledger not to send a booked contact now, or None."""
        due_ms, now_ms, rules = record["send_at_ms"], now.timestamp() * 1000, self._world.contact_rules
        local_hour = np.array([hour_of_day(now.astimezone(ZoneInfo(record["timezone"])))])
        checks = (
            ("consent", not request.consent),
            ("kill_switch", self._kill_switch.nobody_contacted),
            ("not_due", now_ms < due_ms),
            ("expired", now_ms > due_ms + rules.offer_valid_days * HOURS_PER_DAY * MS_PER_HOUR),
            ("quiet_hours", in_quiet_hours(rules.quiet_hours, local_hour)[0]),
        )
        return next((reason for reason, holds in checks if holds), None)

    async def outcome(self, request: OutcomeRequest) -> OutcomeResponse:
        """Records what came of a decision, once; returns only when it is durable."""
        ref, news = await self._customer_of(request), False
        if request.outcome is Outcome.OPTED_OUT:
            try:
                news = self._journal.add_opt_out(ref)
            except OSError as error:
                raise unavailable(f"nothing was recorded ({error.strerror}, gateway's disk); send it again") from None
        now_ms = int(self._clock().timestamp() * 1000)
        async with available_or_503(NOT_RECORDED):
            status = await self._outcome(
                keys=[keys.GENERATION, decision_key(request.decision_id), keys.opt_out_key(ref), keys.OUTBOX],
                args=[request.outcome, now_ms, request.decision_id, ref],
            )
        if status == b"lost":
            raise unavailable(NOT_RECORDED)
        # Where Redis lost the decision, the journal says whether the opt-out is news.
        recorded = news if status == b"unknown" else status == b"recorded"
        if recorded:
            metrics.OUTCOMES.labels(request.outcome).inc()
        return OutcomeResponse(decision_id=request.decision_id, outcome=request.outcome, recorded=recorded)

    async def _customer_of(self, request: OutcomeRequest) -> str:
        """The customer's pseudonym; an opt-out is heard even where Redis lost the decision, if it was a contact."""
        try:
            fields = await self._fields(request.decision_id, NOT_RECORDED)
        except Problem as problem:
            if problem.status is not HTTPStatus.NOT_FOUND or request.outcome is not Outcome.OPTED_OUT:
                raise
            ref = await asyncio.to_thread(self._journal.contacted, request.decision_id)
            return ref or await self._restored(request.decision_id, problem)
        return str(orjson.loads(fields[b"record"])["customer_ref"])

    async def _restored(self, decision_id: str, unknown: Problem) -> str:
        """The pseudonym of a customer of whom another gateway's journal told the ledger; else raises `unknown`."""
        async with available_or_503(NOT_RECORDED):
            ref = await self._ledger.contacted(decision_id)
            closed = await self._ledger.generation() is None
        if ref is None:
            raise unavailable(NOT_RECORDED) if closed else unknown
        return ref

    async def erase(self, customer_id: str) -> int:
        """Deletes everything kept of a customer but the fact that they opted out; returns the count of keys."""
        ref = pseudonym(self._pseudonym_key, customer_id)
        async with available_or_503(NOT_ERASED):
            deleted = await self._ledger.erase(ref)
        try:
            await self._journal.erase([ref])
        except OSError as error:
            raise unavailable(f"not all was erased ({error.strerror}, gateway's disk); send it again") from None
        return deleted

    async def _fields(self, decision_id: str, detail: str) -> dict[bytes, bytes]:
        """The stored fields of a decision; a Problem with `detail` while the ledger is away, or a 404."""
        for waiting in self._journal.unsent():
            if waiting.decision_id == decision_id:  # answered without the ledger, which has not got it yet
                return {b"record": waiting.record.encode(), b"answer": waiting.answer.encode(), b"booking": b"none"}
        try:
            fields = await self._ledger.decision(decision_id)
        except LedgerUnavailable:
            raise unavailable(detail) from None
        if not fields:
            raise Problem(HTTPStatus.NOT_FOUND, "unknown-decision", f"there is no decision {decision_id!r}")
        return fields

    async def _cancel_booking(self, decision_id: str, record: dict[str, Any]) -> None:
        ref, campaign = record["customer_ref"], record["campaign"]
        async with available_or_503(NOT_RELEASED):
            cancelled = await self._cancel(
                keys=[
                    decision_key(decision_id),
                    keys.contacts_key(ref),
                    keys.reserved_key(campaign),
                    keys.OUTBOX,
                    keys.reserved_by_arm_key(campaign),
                ],
                args=[decision_id],
            )
        if cancelled:
            self._journal.add_cancellation(ref, campaign, decision_id, record["reserved_cents"])


@asynccontextmanager
async def available_or_503(detail: str) -> AsyncIterator[None]:
    """Turns a ledger that is away into a 503 with Retry-After that says `detail`."""
    try:
        async with available():
            yield
    except LedgerUnavailable:
        raise unavailable(detail) from None


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
