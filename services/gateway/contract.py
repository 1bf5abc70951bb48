"""The public contract: what callers send to the gateway and what it answers."""

from __future__ import annotations

import unicodedata
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, field_validator

from churnsaver.domain.schema import MAX_INTEGER

# Names that some systems' zone databases hold beside the zones: this machine's own, and placeholders.
NO_ZONES = frozenset({"localtime", "Factory", "posixrules"})


def _printable(identifier: str) -> str:
    """Identifiers become keys of Redis and lines of logs."""
    if any(unicodedata.category(ch) == "Cc" for ch in identifier):
        raise ValueError("holds a control character; remove it")
    return identifier


def _in_64_bits(value: Any) -> Any:
    """JSON's numbers have no bound; what is stored and sent on has."""
    if isinstance(value, int | float) and abs(value) > MAX_INTEGER:
        raise ValueError("is a number of more than 64 bits; expected a smaller one, or a text")
    return value


Identifier = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]
AttributeValue = Annotated[StrictBool | float | int | str | None, BeforeValidator(_in_64_bits)]


class Payload(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Consent(Payload):
    consent: StrictBool


class Customer(Payload):
    """Who may be contacted. Nothing here but `attributes` reaches a model, and no name ever does."""

    id: Identifier
    first_name: Annotated[str | None, Field(max_length=200)] = None
    locale: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$",
            max_length=35,  # room enough for any tag but private ones (RFC 5646, 4.4.1)
            description="BCP 47; `message.language` says in which language the text is",
        ),
    ] = "en"
    timezone: Annotated[str, Field(description="IANA name of the customer's own zone")]
    channels: Annotated[dict[str, Consent], Field(description="in the customer's order of preference")]
    attributes: Annotated[dict[str, AttributeValue], Field(description="columns of the dataset schema")]

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name not in _zones():
            raise ValueError(f"{name!r} is no IANA time zone; expected a name such as 'America/New_York'")
        return name


class RetainRequest(Payload):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "request_id": "b7f2c1d0",
                "campaign": "default",
                "customer": {
                    "id": "C000042",
                    "first_name": "Ana",
                    "locale": "en-US",
                    "timezone": "America/New_York",
                    "channels": {"sms": {"consent": True}, "email": {"consent": True}},
                    "attributes": {"tenure_months": 4, "monthly_usd": 29.85},
                },
            }
        }
    )

    request_id: Identifier | None = None
    campaign: Identifier = "default"
    customer: Customer


class Mode(StrEnum):
    POLICY = "policy"
    BASELINE = "baseline"


class BaselineReason(StrEnum):
    KILL_SWITCH = "kill_switch"
    FORCE_BASELINE = "force_baseline"
    KILL_STATE_UNKNOWN = "kill_state_unknown"
    DECISION_UNAVAILABLE = "decision_unavailable"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    DEADLINE = "deadline"
    EXPERIMENT = "experiment"


class Arm(StrEnum):
    CHAMPION = "champion"
    CHALLENGER = "challenger"
    BASELINE = "baseline"
    HOLDOUT = "holdout"


class DecisionBody(Payload):
    contact: bool
    offer: str | None = None
    delay_hours: int | None = None
    channel: str | None = None
    propensity: Annotated[float, Field(description="of the chosen action under the masked policy, (0, 1]")] = 1.0
    risk: Annotated[float | None, Field(description="calibrated probability of churn")] = None
    expected_value_usd: Annotated[
        float | None,
        Field(description="of what is answered: 0 without contact; null where no acceptance model took part"),
    ] = None
    masked: Annotated[dict[str, str], Field(description="offers that the hard rules forbid, and why")] = {}


class MessageBody(Payload):
    subject: Annotated[str | None, Field(description="of an e-mail; null in every other channel")] = None
    text: str
    source: Literal["model", "bank", "template"]
    model: Annotated[str | None, Field(description="version of the model that wrote it; null for a template")] = None
    language: Annotated[str, Field(description="of the text; English where nobody approved texts in the customer's")]


class FindingBody(Payload):
    rule: str
    message: str
    excerpt: str = ""


class SafetyBody(Payload):
    verdict: Annotated[
        Literal["pass", "block", "not_reviewed"],
        Field(
            description="not_reviewed: nothing to review, or the shield is down and the text an approved, nameless one"
        ),
    ] = "not_reviewed"
    findings: list[FindingBody] = []


class RetainResponse(Payload):
    decision_id: str
    request_id: str
    customer_id: str
    mode: Mode
    baseline_reason: Annotated[
        BaselineReason | None,
        Field(
            description="why the baseline decided. decision_unavailable: the decision service is down or slow; "
            "deadline: the request's time was used up before it could be asked"
        ),
    ] = None
    arm: Annotated[Arm, Field(description="a holdout is never contacted; all others get baseline while it is forced")]
    decision: DecisionBody
    message: MessageBody | None = None
    safety: SafetyBody = SafetyBody()
    versions: dict[str, str]
    latency_ms: dict[str, float]


class Outcome(StrEnum):
    ACCEPTED = "accepted"
    IGNORED = "ignored"
    OPTED_OUT = "opted_out"
    CHURNED = "churned"
    RETAINED = "retained"


class OutcomeRequest(Payload):
    decision_id: Identifier
    outcome: Outcome


class OutcomeResponse(Payload):
    decision_id: str
    outcome: Outcome
    recorded: Annotated[bool, Field(description="false where this outcome was already known")]


class KillSwitchRequest(Payload):
    state: Literal["on", "off"]
    scope: Annotated[
        Literal["baseline", "no_contact"], Field(description="what `on` means: baseline policies, or nobody contacted")
    ] = "baseline"
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class ReleaseRequest(Payload):
    consent: Annotated[StrictBool, Field(description="whether the caller still holds consent for the channel")] = True


class ReleaseResponse(Payload):
    decision_id: str
    action: Literal["send", "skip"]
    reason: str | None = None
    channel: str | None = None
    subject: Annotated[str | None, Field(description="of an e-mail")] = None
    text: str | None = None
    due_at: str | None = None


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - NO_ZONES
