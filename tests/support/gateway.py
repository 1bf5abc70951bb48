"""A gateway wired to a real Redis and to fakes of the three services."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
from fastapi import FastAPI

from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.message import Brief
from churnsaver.domain.schema import DatasetSchema, Scalar
from churnsaver.redis_client import open_redis
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as decision_pb2
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as shield_pb2
from churnsaver.settings import RedisSettings, ServeSettings, load_message_books, load_serve_settings, load_world
from services.gateway.app import build_app
from services.gateway.baseline import ServedScorecard
from services.gateway.contract import KillSwitchRequest
from services.gateway.downstream import Delivery, Draft, Unavailable
from services.gateway.journal import Journal
from services.gateway.kill_switch import KillSwitch
from services.gateway.ledger import RedisLedger
from services.gateway.records import Records
from services.gateway.retain import Retention
from services.gateway.upkeep import rebuild

# A Monday at noon in New York: no quiet hours now, quiet hours in 12 hours.
NOON = datetime(2026, 3, 2, 12, tzinfo=ZoneInfo("America/New_York")).astimezone(UTC)

SCHEMA = DatasetSchema.parse(
    {
        "name": "tiny",
        "columns": {
            "customer": {"role": "id"},
            "months": {"role": "tenure", "minimum": 0},
            "monthly": {"role": "revenue", "minimum": 0},
            "plan": {"role": "categorical", "categories": ["basic", "plus"]},
            "note": {"role": "numeric", "optional": True},
            "left": {"role": "label", "yes": "1"},
        },
    }
)
SCORECARD = ServedScorecard.model_validate(
    {
        "version": "scorecard-test",
        "dataset": SCHEMA,
        "intercept": 0.0,
        "numeric": {"months": {"mean": 24.0, "std": 12.0, "weight": -1.0}},
        "categorical": {"plan": {"basic": 0.5, "plus": -0.5}},
        "threshold": 0.5,
        "offer": "discount_10",
        "checkpoint_version": "risk-test",
        "checkpoint_sha256": "5ca1ab1e",
    }
)


class FakeDecision:
    """Always chooses `action`; `down` makes it unavailable."""

    def __init__(self, offer: str = "discount_20", delay_hours: int = 0) -> None:
        self.world = load_world()
        self.action = ActionSpace(self.world)[ActionSpace(self.world).index_of(offer, delay_hours)]
        self.down: Unavailable | None = None
        self.seeds: list[int] = []
        self.policies: list[decision_pb2.PolicyName.ValueType] = []

    async def decide(
        self,
        attributes: Mapping[str, Scalar],
        contact: decision_pb2.ContactState,
        seed: int,
        policy: decision_pb2.PolicyName.ValueType,
        timeout_s: float,
    ) -> decision_pb2.DecideResponse:
        self.policies.append(policy)
        if self.down:
            raise self.down
        self.seeds.append(seed)
        return decision_pb2.DecideResponse(
            action=self.action.index,
            contact=self.action.contact,
            propensity=0.25,
            risk=0.7,
            expected_value_usd=8.0,
            reserved_cents=600,
            mask_reasons=bytes(len(ActionSpace(self.world))),
            versions={"policy": "policy-test", "risk": "risk-test", "acceptance": "acceptance-test"},
            sha256={"policy": "a1", "risk": "b2", "acceptance": "c3"},
            observation=[0.7, 0.1],
        )


class FakeGenerator:
    """Returns `draft`; `down` makes it unavailable."""

    def __init__(self) -> None:
        self.draft = Draft(
            "Hi {first_name}, stay a while: {offer} until {expiry}. {opt_out}", "bank", "m-1", "generator-test", 0.5
        )
        self.down: Unavailable | None = None
        self.briefs: list[Brief] = []

    async def generate(self, brief: Brief, seed: int, timeout_s: float) -> Draft:
        if self.down:
            raise self.down
        self.briefs.append(brief)
        return self.draft


class FakeShield:
    """Blocks texts that hold a word of `forbidden`; `down` makes it unavailable."""

    def __init__(self) -> None:
        self.forbidden: set[str] = set()
        self.down: Unavailable | None = None
        self.texts: list[str] = []

    async def review(
        self, text: str, brief: Brief, slots: Mapping[str, str], delivery: Delivery, timeout_s: float
    ) -> shield_pb2.ReviewResponse:
        if self.down:
            raise self.down
        self.texts.append(text)
        found = [word for word in sorted(self.forbidden) if word in text]
        return shield_pb2.ReviewResponse(
            verdict=shield_pb2.VERDICT_BLOCK if found else shield_pb2.VERDICT_PASS,
            findings=[shield_pb2.Finding(rule="phrase", message="is forbidden", excerpt=word) for word in found],
            version="shield-test",
        )


class Gateway:
    """Everything that a test may want to hold, wired as `services.gateway.bootstrap` wires it."""

    def __init__(
        self,
        redis_url: str,
        state_dir: Path,
        *,
        force_baseline: bool = False,
        redis_timeout_s: float = 5.0,
        **overrides: Any,
    ) -> None:
        settings = load_serve_settings()
        # A busy machine must not use up a deadline that no test is about.
        gateway = settings.gateway.model_copy(update={"deadline_ms": 5_000, **overrides})
        self.settings: ServeSettings = settings.model_copy(update={"gateway": gateway})
        self.world = load_world()
        self.now = NOON
        self.decision, self.generator, self.shield = FakeDecision(), FakeGenerator(), FakeShield()
        self.redis = open_redis(RedisSettings(url=redis_url), redis_timeout_s)
        self.ledger = RedisLedger(self.redis, self.world, claim_ms=900, idempotency_s=3600, record_s=86_400)
        self.journal = Journal(state_dir)
        memory = state_dir / "kill_switch.json"
        self.kill_switch = KillSwitch(self.redis, force_baseline=force_baseline, poll_s=0.05, memory=memory)
        self.retention = Retention(
            self.settings,
            self.world,
            load_message_books(),
            SCORECARD,
            ledger=self.ledger,
            journal=self.journal,
            kill_switch=self.kill_switch,
            decision=self.decision,
            generator=self.generator,
            shield=self.shield,
            clock=lambda: self.now,
        )
        self.records = Records(
            self.ledger,
            self.journal,
            self.kill_switch,
            self.world,
            pseudonym_key=self.settings.pseudonym_key,
            clock=lambda: self.now,
        )

    async def close(self) -> None:
        self.journal.close()
        await self.redis.aclose()

    def app(self) -> FastAPI:
        async def serving() -> dict[str, Any]:
            return {"gateway": {"risk": {"version": "risk-test"}}}

        return build_app(
            lambda: self.retention,
            self.records,
            self.kill_switch,
            serving=serving,
            max_body_bytes=self.settings.gateway.max_body_bytes,
        )

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app(), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://gateway")


@contextlib.asynccontextmanager
async def serving_gateway(redis_url: str, state_dir: Path, **options: Any) -> AsyncIterator[Gateway]:
    """A gateway whose ledger is open and whose switch is off."""
    gateway = Gateway(redis_url, state_dir, **options)
    await rebuild(gateway.ledger, gateway.journal)
    await gateway.kill_switch.write(KillSwitchRequest(state="off", reason="test"))
    try:
        yield gateway
    finally:
        await gateway.close()


def body(customer: str = "c1", request_id: str | None = "r1", **changes: Any) -> dict[str, Any]:
    """A valid request; `changes` replace fields of the customer."""
    fields = {
        "id": customer,
        "first_name": "Ana",
        "locale": "en-US",
        "timezone": "America/New_York",
        "channels": {"sms": {"consent": True}, "email": {"consent": True}},
        "attributes": {"months": 3, "monthly": 50.0, "plan": "basic", "note": None},
    }
    return {"request_id": request_id, "campaign": "default", "customer": {**fields, **changes}}
