"""The gateway's HTTP face: bad input, records, release, outcomes, erasure and the kill switch's routes."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest

from services.gateway import line_file
from services.gateway.console import FILES
from services.gateway.contract import KillSwitchRequest
from services.gateway.downstream import Unavailable
from services.gateway.journal import OptOut
from services.gateway.upkeep import rebuild
from tests.conftest import RedisServer
from tests.support.gateway import Gateway, body


@pytest.fixture
async def gateway(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    built = Gateway(redis_instance.url, tmp_path / "journal")
    await rebuild(built.ledger, built.journal)
    await built.kill_switch.write(KillSwitchRequest(state="off", reason="test"))
    yield built
    await built.close()


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client() as opened:
        yield opened


def with_attributes(**changes: Any) -> dict[str, Any]:
    return body(attributes={"months": 3, "monthly": 50.0, "plan": "basic", **changes})


INVALID: list[tuple[str, dict[str, Any] | list[int], str, str]] = [
    ("unknown campaign", body() | {"campaign": "spring"}, "campaign", "'default'"),
    ("missing attribute", body(attributes={"months": 3, "plan": "plus"}), "customer.attributes.monthly", "missing"),
    ("text for a number", with_attributes(months="3"), "customer.attributes.months", "expected a number"),
    ("truth value for a number", with_attributes(months=True), "customer.attributes.months", "expected a number"),
    ("below the minimum", with_attributes(months=-1), "customer.attributes.months", "0 or more"),
    ("unknown category", with_attributes(plan="gold"), "customer.attributes.plan", "'basic', 'plus'"),
    ("wrong zone", body(timezone="Mars/Olympus"), "customer.timezone", "America/New_York"),
    ("this machine's zone", body(timezone="localtime"), "customer.timezone", "America/New_York"),
    ("placeholder of a zone", body(timezone="Factory"), "customer.timezone", "America/New_York"),
    ("zone of POSIX rules", body(timezone="posixrules"), "customer.timezone", "America/New_York"),
    ("zone as a path", body(timezone="../../etc/passwd"), "customer.timezone", "America/New_York"),
    ("unknown channel", body(channels={"pigeon": {"consent": True}}), "customer.channels.pigeon", "sms"),
    ("consent as text", body(channels={"sms": {"consent": "yes"}}), "customer.channels.sms.consent", "boolean"),
    ("endless locale", body(locale="en" + "-ab" * 20_000), "customer.locale", "at most 35 characters"),
    ("misspelt field", body(frist_name="Ana"), "customer.frist_name", "correct its name"),
    ("no customer", {"request_id": "r1"}, "customer", "missing"),
    ("empty id", body(""), "customer.id", "at least 1"),
    ("NUL in the id", body("c\0"), "customer.id", "control character"),
    ("NUL in the request's id", body(request_id="r\0"), "request_id", "control character"),
    ("large number", with_attributes(note=10**12), "customer.attributes.note", "1000000000 or less"),
    ("large charge", with_attributes(monthly=1e18), "customer.attributes.monthly", "1000000 or less"),
    ("huge charge", with_attributes(monthly=1e300), "customer.attributes.monthly", "64 bits"),
    ("integer over 64 bits", with_attributes(note=10**30), "customer.attributes.note", "64 bits"),
    ("integer over 64 bits in a category", with_attributes(plan=10**30), "customer.attributes.plan", "64 bits"),
    ("integer over 64 bits that no schema names", with_attributes(x=10**30), "customer.attributes.x", "64 bits"),
    ("integer over 64 bits as a name", body(first_name=10**30), "customer.first_name", "string"),
    ("integer over a float's range", with_attributes(note=10**400), "customer.attributes.note", "finite"),
    ("lone surrogate", with_attributes(plan="\ud800"), "customer.attributes.plan", "Unicode"),
    ("lone surrogate in a name", body(first_name="A\udfff"), "customer.first_name", "Unicode"),
    ("lone surrogate as a column", with_attributes(**{"\ud800": 1}), r"customer.attributes.\ud800", "Unicode"),
    ("lone surrogate as a channel", body(channels={"\ud800": {}}), r"customer.channels.\ud800", "Unicode"),
    ("lone surrogate as a field", body() | {"\ud800": 1}, r"\ud800", "Unicode"),
    ("attribute is a list", with_attributes(plan=["basic"]), "customer.attributes.plan", "valid"),
    ("no object", [1], "body", "object"),
]


@pytest.mark.parametrize(("request_body", "field", "mend"), [case[1:] for case in INVALID], ids=[c[0] for c in INVALID])
async def test_invalid_requests_name_the_field_and_the_mend(
    client: httpx.AsyncClient, request_body: dict[str, Any], field: str, mend: str
) -> None:
    """422 as a problem whose errors name the field as the caller wrote it and what was expected."""
    # httpx's own `json` writes UTF-8, which has no lone surrogates; escaped they are sent by many a client.
    as_json = {"content-type": "application/json"}
    response = await client.post("/v1/retain", content=json.dumps(request_body), headers=as_json)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    errors = response.json()["errors"]
    assert [error["field"] for error in errors] == [field]
    assert mend in errors[0]["message"]


MALFORMED = [
    (b"{nope", 400),
    (b"\xff\xfe", 400),
    (b'{"request_id": "\xff"}', 400),
    (b"[" * 5_000, 400),
    (b"9" * 5_000, 422),
    (b"", 422),
]


@pytest.mark.parametrize(("text", "status"), MALFORMED)
async def test_malformed_json_is_refused(client: httpx.AsyncClient, text: bytes, status: int) -> None:
    """No stack trace, whatever the bytes are."""
    response = await client.post("/v1/retain", content=text)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


async def test_deeply_nested_nonsense_is_refused(client: httpx.AsyncClient) -> None:
    """Too deep for some readers and not for others, so only that it is no 500."""
    response = await client.post("/v1/retain", content=b"[" * 900 + b"NaN" + b"]" * 900)
    assert response.status_code in {400, 422}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_are_none_are_refused(client: httpx.AsyncClient, number: str) -> None:
    """NaN and infinities are no JSON numbers, but Python's reader takes them; the schema does not."""
    text = json.dumps(with_attributes(months=4711)).replace("4711", number)
    response = await client.post("/v1/retain", content=text)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "customer.attributes.months"
    assert "finite" in response.json()["errors"][0]["message"]


