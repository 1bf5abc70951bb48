"""What the gateway exports: each metric moves when what it counts happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from churnsaver.tasks import stop_tasks
from services.gateway.downstream import Unavailable
from services.gateway.upkeep import keep_ledger, send_unsent
from tests.conftest import RedisServer
from tests.support.gateway import Gateway, body, serving_gateway
from tests.support.metrics import grows, sample

REQUESTS = "gateway_http_requests_total"


@pytest.fixture
async def gateway(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with serving_gateway(redis_instance.url, tmp_path) as built:
        yield built


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client() as opened:
        yield opened


async def retained(client: httpx.AsyncClient, *given: Any) -> Any:
    answer = await client.post("/v1/retain", json=body(*given))
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize(
    ("method", "path", "route", "code"),
    [
        ("GET", "/healthz", "/healthz", "200"),
        ("GET", "/v1/decisions/d-of-zelda", "/v1/decisions/{decision_id}", "404"),
        ("DELETE", "/v1/customers/zelda@example.com", "/v1/customers/{customer_id:path}", "200"),
        ("POST", "/retain", "/retain", "422"),
        ("GET", "/v1/retain", "/v1/retain", "405"),
        ("GET", "/no-such-page", "other", "404"),
    ],
)
async def test_requests_are_counted_by_route_and_never_by_path(
    client: httpx.AsyncClient, method: str, path: str, route: str, code: str
) -> None:
    """No id of a customer or decision becomes a label, and labels stay few."""
    with (
        grows(REQUESTS, method=method, route=route, code=code),
        grows("gateway_http_request_seconds_count", method=method, route=route),
    ):
        await client.request(method, path)
    assert "zelda" not in (await client.get("/metrics")).text


async def test_a_word_that_is_no_method_is_not_a_label(client: httpx.AsyncClient) -> None:
    """Whoever makes up methods makes up no series."""
    with grows(REQUESTS, by=2, method="other", route="/healthz", code="405"):
        await client.request("FROB", "/healthz")
        await client.request("NICATE", "/healthz")


async def test_a_failure_of_ours_is_counted_as_500(gateway: Gateway, client: httpx.AsyncClient) -> None:
    """Also where nothing answered before the exception left the application."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    gateway.retention._open_case = broken  # type: ignore[assignment]
    with grows(REQUESTS, method="POST", route="/v1/retain", code="500"):
        assert (await client.post("/v1/retain", json=body())).status_code == 500


async def test_a_body_that_is_too_large_is_counted(gateway: Gateway, client: httpx.AsyncClient) -> None:
    """It is answered before any route is looked for."""
    with grows(REQUESTS, method="POST", route="other", code="413"):
        await client.post("/v1/retain", content=b" " * (gateway.settings.gateway.max_body_bytes + 1))


async def test_contacts_and_their_money_are_counted(gateway: Gateway, client: httpx.AsyncClient) -> None:
    """Who was contacted with what and at what cost; who was not, and an answer given again, count nothing."""
    labels = {"campaign": "default", "offer": "discount_20", "channel": "sms", "source": "bank", "verdict": "pass"}
    with (
        grows("retain_contacts_total", **labels),
        grows("retain_reserved_cents_total", by=600, campaign="default", offer="discount_20"),
    ):
        await retained(client)
        await retained(client)  # a replay
        await client.post("/v1/retain", json=body("c2", "r2", channels={"sms": {"consent": False}}))
    gateway.shield.down = Unavailable("shield")
    with grows("retain_contacts_total", **labels | {"source": "template", "verdict": "not_reviewed"}):
        await retained(client, "c3", "r3")


async def test_budgets_are_shown(gateway: Gateway, client: httpx.AsyncClient) -> None:
    """What is reserved comes from the ledger, for every replica books into it."""
    keeping = asyncio.create_task(keep_ledger(gateway.ledger, gateway.journal))
    await retained(client)
    for _ in range(200):
        if sample("campaign_reserved_cents", campaign="default") == 600:
            break
        await asyncio.sleep(0.01)
    assert sample("campaign_reserved_cents", campaign="default") == 600
    assert sample("campaign_budget_cents", campaign="default") == gateway.world.campaigns["default"].budget_cents
    await stop_tasks([keeping])


async def test_outcomes_and_releases_are_counted_once(client: httpx.AsyncClient) -> None:
    """An outcome told twice is one; a release says `send`, or why not."""
    decision_id = (await retained(client))["decision_id"]
    with grows("releases_total", answer="send"), grows("releases_total", answer="already_released"):
        for _ in range(2):
            await client.post(f"/v1/decisions/{decision_id}/release")
    with grows("outcomes_total", outcome="accepted"):
        for _ in range(2):
            await client.post("/v1/outcomes", json={"decision_id": decision_id, "outcome": "accepted"})


async def test_records_that_wait_for_redis_are_shown(
    gateway: Gateway, client: httpx.AsyncClient, redis_instance: RedisServer
) -> None:
    """As many as wait on the disk, and none when they were sent on."""
    redis_instance.kill()
    for number in range(3):
        await retained(client, f"c{number}", f"r{number}")
    assert sample("journal_waiting_records") == 3
    redis_instance.start()
    await send_unsent(gateway.ledger, gateway.journal)
    assert sample("journal_waiting_records") == 0


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("journal_write_failures_total", {"file": "facts.jsonl"}),
        ("journal_write_failures_total", {"file": "unsent.jsonl"}),
        ("journal_write_failures_total", {"file": "progress.json"}),
        ("outcomes_total", {"outcome": "opted_out"}),
        ("background_failures_total", {"task": "keep_ledger"}),
        ("background_failures_total", {"task": "send_on"}),
    ],
)
def test_what_alerts_wait_for_is_there_before_it_happens(name: str, labels: dict[str, str]) -> None:
    """Prometheus sees no increase in a counter that appears with its first event."""
    assert sample(name, **labels) is not None
