"""A folder of records as Pub/Sub writes it, of a made-up experiment whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.settings import load_world

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAYS = 60  # between the first decision and the last
MONTHLY_USD = 50.0
WORLD = load_world()
SPACE = ActionSpace(WORLD)
NAMES = observation_names(WORLD)


@dataclass(frozen=True)
class Experiment:
    """What is true of the experiment.

    Attributes:
        shares: of customers, by arm; `champion` draws uniformly from all actions.
        churn: probability of churning within a week, of risk (n,) and whether contacted (n,).
        drawn: shares with which customers really come to the arms, if others than stated.
    """

    customers: int = 1_500
    shares: dict[str, float] = field(default_factory=lambda: {"champion": 0.7, "holdout": 0.3})
    churn: Callable[[NDArray[np.float64], NDArray[np.bool_]], NDArray[np.float64]] = lambda risk, contacted: (
        risk * np.where(contacted, 0.5, 1.0)
    )
    drawn: dict[str, float] | None = None
    accept: float = 0.3


def write_experiment(folder: Path, truth: Experiment, seed: int) -> Path:
    """Records and outcomes of one decision for each customer, in `folder`."""
    rng, n = np.random.default_rng(seed), truth.customers
    drawn = truth.drawn or truth.shares
    arms = rng.choice(list(drawn), p=list(drawn.values()), size=n)
    risk = rng.uniform(0.1, 0.9, n)
    actions = np.where(arms == "champion", rng.integers(len(SPACE), size=n), NO_CONTACT)
    churned = rng.random(n) < truth.churn(risk, actions != NO_CONTACT)
    accepted = (actions != NO_CONTACT) & (rng.random(n) < truth.accept)
    opted_out = (actions != NO_CONTACT) & (rng.random(n) < 0.02)
    at = START + np.sort(rng.random(n)) * timedelta(days=DAYS)
    decisions, outcomes = [], []
    for i in range(n):
        line = decision(i, str(arms[i]), truth.shares[str(arms[i])], int(actions[i]), float(risk[i]), at[i])
        decisions.append(line)
        for happened, kind, days in (
            (accepted[i], "accepted", 1),
            (opted_out[i], "opted_out", 1),
            (churned[i], "churned", 5),
            (not churned[i], "retained", 30),
        ):
            if happened:
                outcomes.append(outcome(line, kind, at[i] + timedelta(days=days)))
    write_lines(folder / "decisions" / "2026" / "a.jsonl", decisions)
    write_lines(folder / "outcomes" / "2026" / "a.jsonl", outcomes)
    return folder


def decision(number: int, arm: str, share: float, action: int, risk: float, at: datetime) -> dict[str, Any]:
    """One record with the fields that measuring reads."""
    policy = 1.0 / len(SPACE) if arm == "champion" else 1.0
    observation = np.zeros(len(NAMES))
    observation[NAMES.index("risk")] = risk
    observation[NAMES.index("log_monthly_usd")] = np.log1p(MONTHLY_USD) / 6.0
    return {
        "decision_id": f"d{number}",
        "customer_ref": f"c{number}",
        "campaign": "default",
        "decided_at": at.isoformat(),
        "mode": "policy" if arm == "champion" else "baseline",
        "baseline_reason": None if arm == "champion" else "experiment",
        "arm": arm,
        "drawn_arm": arm,
        "action": {"index": action, "label": SPACE[action].label},
        "propensity": {"arm": share, "policy": policy, "message": 1.0, "total": share * policy},
        "features": {"risk": risk, "monthly_usd": MONTHLY_USD},
        "observation": observation.tolist() if arm == "champion" else [],
        "mask_reasons": [0] * len(SPACE),
        "contact_state": {"hours_since_contact": [], "contact_cost_cents": 5},
        "booking": "booked" if action != NO_CONTACT else "none",
        "released_at_ms": None,
        "revision": number,
        "versions": {"policy": "p1"} if arm == "champion" else {},
    }


def outcome(of: dict[str, Any], kind: str, at: datetime) -> dict[str, Any]:
    """One outcome of a decision."""
    told = {"decision_id": of["decision_id"], "customer_ref": of["customer_ref"], "outcome": kind}
    return {**told, "at": at.isoformat()}


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """JSON lines, added to what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def scored(rows: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Risk and monthly charge as the made-up features say them."""
    return np.array([row["risk"] for row in rows]), np.array([row["monthly_usd"] for row in rows])
