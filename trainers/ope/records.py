"""Decision records and outcomes as the gateway publishes them and Pub/Sub writes them: JSON lines in a folder.

    DIR/decisions/**/*.jsonl   a decision, again after each change of its booking; the highest revision holds
    DIR/outcomes/**/*.jsonl    an outcome of a decision; the first report of each kind holds

Delivery is at least once, so the same line may come in several files.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
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
CLOCK_SKEW = timedelta(minutes=5)  # by which two machines may differ
MAX_CONTACT_COST_CENTS = 100_000
BOOKED = frozenset({"booked", "released"})
# Of the customers followed; so few reports are a topic that was read in part rather than customers who stayed.
LEAST_REPORTED, FEW_REPORTED = 0.01, 20
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
    contact_cost_cents: Annotated[int, Field(ge=0, le=MAX_CONTACT_COST_CENTS)]
    budget_shared: bool = True  # where a record is from before arms had parts of the budget


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

    def entered(self, campaign: str | None, since: datetime | None, until: datetime | None) -> Log:
        """Everything of the customers who came into `campaign` from `since` on and before `until`; None sets no bound.

        A customer comes in with the first decision in a campaign. All their later decisions are kept, or what was
        spent on them would be lost; and whoever had come in before has been treated before, so is left out whole.

        Raises:
            BadInput: nobody is left.
        """
        entry: dict[tuple[str, str], datetime] = {}
        for decision in self.decisions:
            entry.setdefault((decision.campaign, decision.customer_ref), decision.decided_at)
        chosen = [
            decision
            for decision in self.decisions
            if (campaign is None or decision.campaign == campaign)
            and (since is None or entry[decision.campaign, decision.customer_ref] >= since)
            and (until is None or entry[decision.campaign, decision.customer_ref] < until)
        ]
        if not chosen:
            names = ", ".join(sorted({decision.campaign for decision in self.decisions}))
            first, last = (self.decisions[end].decided_at.isoformat() for end in (0, -1))
            raise BadInput(
                f"no customer of {len(self.decisions)} decisions came into that campaign then; the records hold "
                f"the campaigns {names}, from {first} to {last}"
            )
        return replace(self, decisions=chosen)

    def reported_share(self, decisions: Sequence[Decision]) -> float:
        """Of the customers of these decisions, the share with an outcome of any of them, or known to have churned."""
        customers = {decision.customer_ref for decision in decisions}
        return len(self._reported(decisions)) / len(customers) if customers else 0.0

    def _reported(self, decisions: Sequence[Decision]) -> set[str]:
        return {
            decision.customer_ref
            for decision in decisions
            if decision.decision_id in self.outcomes or decision.customer_ref in self.churned_at
        }

    def require_outcomes(self, followed: Sequence[Decision]) -> None:
        """BadInput where hardly any outcome was reported: staying cannot be told from a topic that is missing."""
        share, known = self.reported_share(followed), len(self._reported(followed))
        if 0.0 < share < LEAST_REPORTED and known < FEW_REPORTED:
            raise BadInput(
                f"outcomes of only {share:.2%} of the customers who were followed were reported, {known} of them; at "
                f"least {LEAST_REPORTED:.0%} or {FEW_REPORTED} are needed, as that others stayed cannot be told from "
                "missing outcomes; put all outcomes/ of these decisions into the folder"
            )
        if followed and not known:
            raise BadInput(
                f"no outcome of any of the {len(followed)} decisions that were followed was reported; that all stayed "
                "cannot be told from outcomes that are missing: put the outcomes/ of these decisions into the folder"
            )


def read_log(folder: Path, world: World) -> Log:
    """The records under `folder`.

    Raises:
        BadInput: with file, line and field, what was expected and how to mend it.
    """
    root = folder if (folder / "decisions").is_dir() else folder / "records"
    latest: dict[str, tuple[Decision, str]] = {}
    checker = _Checker(world)
    for where, line in _lines(root / "decisions"):
        decision = _parsed(Decision, where, line)
        checker.check(decision, where)
        known, first_where = latest.get(decision.decision_id, (None, ""))
        if known is None or decision.revision > known.revision:
            latest[decision.decision_id] = decision, where
        elif decision.revision == known.revision and decision != known:
            raise BadInput(
                f"{where}: decision {decision.decision_id} differs from revision {decision.revision} of it in "
                f"{first_where}; one revision says one thing: take the wrong line out"
            )
    if not latest:
        raise BadInput(f"{folder}: {_why_empty(folder, root)}")
    decisions = sorted((one for one, _ in latest.values()), key=lambda one: (one.decided_at, one.decision_id))
    return _with_outcomes(decisions, root / "outcomes")


def _why_empty(folder: Path, root: Path) -> str:
    if not folder.exists():
        return "does not exist; name the folder that holds decisions/ and outcomes/"
    if packed := next((root / "decisions").rglob("*.gz"), None):
        return f"holds no decisions/**/*.jsonl, but {packed.name}; unpack it (gunzip)"
    return (
        "holds no decisions; expected decisions/**/*.jsonl and outcomes/**/*.jsonl, as Pub/Sub writes them (the local "
        "stack where `churn-saver up` says)"
    )


def _with_outcomes(decisions: list[Decision], folder: Path) -> Log:
    of = {decision.decision_id: decision for decision in decisions}
    outcomes: dict[str, dict[str, datetime]] = {}
    churned_at: dict[str, datetime] = {}
    until, orphans = decisions[-1].decided_at, set()
    for where, line in _lines(folder):
        told = _parsed(OutcomeLine, where, line)
        _check_time(told.at, where, "at")
        decision = of.get(told.decision_id)
        if decision is None:
            orphans.add((told.decision_id, told.outcome))
            continue
        _check_outcome(told, decision, where)
        until = max(until, told.at)
        known = outcomes.setdefault(told.decision_id, {})
        known[told.outcome] = min(told.at, known.get(told.outcome, told.at))
        if told.outcome == "churned":
            who = decision.customer_ref
            churned_at[who] = min(told.at, churned_at.get(who, told.at))
    return Log(decisions, outcomes, churned_at, until, len(orphans))


def _check_outcome(told: OutcomeLine, decision: Decision, where: str) -> None:
    if told.customer_ref != decision.customer_ref:
        raise BadInput(
            f"{where}, field customer_ref: is {told.customer_ref!r}, but decision {told.decision_id} is of "
            f"{decision.customer_ref!r}; mend the line or take it out"
        )
    if told.at < decision.decided_at - CLOCK_SKEW:
        raise BadInput(
            f"{where}, field at: is {told.at.isoformat()}, before its decision ({decision.decided_at.isoformat()}); "
            "mend the line or take it out"
        )


class _Checker:
    """What a record must say of actions, mask and propensities in this world."""

    def __init__(self, world: World) -> None:
        self._labels = ActionSpace(world).labels
        self._features = len(observation_names(world))

    def check(self, decision: Decision, where: str) -> None:
        """BadInput names the field that cannot be used."""
        _check_time(decision.decided_at, where, "decided_at")
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
        for name, value in decision.features.items():
            if isinstance(value, float) and not math.isfinite(value):
                yield f"features.{name}", f"is {value}; expected a finite number, or null where it is not known"
        if len(decision.observation) not in (0, self._features):
            yield "observation", f"has {len(decision.observation)} numbers; expected {self._features} or none"
        if abs(given.total - given.arm * given.policy * given.message) > TOTAL_TOLERANCE:
            yield "propensity.total", f"is {given.total}, not arm × policy × message; write the product"


def _lines(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every line of every .jsonl file that is not blank, and where it stands."""
    for path in sorted(folder.rglob("*.jsonl")):
        try:
            content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror}); mend it or take it out") from None
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                yield f"{path}, line {number}", line