@pytest.mark.parametrize("sent_as", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_a_body_that_is_not_sent_as_json_says_how_to_send_it(client: httpx.AsyncClient, sent_as: str) -> None:
    """415 for JSON under another type, as `curl -d` sends it; with a suffix, a charset or no type it is read."""
    text = json.dumps(body())
    refused = await client.post("/v1/retain", content=text, headers={"content-type": sent_as})
    assert refused.status_code == 415
    assert refused.json()["detail"].endswith("send it with content-type: application/json")
    for accepted in ("application/json; charset=utf-8", "application/vnd.api+json", ""):
        answer = await client.post("/v1/retain", content=text, headers={"content-type": accepted} if accepted else {})
        assert answer.status_code == 200


async def test_what_nobody_foresaw_is_a_problem_too(client: httpx.AsyncClient, gateway: Gateway) -> None:
    """500 as RFC 9457, without a word of the failure, which is in the log."""

    async def broken(*args: Any) -> bytes:
        raise RuntimeError("secret")

    gateway.retention.retain = broken  # type: ignore[method-assign]
    response = await client.post("/v1/retain", json=body())
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"].endswith("internal-error")
    assert "secret" not in response.text


async def test_large_bodies_are_refused_with_and_without_a_length(client: httpx.AsyncClient) -> None:
    """413 for 1 MB, announced or streamed."""

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    announced = await client.post("/v1/retain", content=b" " * 1_000_000)
    streamed = await client.post("/v1/retain", content=stream())
    assert announced.status_code == streamed.status_code == 413
    assert streamed.json()["type"].endswith("body-too-large")


async def test_unknown_routes_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    """404 and 405 follow RFC 9457 too."""
    for response in (await client.get("/nope"), await client.get("/v1/retain")):
        assert response.status_code in {404, 405}
        assert response.headers["content-type"] == "application/problem+json"


async def test_openapi_documents_the_contract(client: httpx.AsyncClient) -> None:
    """The documentation has the routes, an example and the answer's schema."""
    document = (await client.get("/openapi.json")).json()
    assert {"/v1/retain", "/retain", "/v1/kill-switch", "/v1/outcomes", "/healthz", "/readyz"} <= set(document["paths"])
    assert "RetainResponse" in document["components"]["schemas"]
    assert document["components"]["schemas"]["RetainRequest"]["example"]["campaign"] == "default"


@pytest.mark.parametrize("page", ["/docs", "/redoc", "/console"])
async def test_pages_take_nothing_from_another_host(client: httpx.AsyncClient, page: str) -> None:
    """Customers' data is typed into these pages: every script and style of theirs is the gateway's own, and there."""
    found = await client.get(page)
    assert found.status_code == 200
    assert found.headers["content-type"].startswith("text/html")
    links = re.findall(r'(?:src|href)="([^"]+)"', found.text)
    files = [link for link in links if link.endswith((".js", ".css"))]
    assert files
    assert not [link for link in links if "//" in link]
    for link in files:
        assert (await client.get(f"/{link.lstrip('/')}")).status_code == 200


async def test_console_is_framed_by_nobody_and_runs_no_inline_script(client: httpx.AsyncClient) -> None:
    """Its content security policy says so, and the page keeps to it."""
    found = await client.get("/console")
    assert "default-src 'self'" in found.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in found.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]* src=)|<style| on\w+=| style=", found.text)


