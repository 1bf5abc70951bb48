"""The gateway's HTTP face: thin routes over `Retention`, `Records` and `KillSwitch`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Header, Path, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from churnsaver import __version__
from services.gateway import metrics, problems
from services.gateway.console import add_console
from services.gateway.contract import (
    KillSwitchRequest,
    OutcomeRequest,
    OutcomeResponse,
    ReleaseRequest,
    ReleaseResponse,
    RetainRequest,
    RetainResponse,
)
from services.gateway.json_body import JsonRoute
from services.gateway.kill_switch import AlreadySet, KillSwitch
from services.gateway.problems import Problem, unavailable
from services.gateway.records import Records
from services.gateway.retain import Retention

DESCRIPTION = """Decides whether, when and with what offer to contact a customer who may leave, writes the
message and proves it safe. Errors are RFC 9457 problems that name the field and how to mend it."""

PROBLEM: dict[str, Any] = {
    "description": "what is wrong and how to mend it",
    "content": {problems.MEDIA_TYPE: {"schema": {"type": "object"}}},
}
RETAIN_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: PROBLEM,
    409: PROBLEM,
    413: PROBLEM,
    415: PROBLEM,
    422: PROBLEM,
}
LEDGER_PROBLEMS: dict[int | str, dict[str, Any]] = {404: PROBLEM, 422: PROBLEM, 503: PROBLEM}

IdempotencyKey = Annotated[
    str | None,
    Header(max_length=128, description="replays return the first answer; defaults to the body's request_id"),
]
ReleaseKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=128,
        description="asked again with the same key, a release that was answered `send` is answered `send` again",
    ),
]
OnlyIfUnset = Annotated[
    Literal["*"] | None,
    Header(alias="If-None-Match", description="`*`: set the switch only where it never had a state, else 412"),
]


def build_app(
    retention: Callable[[], Retention],
    records: Records,
    kill_switch: KillSwitch,
    *,
    serving: Callable[[], Awaitable[dict[str, Any]]],
    max_body_bytes: int,
) -> FastAPI:
    """The application.

    Args:
        retention: says who answers requests now; a new scorecard comes with a new one.
        serving: tells which checkpoints each service serves with.
        max_body_bytes: larger bodies are refused.
    """
    app = FastAPIOffline(  # /docs takes its scripts from here: customers' data is typed into it
        title="Churn-Saver",
        version=__version__,
        description=DESCRIPTION,
        strict_content_type=False,
        static_url="/docs/files",
    )
    app.router.route_class = JsonRoute
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    app.add_middleware(Measured)  # around the limit, which answers too
    problems.install(app)
    metrics.KILL_SWITCH_ON.set_function(lambda: float(kill_switch.baseline_reason is not None))
    metrics.KILL_SWITCH_AGE.set_function(lambda: kill_switch.age_s)

    _add_retain(app, retention)
    _add_records(app, records)
    _add_kill_switch(app, kill_switch)
    _add_operations(app, kill_switch, serving)
    add_console(app)
    return app


def _add_retain(app: FastAPI, retention: Callable[[], Retention]) -> None:
    @app.post("/v1/retain", responses={200: {"model": RetainResponse}, **RETAIN_PROBLEMS}, tags=["retain"])
    @app.post("/retain", responses={200: {"model": RetainResponse}, **RETAIN_PROBLEMS}, tags=["retain"])
    async def retain(request: RetainRequest, idempotency_key: IdempotencyKey = None) -> Response:
        """Decides about one customer and writes the message. Idempotent; never 5xx because a dependency is down."""
        return _json(await retention().retain(request, idempotency_key))


def _add_records(app: FastAPI, records: Records) -> None:
    @app.get("/v1/decisions/{decision_id}", responses=LEDGER_PROBLEMS, tags=["records"])
    async def get_decision(decision_id: str) -> Response:
        """The record of a decision, to replay and measure it: features as read, seed, mask, propensity, versions."""
        return _json(orjson.dumps(await records.get(decision_id)))

    @app.post("/v1/decisions/{decision_id}/release", responses=LEDGER_PROBLEMS, tags=["records"])
    async def release(
        decision_id: str, request: ReleaseRequest | None = None, idempotency_key: ReleaseKey = None
    ) -> ReleaseResponse:
        """Asked right before sending: `send` with the text, once, or `skip` with the reason.

        Opt-out, consent, kill switch, quiet hours, cooldown and weekly cap are checked again. Later requests are
        answered `skip` with `already_released`; send an `Idempotency-Key` to ask again after a lost reply.
        """
        return await records.release(decision_id, request or ReleaseRequest(), idempotency_key)

    @app.post("/v1/outcomes", responses=LEDGER_PROBLEMS, tags=["records"])
    async def outcome(request: OutcomeRequest) -> OutcomeResponse:
        """What came of a decision. An opt-out closes every channel of the customer at once."""
        return await records.outcome(request)

    @app.delete("/v1/customers/{customer_id:path}", responses={422: PROBLEM, 503: PROBLEM}, tags=["records"])
    async def erase(customer_id: Annotated[str, Path(min_length=1, max_length=128)]) -> dict[str, Any]:
        """Erases what is kept of a customer; only that they opted out is remembered, under a pseudonym."""
        return {"customer_id": customer_id, "deleted": await records.erase(customer_id)}


def _add_kill_switch(app: FastAPI, kill_switch: KillSwitch) -> None:
    @app.get("/v1/kill-switch", tags=["kill switch"])
    async def get_kill_switch() -> dict[str, Any]:
        """The switch as this replica knows it; `last_known` is what it was before it became unknown."""
        return _switch(kill_switch)

    @app.put("/v1/kill-switch", responses={412: PROBLEM, 422: PROBLEM, 503: PROBLEM}, tags=["kill switch"])
    async def put_kill_switch(request: KillSwitchRequest, only_if_unset: OnlyIfUnset = None) -> dict[str, Any]:
        """Flips every replica to the baseline, or to contacting nobody, or back."""
        try:
            await kill_switch.write(request, only_if_unset=only_if_unset is not None)
        except AlreadySet:
            raise Problem(
                HTTPStatus.PRECONDITION_FAILED,
                "kill-switch-already-set",
                "the switch has or had a state and was not changed; leave out If-None-Match to set it all the same",
            ) from None
        except (RedisError, OSError, TimeoutError):
            raise unavailable(
                "the switch was not changed: Redis did not take it. Try again; until it does, nobody is contacted"
            ) from None
        return _switch(kill_switch)


def _add_operations(app: FastAPI, kill_switch: KillSwitch, serving: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    @app.get("/v1/models", tags=["operations"])
    async def models() -> dict[str, Any]:
        """Which checkpoints serve now, by service."""
        return await serving()

    @app.get("/healthz", tags=["operations"])
    async def healthz() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["operations"])
    async def readyz() -> dict[str, Any]:
        """Whether requests can be answered, if only with the baseline; never depends on another service."""
        return {"status": "ready", "baseline_reason": kill_switch.baseline_reason}

    @app.get("/metrics", tags=["operations"])
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


class Measured:
    """Counts and times every request by its route, never by its path, which may hold a customer's id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        code = int(HTTPStatus.INTERNAL_SERVER_ERROR)  # what an exception becomes outside of this

        async def noted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            metrics.count_http(scope["method"], route, code, time.perf_counter() - started)


class BodyLimit:
    """Refuses bodies over `max_bytes` before they are held in memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        received, refused = 0, False

        async def counted() -> Message:
            nonlocal received, refused
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                await self._refuse(scope, receive, send)
                refused = True
                return {"type": "http.disconnect"}
            return message

        async def unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        await self._app(scope, counted, unless_refused)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"the body is larger than {self._max_bytes} bytes; send one customer a request"
        problem = Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", detail)
        await problem.response()(scope, receive, send)


def _switch(kill_switch: KillSwitch) -> dict[str, Any]:
    known = kill_switch.last_known.model_dump() if kill_switch.last_known else None
    state = known if known and kill_switch.state else {"state": "unknown", "last_known": known}
    return {**state, "baseline_reason": kill_switch.baseline_reason, "age_ms": round(kill_switch.age_s * 1000.0, 1)}


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