def _parsed(kind: type[Line], where: str, line: bytes) -> Line:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise BadInput(f"{where}{_no_json(line) or _first_fault(error.errors()[0])}") from None


def _no_json(line: bytes) -> str | None:
    """Why the line is no JSON, or None where it is."""
    try:
        json.loads(line.decode())
    except UnicodeDecodeError as error:
        return f": byte {error.start + 1} (0x{line[error.start]:02x}) is no UTF-8; write the file as UTF-8"
    except json.JSONDecodeError as error:
        return f": is no JSON object ({error.msg}, character {error.pos + 1} of {len(line)}; cut off?); mend the line"
    return None


def _first_fault(fault: Any) -> str:
    """The field of a pydantic error, what is wrong and what stands there."""
    if not fault["loc"]:
        return ": is no JSON object; each line is one record"
    field = ".".join(map(str, fault["loc"]))
    found = "" if fault["type"] == "missing" else f" (found {str(fault['input'])[:60]!r})"
    mend = "; a propensity is a probability in (0, 1]" if field.startswith("propensity") else ""
    return f", field {field}: {fault['msg']}{found}{mend}"


def _check_time(at: datetime, where: str, field: str) -> None:
    if at.tzinfo is None:
        raise BadInput(f"{where}, field {field}: {at.isoformat()} has no time zone; add one, such as +00:00")
    if at > datetime.now(UTC) + CLOCK_SKEW:
        raise BadInput(f"{where}, field {field}: {at.isoformat()} lies in the future; mend the line or take it out")
