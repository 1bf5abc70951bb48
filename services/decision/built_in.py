"""What any decision service must do, whatever its checkpoints: checked before they serve."""

from __future__ import annotations

import math
from itertools import product

from churnsaver.domain.actions import NO_CONTACT
from churnsaver.domain.eligibility import Reason
from churnsaver.domain.world import World
from churnsaver.errors import CheckpointError
from churnsaver.rpc.attributes import attribute_values
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as pb
from services.decision.decide import Decider

NOON = 12.0
SEEDS = range(20)  # of the champion
BASELINE_SEEDS = range(1)  # they hardly draw, and a swap waits for this
BUDGET_CENTS = 1_000_000


def check_built_in_cases(decider: Decider, world: World) -> None:
    """Decides about the risk checkpoint's golden customers, with the champion and with every baseline.

    Raises:
        CheckpointError: somebody without consent was contacted, an action was drawn that the mask forbids,
            or a number came out that is none.
    """
    customers = enumerate(decider.golden_customers())
    for (number, customer), consent, policy in product(customers, (True, False), decider.policies):
        for seed in SEEDS if policy == pb.POLICY_NAME_UNSPECIFIED else BASELINE_SEEDS:
            contact = pb.ContactState(
                consent=consent,
                local_hour_at_send=[NOON] * len(world.delays_hours),
                budget_left_cents=BUDGET_CENTS,
                budget_cents=BUDGET_CENTS,
            )
            request = pb.DecideRequest(attributes=attribute_values(customer), contact=contact, seed=seed, policy=policy)
            answer = decider.decide(request)
            if (fault := _fault(answer, consent=consent)) is not None:
                raise CheckpointError(
                    f"{answer.versions['policy']}: about golden customer {number}, "
                    f"{'with' if consent else 'without'} consent, {fault}; train the checkpoints again"
                )


def _fault(answer: pb.DecideResponse, *, consent: bool) -> str | None:
    if not consent and (answer.action != NO_CONTACT or answer.propensity != 1.0):
        return f"it chose action {answer.action} with propensity {answer.propensity:.3g}"
    if answer.mask_reasons[answer.action] != Reason.ALLOWED:
        return f"it chose action {answer.action}, which the mask forbids"
    if not 0.0 < answer.propensity <= 1.0 or not 0.0 <= answer.risk <= 1.0:
        return f"it gave propensity {answer.propensity:.3g} and risk {answer.risk:.3g}"
    if not math.isfinite(answer.expected_value_usd):
        return f"it expects a value of {answer.expected_value_usd}"
    return None