async def test_console_shows_metrics_that_exist(client: httpx.AsyncClient) -> None:
    """Each name in its script is one of the gateway's."""
    script = (FILES / "files" / "console.js").read_text()
    shown = set(re.findall(r'"((?:retain|campaign|outcomes|journal|outbox)_\w+)"', script))
    exposed = set(re.findall(r"^# TYPE (\S+)", (await client.get("/metrics")).text, re.MULTILINE))
    assert len(shown) >= 9
    assert {name.removesuffix("_bucket") for name in shown} <= exposed


async def test_console_reads_what_the_gateway_counts(client: httpx.AsyncClient) -> None:
    """Its script, run by Node, finds totals, increases and quantiles in the gateway's own metrics."""
    if (node := shutil.which("node")) is None:
        pytest.skip("node is not installed, which runs the console's script; apt-get install nodejs")
    await client.post("/v1/retain", json=body(request_id="m1"))
    before = (await client.get("/metrics")).text
    await client.post("/v1/retain", json=body("c2", request_id="m2"))
    after = (await client.get("/metrics")).text
    script = f"""
        import {{ delta, parse, quantile, total }} from {json.dumps(str(FILES / "files" / "prometheus.js"))};
        const [before, after] = {json.dumps([before, after])}.map(parse);
        const buckets = [[0.1, 2], [0.2, 6], [0.4, 8], ["+Inf", 8]].map(
            ([le, value]) => ({{ labels: {{ le: String(le) }}, value }}));
        console.log(JSON.stringify([
            total(delta(after, before), "retain_decisions_total"),
            total(after, "retain_decisions_total", {{ mode: "policy" }}) > 0,
            quantile(delta(after, before).get("retain_request_seconds_bucket"), 0.5) > 0,
            [0.25, 0.5, 0.75, 1].map((share) => quantile(buckets, share)),
            quantile([], 0.5),
        ]));
    """
    ran = await asyncio.to_thread(
        subprocess.run, [node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout) == [1, True, True, [0.1, pytest.approx(0.15), 0.2, 0.4], None]


async def test_kill_switch_takes_effect_at_once_and_back(client: httpx.AsyncClient) -> None:
    """On: the next answer is the baseline's, for a customer who has a standing policy decision as well."""
    first = (await client.post("/v1/retain", json=body(request_id="k1"))).json()
    await client.put("/v1/kill-switch", json={"state": "on", "reason": "test"})
    killed = (await client.post("/v1/retain", json=body(request_id="k2"))).json()
    assert (killed["mode"], killed["baseline_reason"]) == ("baseline", "kill_switch")
    assert killed["decision"]["contact"] is False  # the policy contacted them a moment ago
    await client.put("/v1/kill-switch", json={"state": "off", "reason": "test"})
    back = (await client.post("/v1/retain", json=body(request_id="k3"))).json()
    assert back == {**first, "request_id": "k3"}


async def test_no_contact_scope_contacts_nobody(client: httpx.AsyncClient) -> None:
    """Scope no_contact: a baseline answer without contact, even for someone whom the baseline contacted before."""
    await client.put("/v1/kill-switch", json={"state": "on", "reason": "test"})
    assert (await client.post("/v1/retain", json=body(request_id="k1"))).json()["decision"]["contact"] is True
    await client.put("/v1/kill-switch", json={"state": "on", "scope": "no_contact", "reason": "test"})
    for customer, key in (("c1", "k2"), ("c2", "k3")):
        answer = (await client.post("/v1/retain", json=body(customer, key))).json()
        assert answer["baseline_reason"] == "kill_switch"
        assert answer["decision"]["contact"] is False


async def test_kill_switch_refuses_nonsense(client: httpx.AsyncClient) -> None:
    """A state that does not exist, or no reason."""
    for wrong in ({"state": "maybe", "reason": "x"}, {"state": "on"}, {"state": "on", "reason": ""}):
        assert (await client.put("/v1/kill-switch", json=wrong)).status_code == 422
    assert (await client.get("/v1/kill-switch")).json()["state"] == "off"


async def test_release_sends_when_due_and_skips_with_the_reason(client: httpx.AsyncClient, gateway: Gateway) -> None:
    """Not due, quiet hours, due, expired: consent, hours and caps are checked again right before sending."""
    gateway.decision.action = gateway.retention.actions[gateway.retention.actions.index_of("discount_20", 24)]
    answer = (await client.post("/v1/retain", json=body())).json()
    url = f"/v1/decisions/{answer['decision_id']}/release"
    early = (await client.post(url)).json()
    assert (early["action"], early["reason"]) == ("skip", "not_due")
    assert early["due_at"].startswith("2026-03-03T17:00:00")
    gateway.now += timedelta(hours=34)
    assert (await client.post(url)).json()["reason"] == "quiet_hours"
    gateway.now += timedelta(hours=14)
    sent = (await client.post(url)).json()
    assert {field: sent[field] for field in ("subject", "text")} == {"subject": None, "text": answer["message"]["text"]}
    late = (await client.post("/v1/retain", json=body("c2", "r2"))).json()
    gateway.now += timedelta(days=20)
    assert (await client.post(f"/v1/decisions/{late['decision_id']}/release")).json()["reason"] == "expired"


async def test_released_email_has_its_subject(client: httpx.AsyncClient, gateway: Gateway) -> None:
    """Whoever sends it needs both."""
    gateway.generator.down = Unavailable("test")
    answer = (await client.post("/v1/retain", json=body(channels={"email": {"consent": True}}))).json()
    sent = (await client.post(f"/v1/decisions/{answer['decision_id']}/release")).json()
    assert sent["action"] == "send"
    assert (sent["subject"], sent["text"]) == (answer["message"]["subject"], answer["message"]["text"])
    assert answer["message"]["subject"] == "About your plan with us"


async def test_withdrawn_consent_cancels_the_booking(client: httpx.AsyncClient, gateway: Gateway) -> None:
    """What will never be sent gives its reservation back, once."""
    answer = (await client.post("/v1/retain", json=body())).json()
    url = f"/v1/decisions/{answer['decision_id']}/release"
    assert (await client.post(url, json={"consent": False})).json()["reason"] == "consent"
    assert (await client.post(url, json={"consent": True})).json()["reason"] == "not_booked"
    assert int(await gateway.redis.get("cs:reserved:default")) == 0


async def test_opt_out_closes_every_channel_at_once(client: httpx.AsyncClient, gateway: Gateway) -> None:
    """Idempotent; the next decision and the release of a booked contact both know it."""
    answer = (await client.post("/v1/retain", json=body())).json()
    outcome = {"decision_id": answer["decision_id"], "outcome": "opted_out"}
    assert (await client.post("/v1/outcomes", json=outcome)).json()["recorded"] is True
    assert (await client.post("/v1/outcomes", json=outcome)).json()["recorded"] is False
    released = (await client.post(f"/v1/decisions/{answer['decision_id']}/release")).json()
    assert released["reason"] == "do_not_contact"
    await client.put("/v1/kill-switch", json={"state": "on", "reason": "test"})
    after = (await client.post("/v1/retain", json=body(request_id="r2"))).json()
    assert set(after["decision"]["masked"].values()) == {"do_not_contact"}
    record = (await client.get(f"/v1/decisions/{answer['decision_id']}")).json()
    assert "opted_out" in record["outcomes"]


async def test_an_opt_out_is_heard_for_a_decision_that_redis_lost(client: httpx.AsyncClient, gateway: Gateway) -> None:
    """The journal knows whom the decision contacted; other outcomes of it are unknown as before."""
    answer = (await client.post("/v1/retain", json=body())).json()
    await gateway.redis.flushall()
    await rebuild(gateway.ledger, gateway.journal)
    stop = {"decision_id": answer["decision_id"], "outcome": "opted_out"}
    assert (await client.post("/v1/outcomes", json=stop | {"outcome": "accepted"})).status_code == 404
    assert (await client.post("/v1/outcomes", json=stop)).json()["recorded"] is True
    assert (await client.post("/v1/outcomes", json=stop)).json()["recorded"] is False
    await client.put("/v1/kill-switch", json={"state": "on", "reason": "test"})
    after = (await client.post("/v1/retain", json=body(request_id="r2"))).json()
    assert set(after["decision"]["masked"].values()) == {"do_not_contact"}
    await gateway.redis.flushall()
    await rebuild(gateway.ledger, gateway.journal)
    again = (await client.post("/v1/retain", json=body(request_id="r3"))).json()
    assert again["decision"]["contact"] is False


async def test_an_opt_out_that_the_disk_refuses_is_a_503(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is told to be recorded that is not durable."""
    answer = (await client.post("/v1/retain", json=body())).json()
    monkeypatch.setattr(line_file, "_write_all", no_space)
    refused = await client.post("/v1/outcomes", json={"decision_id": answer["decision_id"], "outcome": "opted_out"})
    assert refused.status_code == 503
    assert "No space left" in refused.json()["detail"]


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_every_route_says_what_an_outage_means_for_it(
    client: httpx.AsyncClient, redis_instance: RedisServer
) -> None:
    """A read is not "sent again"."""
    redis_instance.kill()
    read = (await client.get("/v1/decisions/d1")).json()["detail"]
    released = (await client.post("/v1/decisions/d1/release")).json()["detail"]
    outcome = (await client.post("/v1/outcomes", json={"decision_id": "d1", "outcome": "ignored"})).json()["detail"]
    assert "cannot be read" in read
    assert "do not send" in released
    assert "nothing was recorded" in outcome


@pytest.mark.parametrize("customer_id", ["a/b", "/a//b/", "..%2Fa"])
async def test_customers_with_a_slash_in_their_id_can_be_erased(
    client: httpx.AsyncClient, gateway: Gateway, customer_id: str
) -> None:
    """Ids are the caller's own; in the path a slash may be written as it is or escaped."""
    plain = unquote(customer_id)
    for path in (customer_id, quote(plain, safe="")):
        await client.post("/v1/retain", json=body(plain, request_id=None))
        erased = await client.delete(f"/v1/customers/{path}")
        assert erased.status_code == 200
        assert erased.json()["customer_id"] == plain
        assert erased.json()["deleted"] > 0
    assert not await gateway.redis.keys("cs:decision:*")
    assert (await client.delete("/v1/customers/")).status_code == 422


async def test_unknown_decisions_are_404(client: httpx.AsyncClient) -> None:
    """By look-up, release and outcome."""
    outcome = {"decision_id": "nope", "outcome": "ignored"}
    for response in (
        await client.get("/v1/decisions/nope"),
        await client.post("/v1/decisions/nope/release"),
        await client.post("/v1/outcomes", json=outcome),
    ):
        assert response.status_code == 404
        assert response.json()["type"].endswith("unknown-decision")


async def test_erasure_leaves_nothing_but_the_opt_out(client: httpx.AsyncClient, gateway: Gateway) -> None:
    """After DELETE no key and no journal line knows the customer, but they stay opted out."""
    answer = (await client.post("/v1/retain", json=body())).json()
    await client.post("/v1/outcomes", json={"decision_id": answer["decision_id"], "outcome": "opted_out"})
    assert (await client.delete("/v1/customers/c1")).json()["deleted"] > 0
    assert (await client.get(f"/v1/decisions/{answer['decision_id']}")).status_code == 404
    left = {key.decode().split(":")[1] for key in await gateway.redis.keys("cs:*")}
    # What is counted of a message names nobody.
    nobodys = {"message", "reserved", "reserved-by-arm"}
    assert left == {"erasures", "generation", "kill-switch", "opt-out", "outbox", *nobodys}
    assert await gateway.redis.hmget("cs:message:m-1", "uses", "opted_out") == [b"1", b"1"]
    assert [type(fact) for fact in gateway.journal.facts()] == [OptOut]


async def test_metrics_are_exposed(client: httpx.AsyncClient) -> None:
    """Decisions by mode, latency by source and the age of the switch."""
    await client.post("/v1/retain", json=body())
    text = (await client.get("/metrics")).text
    assert (
        'retain_decisions_total{arm="champion",baseline_reason="",booking="booked",contact="true",mode="policy"}'
        in text
    )
    assert 'retain_request_seconds_bucket{le="0.05",mode="policy",source="bank"}' in text
    assert "kill_switch_age_seconds" in text
