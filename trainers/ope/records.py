"""Decision records and outcomes as the gateway publishes them and Pub/Sub writes them: JSON lines in a folder.

    DIR/decisions/**/*.jsonl   a decision, again after each change of its booking; the highest revision holds
    DIR/outcomes/**/*.jsonl    an outcome of a decision; the first report of each kind holds

Delivery is at least once, so the same line may come in several files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.eligibility import Reason
from churnsaver.domain.observation import observation_names
from churnsaver.domain.schema import Scalar
from churnsaver.domain.world import World
from churnsaver.errors import BadInput

Share = Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
TOTAL_TOLERANCE = 1e-6  # of a product of three probabilities
BOOKED = frozenset({"booked", "released"})
Line = TypeVar("Line", bound="Lines")


class Lines(BaseModel):
    """What is not read may change without harm."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class LoggedAction(Lines):
    index: Annotated[int, Field(ge=0)]
    label: str


class Propensities(Lines):
    arm: Share
    policy: Share
    message: Share
    total: Share


class LoggedContactState(Lines):
    hours_since_contact: list[Finite]
    contact_cost_cents: Annotated[int, Field(ge=0)]


class Decision(Lines):
    """What measuring reads of a decision's record; `services/gateway/answer.py` says what the fields hold."""

    decision_id: str
    customer_ref: str
    campaign: str
    decided_at: datetime
    mode: Literal["policy", "baseline"]
    baseline_reason: str | None
    arm: str
    drawn_arm: str | None = None
    action: LoggedAction
    propensity: Propensities
    features: dict[str, Scalar]
    observation: list[Finite]
    mask_reasons: list[Annotated[int, Field(ge=0, le=max(Reason))]]
    contact_state: LoggedContactState
    booking: str
    revision: int
    versions: dict[str, str] = {}

    @property
    def contacted(self) -> bool:
        """Whether the intended contact was booked and stood; one that the ledger refused was not."""
        return self.booking in BOOKED


class OutcomeLine(Lines):
    decision_id: str
    customer_ref: str
    outcome: Literal["accepted", "ignored", "opted_out", "churned", "retained"]
    at: datetime


@dataclass(frozen=True, slots=True)
class Log:
    """Everything that a folder of records says.

    Attributes:
        decisions: in the order in which they were made.
        outcomes: by decision, when each kind was first reported.
        churned_at: by customer, when churn was first reported of any of their decisions.
        until: the latest moment that the folder knows of; what would have come later is not known.
        orphans: outcomes of decisions that are not in the folder.
    """

    decisions: list[Decision]
    outcomes: dict[str, dict[str, datetime]]
    churned_at: dict[str, datetime]
    until: datetime
    orphans: int


def read_log(folder: Path, world: World) -> Log:
    """The records under `folder`.

    Raises:
        BadInput: with file, line and field, what was expected and how to mend it.
    """
    root = folder if (folder / "decisions").is_dir() else folder / "records"
    latest: dict[str, Decision] = {}
    checker = _Checker(world)
    for where, line in _lines(root / "decisions"):
        decision = _parsed(Decision, where, line)
        checker.check(decision, where)
        known = latest.get(decision.decision_id)
        if known is None or decision.revision >= known.revision:
            latest[decision.decision_id] = decision
    if not latest:
        raise BadInput(
            f"{folder}: holds no decisions; expected decisions/**/*.jsonl and outcomes/**/*.jsonl, as Pub/Sub writes "
            "them (the local stack into .churn-saver/state/records)"
        )
    decisions = sorted(latest.values(), key=lambda decision: (decision.decided_at, decision.decision_id))
    return _with_outcomes(decisions, root / "outcomes")


def _with_outcomes(decisions: list[Decision], folder: Path) -> Log:
    customers = {decision.decision_id: decision.customer_ref for decision in decisions}
    outcomes: dict[str, dict[str, datetime]] = {}
    churned_at: dict[str, datetime] = {}
    until, orphans = decisions[-1].decided_at, set()
    for where, line in _lines(folder):
        told = _parsed(OutcomeLine, where, line)
        _check_zone(told.at, where, "at")
        until = max(until, told.at)
        if told.decision_id not in customers:
            orphans.add((told.decision_id, told.outcome))
            continue
        known = outcomes.setdefault(told.decision_id, {})
        known[told.outcome] = min(told.at, known.get(told.outcome, told.at))
        if told.outcome == "churned":
            who = customers[told.decision_id]
            churned_at[who] = min(told.at, churned_at.get(who, told.at))
    return Log(decisions, outcomes, churned_at, until, len(orphans))


class _Checker:
    """What a record must say of actions, mask and propensities in this world."""

    def __init__(self, world: World) -> None:
        self._labels = ActionSpace(world).labels
        self._features = len(observation_names(world))

    def check(self, decision: Decision, where: str) -> None:
        """BadInput names the field that cannot be used."""
        _check_zone(decision.decided_at, where, "decided_at")
        for field, message in self._faults(decision):
            raise BadInput(f"{where}, field {field}: {message}")

    def _faults(self, decision: Decision) -> Iterator[tuple[str, str]]:
        labels, action, given = self._labels, decision.action, decision.propensity
        if not (action.index < len(labels) and labels[action.index] == action.label):
            known = labels.index(action.label) if action.label in labels else None
            means = f"number {known} has that name" if known is not None else "the catalogue has no such action"
            yield (
                "action",
                f"is {action.label!r} with the number {action.index}, but {means}; use the env.yaml of that time",
            )
        elif len(decision.mask_reasons) != len(labels):
            yield "mask_reasons", f"has {len(decision.mask_reasons)} reasons for {len(labels)} actions of env.yaml"
        elif decision.mask_reasons[action.index] != Reason.ALLOWED:
            why = Reason(decision.mask_reasons[action.index]).slug
            yield "action", f"is {action.label!r}, which the record's mask forbids ({why}); leave the record out"
        if len(decision.observation) not in (0, self._features):
            yield "observation", f"has {len(decision.observation)} numbers; expected {self._features} or none"
        if abs(given.total - given.arm * given.policy * given.message) > TOTAL_TOLERANCE:
            yield "propensity.total", f"is {given.total}, not arm × policy × message; write the product"


def _lines(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every line of every .jsonl file that is not blank, and where it stands."""
    for path in sorted(folder.rglob("*.jsonl")):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror}); mend it or take it out") from None
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                yield f"{path}, line {number}", line


def _parsed(kind: type[Line], where: str, line: bytes) -> Line:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise BadInput(f"{where}{_first_fault(error.errors()[0])}") from None


def _first_fault(fault: Any) -> str:
    """The field of a pydantic error, what is wrong and what stands there."""
    if not fault["loc"]:
        return ": is no JSON object; each line is one record"
    field = ".".join(map(str, fault["loc"]))
    found = "" if fault["type"] == "missing" else f" (found {str(fault['input'])[:60]!r})"
    mend = "; a propensity is a probability in (0, 1]" if field.startswith("propensity") else ""
    return f", field {field}: {fault['msg']}{found}{mend}"


def _check_zone(at: datetime, where: str, field: str) -> None:
    if at.tzinfo is None:
        raise BadInput(f"{where}, field {field}: {at.isoformat()} has no time zone; add one, such as +00:00")
