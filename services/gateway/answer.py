"""What one decided request leaves behind: the answer to the caller and the record for those who measure."""

from __future__ import annotations

import time

import numpy as np
import orjson

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.eligibility import ContactState, masked_offers
from churnsaver.domain.world import World
from services.gateway.case import Case, Choice, Written
from services.gateway.contract import DecisionBody, RetainResponse, SafetyBody
from services.gateway.ledger import REASON_PLACEHOLDER


def build_answer(world: World, actions: ActionSpace, case: Case, choice: Choice, written: Written) -> RetainResponse:
    """The answer. Nobody is contacted without a message that passed."""
    action = choice.action if written.message else actions[NO_CONTACT]
    total_ms = (time.perf_counter() - case.started) * 1000.0
    return RetainResponse(
        decision_id=case.decision_id,
        request_id=case.request_id,
        customer_id=case.request.customer.id,
        mode=case.mode,
        baseline_reason=case.baseline_reason,
        arm=case.arm,
        decision=DecisionBody(
            contact=action.contact,
            offer=action.offer.id if action.offer else None,
            delay_hours=action.delay_hours if action.contact else None,
            channel=case.channel if action.contact else None,
            propensity=choice.propensity,
            risk=choice.risk,
            expected_value_usd=choice.expected_value_usd if action.contact else _of_nothing(choice.expected_value_usd),
            masked=masked_offers(world, choice.reasons),
        ),
        message=written.message,
        safety=written.safety,
        versions=_versions(choice, written),
        latency_ms={"total": round(total_ms, 2)} | {step: round(ms, 2) for step, ms in case.spent_ms.items()},
    )


def refused(answer: RetainResponse) -> RetainResponse:
    """The answer if the ledger refuses the booking: the customer is not contacted, and why.

    The ledger's script writes the reason over REASON_PLACEHOLDER.
    """
    offer = answer.decision.offer
    masked = {**answer.decision.masked, **({offer: REASON_PLACEHOLDER} if offer else {})}
    decision = answer.decision.model_copy(
        update={
            "contact": False,
            "offer": None,
            "delay_hours": None,
            "channel": None,
            "expected_value_usd": _of_nothing(answer.decision.expected_value_usd),
            "masked": masked,
        }
    )
    return answer.model_copy(update={"decision": decision, "message": None, "safety": SafetyBody()})


def build_record(case: Case, state: ContactState, choice: Choice, written: Written, send_at_ms: int | None) -> bytes:
    """Everything needed to replay and measure the decision (law 2); no name, no id and no text of a customer.

    `action` is the intended one, whatever shield and ledger said afterwards.
    """
    hours = state.hours_since_contact[0]
    message = written.message
    return orjson.dumps(
        {
            "decision_id": case.decision_id,
            "request_id": case.request_id,
            "customer_ref": case.customer_ref,
            "campaign": case.request.campaign,
            "decided_at": case.now.isoformat(),
            "mode": case.mode,
            "baseline_reason": case.baseline_reason,
            "nobody_contacted": case.nobody_contacted,
            "arm": case.arm,
            "drawn_arm": case.drawn_arm,
            "seed": case.seed,
            "action": {"index": choice.action.index, "label": choice.action.label},
            "send_at_ms": send_at_ms,
            "timezone": case.request.customer.timezone,
            "channel": case.channel,
            "reserved_cents": choice.reserved_cents,
            "propensity": {
                "arm": case.arm_propensity,
                "policy": choice.propensity,
                "message": written.propensity,
                "total": case.arm_propensity * choice.propensity * written.propensity,
            },
            "risk": choice.risk,
            "features": choice.features,
            # The policy's floats have 32 bits; written as such they are half as long and no less exact.
            "observation": np.array(choice.observation, dtype=np.float32),
            "mask_reasons": choice.reasons.tolist(),
            "multipliers": choice.multipliers,
            "contact_state": {
                "consent": bool(state.consent[0]),
                "opted_out": bool(state.do_not_contact[0]),
                "hours_since_contact": hours[np.isfinite(hours)].tolist(),
                "local_hour_at_send": state.local_hour_at_send[0].tolist(),
                "contact_cost_cents": int(state.contact_cost_cents[0]),
                "budget_left_cents": int(state.budget_left_cents[0]),
                "arm_budget_cents": case.budget_cents,
                "budget_shared": case.budget_shared,
            },
            "message": {
                "id": written.message_id,
                "source": message.source if message else None,
                "named": written.named,
            },
            "safety": written.safety.model_dump(),
            "versions": _versions(choice, written),
            "sha256": choice.sha256,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _versions(choice: Choice, written: Written) -> dict[str, str]:
    """Of everything that took part, by kind: what decided, what wrote the message, what reviewed it."""
    versions = dict(choice.versions)
    if written.message and written.message.model:
        versions["generator"] = written.message.model
    if written.shield_version:
        versions["shield"] = written.shield_version
    return versions


def _of_nothing(expected_value_usd: float | None) -> float | None:
    """The expected value of contacting nobody: 0, or None where the decision stated no value."""
    return None if expected_value_usd is None else 0.0


def dump(answer: RetainResponse) -> bytes:
    """The answer as the bytes that are stored and sent."""
    return orjson.dumps(answer.model_dump(mode="json"))
