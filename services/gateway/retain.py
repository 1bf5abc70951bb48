"""The story of one `/v1/retain` request, from top to bottom.

    validate → claim (Redis) → decide (policy or baseline) → write → review → book (Redis) → answer

Every step has a slice of the deadline and something to fall back on, so that nothing that is down makes
the answer anything but a 200 (law 4).
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.eligibility import ContactState, contact_reservations_cents, local_hours_at_send, mask_reasons
from churnsaver.domain.message import FALLBACK_LANGUAGE, MessageBook, slots_in, spoken_language
from churnsaver.domain.observation import pad_history
from churnsaver.domain.schema import FieldError, Scalar
from churnsaver.domain.world import World
from churnsaver.domain.writing import split_subject
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as decision_pb2
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as shield_pb2
from churnsaver.settings import ServeSettings
from services.gateway import metrics
from services.gateway.answer import build_answer, build_record, dump, refused
from services.gateway.baseline import ServedScorecard, propensity_threshold
from services.gateway.case import Case, Choice, Written, body_sha, pseudonym
from services.gateway.compose import Letter, compose_letter
from services.gateway.contract import Arm, BaselineReason, FindingBody, MessageBody, RetainRequest, SafetyBody
from services.gateway.downstream import Decision, Delivery, Draft, Generator, Shield, Unavailable
from services.gateway.journal import Journal
from services.gateway.kill_switch import KillSwitch
from services.gateway.ledger import (
    MS_PER_HOUR,
    Booking,
    Claim,
    Contact,
    InFlight,
    KeyMismatch,
    Ledger,
    LedgerUnavailable,
    Snapshot,
    StoredAnswer,
    Unsent,
)
from services.gateway.problems import Problem, invalid

# The baselines that the decision service holds, as the settings name them.
ASKED_BASELINES = {
    "propensity": decision_pb2.POLICY_NAME_PROPENSITY,
    "uplift_trees": decision_pb2.POLICY_NAME_UPLIFT_TREES,
    "thompson_sampling": decision_pb2.POLICY_NAME_THOMPSON_SAMPLING,
}


class Retention:
    """Answers retention requests. Everything it touches is handed to it by `bootstrap`."""

    def __init__(
        self,
        settings: ServeSettings,
        world: World,
        books: Mapping[str, MessageBook],
        scorecard: ServedScorecard,
        *,
        ledger: Ledger,
        journal: Journal,
        kill_switch: KillSwitch,
        decision: Decision,
        generator: Generator,
        shield: Shield,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.world, self.books, self.scorecard = world, books, scorecard
        self.actions = ActionSpace(world)
        self._settings, self._gateway = settings, settings.gateway
        self._ledger, self._journal, self._kill_switch = ledger, journal, kill_switch
        self._decision, self._generator, self._shield = decision, generator, shield
        self._clock = clock

    # -- the story ---------------------------------------------------------------------------------

    async def retain(self, request: RetainRequest, idempotency_key: str | None) -> bytes:
        """Answers one request with the JSON of a `RetainResponse`.

        Raises:
            Problem: the request is invalid (422), its key was used with another body (422) or is being
                answered right now (409). Nothing that is down raises.
        """
        self._validate(request)
        case = self._open_case(request, idempotency_key)
        claim = Claim(
            key=case.key,
            token=case.decision_id,
            body_sha=body_sha(request),
            customer_ref=case.customer_ref,
            campaign=request.campaign,
            arm=case.drawn_arm,
            slot=self._slot(case),
            now_ms=case.now_ms,
        )
        try:
            return await self._answer_once(claim, case)
        except KeyMismatch:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                f"the idempotency key {case.key!r} was used with another body; send a new key for a new request",
            ) from None
        except InFlight:
            raise Problem(
                HTTPStatus.CONFLICT,
                "request-in-flight",
                f"a request with the idempotency key {case.key!r} is being answered; try again",
                retry_after_s=1,
            ) from None

    async def _answer_once(self, claim: Claim, case: Case) -> bytes:
        """A new answer or the one that was given before. Raises KeyMismatch, InFlight."""
        if (waiting := self._journal.waiting(case.key)) is not None:
            return self._replay_waiting(claim, waiting)
        try:
            claimed = await self._ledger.claim(claim)
            if isinstance(claimed, StoredAnswer):
                return await self._answer_again(claim, case, claimed)
            state = self._contact_state(case, claimed)
            choice = await self._decide(case, state)
            written = await self._write_and_review(case, choice)
            return await self._book(claim, case, state, choice, written)
        except LedgerUnavailable:
            return self._answer_without_ledger(claim, case)

    # -- validate and open -------------------------------------------------------------------------

    def _validate(self, request: RetainRequest) -> None:
        errors = []
        if request.campaign not in self.world.campaigns:
            known = ", ".join(map(repr, self.world.campaigns))
            errors.append(FieldError(field="campaign", message=f"is {request.campaign!r}; expected one of {known}"))
        for name in request.customer.channels:
            if name not in self.world.channels:
                known = ", ".join(map(repr, self.world.channels))
                errors.append(FieldError(field=f"customer.channels.{name}", message=f"is no channel; known: {known}"))
        errors += [
            FieldError(field=f"customer.attributes.{error.field}", message=error.message)
            for error in self.scorecard.dataset.check_row(request.customer.attributes)
        ]
        if errors:
            raise invalid(errors)

    def _open_case(self, request: RetainRequest, idempotency_key: str | None) -> Case:
        started = time.perf_counter()
        now = self._clock()
        ref = pseudonym(self._settings.pseudonym_key, request.customer.id)
        epoch = int(now.timestamp()) // (self.world.epoch_hours * 3600)
        draw = hashlib.sha256(f"{self._settings.seed}|{ref}|{request.campaign}|{epoch}".encode()).digest()
        arm = self._drawn_arm(ref, request.campaign)
        reason = self._kill_switch.baseline_reason
        if reason is None and arm is not Arm.CHAMPION:
            reason = BaselineReason.EXPERIMENT
        request_id = request.request_id or idempotency_key or uuid.uuid4().hex
        return Case(
            request=request,
            key=idempotency_key or request_id,
            request_id=request_id,
            decision_id=uuid.uuid4().hex,
            customer_ref=ref,
            channel=next((name for name, given in request.customer.channels.items() if given.consent), None),
            now=now,
            drawn_arm=arm,
            shares=self._gateway.experiment,
            budget_cents=self._gateway.experiment.budget_cents(
                arm, self.world.campaigns[request.campaign].budget_cents
            ),
            started=started,
            deadline=started + self._gateway.deadline_ms / 1000.0,
            seed=int.from_bytes(draw[:8]),
            baseline_reason=reason,
            nobody_contacted=self._kill_switch.nobody_contacted,
        )

    def _drawn_arm(self, ref: str, campaign: str) -> Arm:
        """The experiment's arm of a customer, the same for the whole campaign."""
        shares = self._gateway.experiment
        point = int.from_bytes(hashlib.sha256(f"arm|{campaign}|{ref}".encode()).digest()[:8]) / 2**64
        if point < shares.holdout:
            return Arm.HOLDOUT
        return Arm.BASELINE if point < shares.holdout + shares.baseline else Arm.CHAMPION

    def _contact_state(self, case: Case, snapshot: Snapshot) -> ContactState:
        customer, campaign = case.request.customer, self.world.campaigns[case.request.campaign]
        left_cents = campaign.budget_cents - snapshot.reserved_cents
        arm_left_cents = case.budget_cents - snapshot.arm_reserved_cents
        case.budget_shared = not case.contacts_nobody and left_cents < arm_left_cents
        hours = [(case.now_ms - time_ms) / MS_PER_HOUR for time_ms in snapshot.contact_times_ms]
        local = local_hours_at_send(case.now, ZoneInfo(customer.timezone), self.world.delays_hours)
        cost = self.world.channels[case.channel].contact_cost_cents if case.channel else 0
        return ContactState(
            consent=np.array([case.channel is not None]),
            do_not_contact=np.array([snapshot.opted_out]),
            hours_since_contact=pad_history(hours),
            local_hour_at_send=np.array([local]),
            monthly_usd=np.array([self.scorecard.dataset.monthly_usd(customer.attributes)]),
            contact_cost_cents=np.array([cost]),
            budget_left_cents=np.array([min(left_cents, arm_left_cents)]),
        )

    def _slot(self, case: Case) -> str:
        """Which standing decision a request may meet: flipping the switch must take effect at once."""
        return "no_contact" if case.nobody_contacted else case.baseline_reason or case.mode

    # -- decide ------------------------------------------------------------------------------------

    async def _decide(self, case: Case, state: ContactState) -> Choice:
        if case.baseline_reason is None and case.is_late:
            case.baseline_reason = BaselineReason.DEADLINE
        policy = self._asked_policy(case)
        if policy is not None:
            try:
                with metrics.timed(case.spent_ms, "decision"):
                    return await self._ask_policy(case, state, policy)
            except Unavailable:
                case.baseline_reason = case.baseline_reason or BaselineReason.DECISION_UNAVAILABLE
        return self._baseline(case, state)

    def _asked_policy(self, case: Case) -> decision_pb2.PolicyName.ValueType | None:
        """What the decision service is asked to decide with; None where the gateway decides itself."""
        if case.baseline_reason is None:
            return decision_pb2.POLICY_NAME_UNSPECIFIED
        if case.contacts_nobody or case.is_late:
            return None
        return ASKED_BASELINES.get(self._gateway.baseline)

    async def _ask_policy(self, case: Case, state: ContactState, policy: decision_pb2.PolicyName.ValueType) -> Choice:
        request = case.request
        hours = state.hours_since_contact[0]
        contact = decision_pb2.ContactState(
            consent=bool(state.consent[0]),
            do_not_contact=bool(state.do_not_contact[0]),
            hours_since_contact=hours[np.isfinite(hours)].tolist(),
            local_hour_at_send=state.local_hour_at_send[0].tolist(),
            contact_cost_cents=int(state.contact_cost_cents[0]),
            budget_left_cents=int(state.budget_left_cents[0]),
            budget_cents=case.budget_cents,
        )
        timeout_s = case.time_left_s(self._gateway.decision_timeout_ms)
        answer = await self._decision.decide(request.customer.attributes, contact, case.seed, policy, timeout_s)
        return Choice(
            action=self.actions[answer.action],
            reasons=np.frombuffer(answer.mask_reasons, dtype=np.uint8),
            propensity=answer.propensity,
            risk=answer.risk,
            expected_value_usd=answer.expected_value_usd,
            reserved_cents=answer.reserved_cents,
            features=self._features(case),
            versions=dict(answer.versions),
            sha256=dict(answer.sha256),
            observation=tuple(answer.observation),
            multipliers=dict(answer.multipliers),
        )

    def _baseline(self, case: Case, state: ContactState) -> Choice:
        risk = self.scorecard.risk(case.request.customer.attributes)
        reasons = mask_reasons(self.world, state)[0]
        action = propensity_threshold(self.actions, self.scorecard, risk, reasons)
        if case.contacts_nobody:
            action = self.actions[NO_CONTACT]
        reserved = contact_reservations_cents(self.world, state)[0, action.index]
        return Choice(
            action=action,
            reasons=reasons,
            propensity=1.0,
            risk=risk,
            expected_value_usd=None,
            reserved_cents=int(reserved),
            features=self._features(case),
            versions=self.scorecard.versions,
            sha256=self.scorecard.sha256,
        )

    def _features(self, case: Case) -> dict[str, Scalar]:
        attributes = case.request.customer.attributes
        return {name: attributes.get(name) for name in self.scorecard.dataset.feature_names}

    # -- write and review --------------------------------------------------------------------------

    async def _write_and_review(self, case: Case, choice: Choice) -> Written:
        """The message of a contact: the draft, else the draft without the name, else the approved text without it.

        Where none of them passes, there is no message and no contact.
        """
        if choice.action.offer is None:
            return Written(None, SafetyBody())
        letter = self._letter(case, choice)
        draft = await self._draft(case, letter)
        # Where the approved text takes a draft's place, it was that draft's draw which led to it.
        nameless, approved = letter.nameless(), _template(letter, draft.propensity)
        send_at = case.now + timedelta(hours=choice.action.delay_hours)
        delivery = Delivery(send_at, case.request.customer.timezone)
        # A customer's own name can be what was found: a word, or a letter that halves what an SMS carries.
        tries = [(letter, draft)]
        for one in ((nameless, draft), (nameless, approved)):
            if one not in tries:
                tries.append(one)
        try:
            for addressed, text in tries:
                written = await self._review(case, addressed, text, delivery)
                if written.safety.verdict == "pass":
                    break
        except Unavailable:
            # Nobody can vouch for a written text or for a name now.
            return Written(_message(nameless, approved), SafetyBody(), approved.message_id, approved.propensity)
        return written

    def _letter(self, case: Case, choice: Choice) -> Letter:
        customer = case.request.customer
        assert case.channel is not None
        assert choice.action.offer is not None
        if (language := spoken_language(customer.locale, self.books)) is None:
            metrics.LANGUAGE_FALLBACKS.inc()
        return compose_letter(
            self.books,
            language=language or FALLBACK_LANGUAGE,
            channel=case.channel,
            tone=self._settings.generator.tone,
            tenure_months=self.scorecard.dataset.tenure_months(customer.attributes),
            offer=choice.action.offer,
            first_name=customer.first_name,
            send_at=case.now + timedelta(hours=choice.action.delay_hours),
            timezone=customer.timezone,
            valid_days=self.world.contact_rules.offer_valid_days,
        )

    async def _draft(self, case: Case, letter: Letter) -> Draft:
        """What the generator wrote; the approved text where it is away or invented a slot."""
        try:
            with metrics.timed(case.spent_ms, "generator"):
                timeout_s = case.time_left_s(self._gateway.generator_timeout_ms)
                draft = await self._generator.generate(letter.brief, case.seed, timeout_s)
        except Unavailable:
            return _template(letter)
        return draft if letter.slots.keys() >= set(slots_in(draft.text)) else _template(letter, draft.propensity)

    async def _review(self, case: Case, letter: Letter, draft: Draft, delivery: Delivery) -> Written:
        """What the shield says of the filled draft; Unavailable where it says nothing."""
        text = letter.filled(draft.text)
        with metrics.timed(case.spent_ms, "shield"):
            timeout_s = case.time_left_s(self._gateway.shield_timeout_ms)
            review = await self._shield.review(text, letter.brief, letter.slots, delivery, timeout_s)
        findings = [FindingBody(rule=f.rule, message=f.message, excerpt=f.excerpt) for f in review.findings]
        if review.verdict != shield_pb2.VERDICT_PASS:
            safety = SafetyBody(verdict="block", findings=findings)
            return Written(None, safety, propensity=draft.propensity, shield_version=review.version)
        safety = SafetyBody(verdict="pass", findings=findings)
        message = _message(letter, draft)
        return Written(message, safety, draft.message_id, draft.propensity, review.version, letter.is_named)

    # -- book and answer ---------------------------------------------------------------------------

    async def _book(self, claim: Claim, case: Case, state: ContactState, choice: Choice, written: Written) -> bytes:
        answer = build_answer(self.world, self.actions, case, choice, written)
        send_at_ms = case.now_ms + choice.action.delay_hours * MS_PER_HOUR if written.message else None
        booking = Booking(
            slot=self._slot(case),
            decision_id=case.decision_id,
            send_at_ms=send_at_ms,
            reserved_cents=choice.reserved_cents if written.message else 0,
            arm_budget_cents=case.budget_cents,
            record=build_record(case, state, choice, written, send_at_ms),
            answer=dump(answer),
            answer_if_refused=dump(refused(answer)),
            message_id=written.message_id if written.message and written.message.source == "bank" else "",
        )
        status, stored = await self._ledger.book(claim, booking)
        if status == "standing":
            return await self._answer_again(claim, case, StoredAnswer(stored, standing=True))
        if status == "booked" and send_at_ms is not None:
            self._journal.add_contact(
                Contact(
                    contact=case.customer_ref,
                    campaign=case.request.campaign,
                    decision_id=case.decision_id,
                    at_ms=send_at_ms,
                    cents=choice.reserved_cents,
                    arm=case.drawn_arm,
                )
            )
            metrics.count_contact(case.request.campaign, answer, choice.reserved_cents)
        metrics.count(answer, status)
        return stored

    async def _answer_again(self, claim: Claim, case: Case, stored: StoredAnswer) -> bytes:
        """A replay returns the first answer as it was; a standing decision answers under the new request's id."""
        if not stored.standing:
            metrics.REPEATS.labels("replay").inc()
            return stored.body
        metrics.REPEATS.labels("standing").inc()
        answer = orjson.dumps(orjson.loads(stored.body) | {"request_id": case.request_id})
        await self._ledger.store_answer(claim, answer)
        return answer

    def _replay_waiting(self, claim: Claim, waiting: Unsent) -> bytes:
        """A replay of what was answered without the ledger, before Redis knows of it."""
        if waiting.body_sha != claim.body_sha:
            raise KeyMismatch
        metrics.REPEATS.labels("replay").inc()
        return waiting.answer.encode()

    def _answer_without_ledger(self, claim: Claim, case: Case) -> bytes:
        """Nothing is known to be booked, so nobody is contacted; the record waits in the journal.

        What the ledger may have booked all the same is withdrawn under the claim's token when it answers again.
        """
        if (waiting := self._journal.waiting(case.key)) is not None:
            # Two requests with one key met the same outage: this one's booking is withdrawn too.
            answer_again = self._replay_waiting(claim, waiting)
            self._journal.add_unsent(waiting.model_copy(update={"token": claim.token}))
            return answer_again
        case.baseline_reason = BaselineReason.LEDGER_UNAVAILABLE
        # Not the id that a script may have booked under before its reply was lost.
        case.decision_id = uuid.uuid4().hex
        state = self._contact_state(
            case, Snapshot(opted_out=False, reserved_cents=0, arm_reserved_cents=0, contact_times_ms=())
        )
        choice, written = self._baseline(case, state), Written(None, SafetyBody())
        answer = build_answer(self.world, self.actions, case, choice, written)
        body = dump(answer)
        record = build_record(case, state, choice, written, None)
        self._journal.add_unsent(
            Unsent(
                key=case.key,
                token=claim.token,
                body_sha=claim.body_sha,
                customer_ref=case.customer_ref,
                campaign=claim.campaign,
                decision_id=case.decision_id,
                record=record.decode(),
                answer=body.decode(),
            )
        )
        metrics.count(answer, "journaled")
        return body


def _message(letter: Letter, draft: Draft) -> MessageBody:
    """The message that a draft is, filled."""
    subject, body = split_subject(letter.filled(draft.text))
    return MessageBody(
        subject=subject,
        text=body,
        source=draft.source,
        model=draft.model_version or None,
        language=letter.brief.language,
    )


def _template(letter: Letter, propensity: float = 1.0) -> Draft:
    """The approved text; `propensity`: of the draft that it takes the place of, if any."""
    text = letter.book.template(letter.brief)
    return Draft(text, "template", f"template:{letter.brief.key}", "", propensity)
