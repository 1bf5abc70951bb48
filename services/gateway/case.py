"""What is known of one request on its way through the gateway."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import orjson
from numpy.typing import NDArray

from churnsaver.domain.actions import Action
from churnsaver.domain.schema import Scalar
from churnsaver.settings import ExperimentSettings
from services.gateway.contract import Arm, BaselineReason, MessageBody, Mode, RetainRequest, SafetyBody


@dataclass(slots=True)
class Case:
    """One request on its way: what came in, what is known, and when it must be answered.

    Attributes:
        drawn_arm: the experiment's arm of this customer, the same for the whole campaign.
        shares: the experiment's arms.
        budget_cents: the drawn arm's part of the campaign's budget.
        baseline_reason: why the baseline decides; None while the policy does.
        nobody_contacted: whether the kill switch forbids every contact.
        budget_shared: whether the campaign has less left than the arm, so that others' spending counts here too.
    """

    request: RetainRequest
    key: str
    request_id: str
    decision_id: str
    customer_ref: str
    channel: str | None
    now: datetime
    drawn_arm: Arm
    shares: ExperimentSettings
    budget_cents: int
    started: float
    deadline: float
    seed: int
    baseline_reason: BaselineReason | None
    nobody_contacted: bool
    budget_shared: bool = False
    spent_ms: dict[str, float] = field(default_factory=dict)

    @property
    def mode(self) -> Mode:
        return Mode.BASELINE if self.baseline_reason else Mode.POLICY

    @property
    def arm(self) -> Arm:
        """The drawn arm; but where the baseline must decide for everybody, baseline for all but the holdout."""
        if self._experiment_runs or self.drawn_arm is Arm.HOLDOUT:
            return self.drawn_arm
        return Arm.BASELINE

    @property
    def contacts_nobody(self) -> bool:
        """Whether there is nothing to decide: a holdout, or a kill switch that forbids every contact."""
        return self.arm is Arm.HOLDOUT or self.nobody_contacted

    @property
    def arm_propensity(self) -> float:
        """The probability with which a customer gets this arm under the conditions of this request."""
        if self.arm is Arm.HOLDOUT:
            return self.shares.holdout
        if not self._experiment_runs:
            return 1.0 - self.shares.holdout
        return self.shares.baseline if self.arm is Arm.BASELINE else self.shares.champion

    @property
    def _experiment_runs(self) -> bool:
        return self.baseline_reason in (None, BaselineReason.EXPERIMENT)

    @property
    def now_ms(self) -> int:
        return int(self.now.timestamp() * 1000)

    @property
    def is_late(self) -> bool:
        """Whether the request's deadline is used up."""
        return time.perf_counter() >= self.deadline

    def time_left_s(self, slice_ms: int) -> float:
        """The slice of a call, or what is left of the request's deadline if that is less."""
        return max(0.001, min(slice_ms / 1000.0, self.deadline - time.perf_counter()))


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided and everything needed to replay it.

    Attributes:
        features: the schema's feature columns as they were read, neither id nor name.
        versions, sha256: of the models that decided, by kind.
        observation: what a policy of the decision service saw; empty for the scorecard.
        multipliers: the champion's Lagrange multipliers; empty for every baseline.
    """

    action: Action
    reasons: NDArray[np.uint8]
    propensity: float
    risk: float | None
    expected_value_usd: float | None
    reserved_cents: int
    features: Mapping[str, Scalar]
    versions: Mapping[str, str]
    sha256: Mapping[str, str]
    observation: tuple[float, ...] = ()
    multipliers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """The message of a contact and what the shield said of it; no message when it may not be sent.

    `propensity` is that of the draft that was drawn, whether it was sent or the approved text took its place;
    `named`: whether it was filled with the customer's name.
    """

    message: MessageBody | None
    safety: SafetyBody
    message_id: str = ""
    propensity: float = 1.0
    shield_version: str | None = None
    named: bool = False


def pseudonym(key: str, customer_id: str) -> str:
    """The name under which the ledger knows a customer: keyed, so that ids cannot be guessed from it."""
    return hmac.new(key.encode(), customer_id.encode(), hashlib.sha256).hexdigest()[:32]


def body_sha(request: RetainRequest) -> str:
    """Hash of what a request asks for; the order of the channels counts, that of the attributes does not."""
    body = request.model_dump(mode="json")
    order = list(request.customer.channels)
    return hashlib.sha256(orjson.dumps([body, order], option=orjson.OPT_SORT_KEYS)).hexdigest()
