"""`/v1/retain` over a real Redis, with fakes of the three services."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import grpc
import httpx
import pytest

from churnsaver.domain.message import Brief
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as generator_pb2
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as shield_pb2
from churnsaver.safety.review import Policy, Review, Stage
from churnsaver.safety.rules import review_with_rules
from churnsaver.settings import ExperimentSettings
from services.gateway import line_file
from services.gateway.contract import KillSwitchRequest
from services.gateway.downstream import Delivery, Draft, GrpcGenerator, Unavailable
from services.gateway.upkeep import rebuild, send_unsent
from tests.conftest import RedisServer
from tests.support.gateway import Gateway, body

DOWN = Unavailable("service: UNAVAILABLE")


@pytest.fixture
async def gateway(redis_instance: RedisServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway whose ledger is open and whose switch is off."""
    built = Gateway(redis_instance.url, tmp_path / "journal")
    await rebuild(built.ledger, built.journal)
    await built.kill_switch.write(KillSwitchRequest(state="off", reason="test"))
    yield built
    await built.close()


async def retain(gateway: Gateway, request: dict[str, Any], **headers: str) -> httpx.Response:
    async with gateway.client() as client:
        return await client.post("/v1/retain", json=request, headers=headers)


async def test_policy_contact_is_booked_and_answered(gateway: Gateway) -> None:
    """The whole contract of a policy contact: decision, message from the bank, verdict, versions, record."""
    answer = (await retain(gateway, body())).json()
    assert answer["mode"] == "policy"
    assert answer["baseline_reason"] is None
    assert answer["arm"] == "champion"
    assert answer["decision"] == {
        "contact": True,
        "offer": "discount_20",
        "delay_hours": 0,
        "channel": "sms",
        "propensity": 0.25,
        "risk": 0.7,
        "expected_value_usd": 8.0,
        "masked": {},
    }
    assert answer["message"] == {
        "subject": None,
        "text": "Hi Ana, stay a while: 20% off for 3 months until 16 Mar 2026. Reply STOP to opt out.",
        "source": "bank",
        "model": "generator-test",
        "language": "en",
    }
    assert answer["safety"] == {"verdict": "pass", "findings": []}
    assert answer["versions"]["policy"] == "policy-test"
    assert set(answer["latency_ms"]) == {"total", "decision", "generator", "shield"}

    record = await gateway.records.get(answer["decision_id"])
    assert record["booking"] == "booked"
    assert record["propensity"] == {"arm": 1.0, "policy": 0.25, "message": 0.5, "total": 0.125}
    assert record["reserved_cents"] == 600
    assert record["answer"] == answer
    assert int(await gateway.redis.get("cs:reserved:default")) == 600


async def test_record_and_keys_hold_no_name_and_no_id(gateway: Gateway) -> None:
    """Law 2: the record is pseudonymised, and so is every key of the ledger."""
    answer = (await retain(gateway, body("customer-7590", first_name="Zebulon"))).json()
    record = await gateway.redis.hget(f"cs:decision:{answer['decision_id']}", "record")
    assert b"Zebulon" not in record
    assert b"customer-7590" not in record
    assert not [key for key in await gateway.redis.keys("*") if b"customer-7590" in key]


async def test_no_personal_data_reaches_the_generator(gateway: Gateway) -> None:
    """Law 3: a brief is segment, offer, tone, channel and language."""
    await retain(gateway, body(first_name="Zebulon"))
    assert gateway.generator.briefs[0].model_dump() == {
        "segment": "new",
        "offer": "discount_20",
        "tone": "warm",
        "channel": "sms",
        "language": "en",
        "reason": "general",
    }


async def test_replay_returns_the_first_answer_and_books_nothing(gateway: Gateway) -> None:
    """The same key and body twice, by header, by request_id and by the alias route: one booking, one answer."""
    first = await retain(gateway, body(request_id="k1"))
    again = await retain(gateway, body(request_id="k1"))
    async with gateway.client() as client:
        alias = await client.post("/retain", json=body(request_id="k1"))
    assert first.content == again.content == alias.content
    assert int(await gateway.redis.get("cs:reserved:default")) == 600
    by_header = await retain(gateway, body("c2", request_id=None), **{"Idempotency-Key": "k2"})
    assert (
        await retain(gateway, body("c2", request_id=None), **{"Idempotency-Key": "k2"})
    ).content == by_header.content


async def test_same_key_with_another_body_is_refused(gateway: Gateway) -> None:
    """422 with a type of its own."""
    await retain(gateway, body(request_id="k1"))
    refused = await retain(gateway, body(request_id="k1", first_name="Bo"))
    assert refused.status_code == 422
    assert refused.json()["type"].endswith("idempotency-key-reused")
    assert refused.headers["content-type"] == "application/problem+json"


async def test_duplicate_in_flight_is_refused_with_retry_after(gateway: Gateway) -> None:
    """Two at once: one is answered, the other is told to come back; the customer is booked once."""
    writing, slow = asyncio.Event(), asyncio.Event()
    generate = gateway.generator.generate

    async def wait(*args: Any) -> Draft:
        writing.set()
        await slow.wait()
        return await generate(*args)

    gateway.generator.generate = wait  # type: ignore[method-assign]
    first = asyncio.create_task(retain(gateway, body()))
    await writing.wait()
    second = await retain(gateway, body())
    slow.set()
    assert second.status_code == 409
    assert second.headers["retry-after"] == "1"
    assert second.json()["type"].endswith("request-in-flight")
    assert (await first).status_code == 200


async def test_polling_returns_the_standing_decision_under_its_own_request_id(gateway: Gateway) -> None:
    """Law 2: one draw per customer, campaign and epoch."""
    first = (await retain(gateway, body(request_id="k1"))).json()
    second = await retain(gateway, body(request_id="k2"))
    assert second.json() == {**first, "request_id": "k2"}
    assert (await retain(gateway, body(request_id="k2"))).content == second.content
    assert len(gateway.decision.seeds) == 1


async def test_two_requests_at_once_for_one_customer_book_once(gateway: Gateway) -> None:
    """The race of two keys for the same customer ends in one booking and one decision."""
    answers = await asyncio.gather(*(retain(gateway, body(request_id=f"k{i}")) for i in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["decision_id"] for answer in answers}) == 1
    assert int(await gateway.redis.get("cs:reserved:default")) == 600


async def test_ledger_refuses_what_the_decision_did_not_know(gateway: Gateway) -> None:
    """A contact that another campaign's request books meanwhile: refused as cooldown, kept as intended."""
    decide = gateway.decision.decide

    async def and_meanwhile(*args: Any) -> Any:
        now_ms = gateway.now.timestamp() * 1000
        ref = next(key for key in await gateway.redis.keys("cs:idempotency:*"))
        assert ref
        await gateway.redis.zadd(contacts, {"another": now_ms})
        return await decide(*args)

    from services.gateway.case import pseudonym
    from services.gateway.ledger import contacts_key

    contacts = contacts_key(pseudonym(gateway.settings.pseudonym_key, "c1"))
    gateway.decision.decide = and_meanwhile  # type: ignore[method-assign]
    answer = (await retain(gateway, body())).json()
    assert answer["decision"]["contact"] is False
    assert answer["decision"]["masked"] == {"discount_20": "cooldown"}
    assert answer["message"] is None
    record = await gateway.records.get(answer["decision_id"])
    assert record["booking"] == "cooldown"
    assert record["action"]["label"] == "discount_20+0h"
    assert await gateway.redis.get("cs:reserved:default") is None


async def test_budget_is_never_overspent(gateway: Gateway) -> None:
    """Forty customers at once and a budget for ten: ten are contacted, the rest is refused for the budget."""
    budget = gateway.world.campaigns["default"].budget_cents
    await gateway.redis.set("cs:reserved:default", budget - 10 * 600)
    requests = (retain(gateway, body(f"c{i}", request_id=f"k{i}")) for i in range(40))
    answers = [answer.json() for answer in await asyncio.gather(*requests)]
    assert sum(answer["decision"]["contact"] for answer in answers) == 10
    refused = [answer for answer in answers if not answer["decision"]["contact"]]
    assert all(answer["decision"]["masked"]["discount_20"] == "budget" for answer in refused)
    assert int(await gateway.redis.get("cs:reserved:default")) == budget


async def test_decision_down_means_baseline(gateway: Gateway) -> None:
    """Failure table, row decision: 200 baseline, contact as the scorecard says, recorded."""
    gateway.decision.down = DOWN
    answer = (await retain(gateway, body())).json()
    assert (answer["mode"], answer["arm"]) == ("baseline", "baseline")
    assert answer["baseline_reason"] == "decision_unavailable"
    assert answer["decision"]["offer"] == "discount_10"
    assert answer["decision"]["risk"] == pytest.approx(0.9046505)
    loyal = (await retain(gateway, body("c2", "r2", attributes={"months": 60, "monthly": 50.0, "plan": "plus"}))).json()
    assert loyal["decision"]["contact"] is False
    assert (await gateway.records.get(answer["decision_id"]))["booking"] == "booked"


async def opened(built: Gateway, switch: str) -> Gateway:
    """A gateway with an open ledger and the switch as told."""
    await rebuild(built.ledger, built.journal)
    await built.kill_switch.write(KillSwitchRequest(state=switch, reason="test"))  # type: ignore[arg-type]
    return built


@pytest.mark.parametrize(("baseline", "number"), [("propensity", 1), ("uplift_trees", 2), ("thompson_sampling", 3)])
async def test_the_kill_switch_flips_to_the_baseline_of_the_settings(
    redis_instance: RedisServer, tmp_path: Path, baseline: str, number: int
) -> None:
    """The decision service's baseline answers under the switch; the scorecard while it is away, for the same reason."""
    gateway = await opened(Gateway(redis_instance.url, tmp_path / "journal", baseline=baseline), "on")
    answer = (await retain(gateway, body())).json()
    assert gateway.decision.policies == [number]
    assert (answer["mode"], answer["baseline_reason"], answer["arm"]) == ("baseline", "kill_switch", "baseline")
    assert answer["decision"]["offer"] == "discount_20"
    assert answer["decision"]["propensity"] == 0.25
    assert (await gateway.records.get(answer["decision_id"]))["propensity"]["total"] == 0.125

    gateway.decision.down = DOWN
    behind = (await retain(gateway, body("c2", "r2"))).json()
    assert (behind["mode"], behind["baseline_reason"], behind["arm"]) == ("baseline", "kill_switch", "baseline")
    assert behind["decision"]["offer"] == "discount_10"
    assert behind["versions"]["policy"] == "baseline-propensity"
    assert (await gateway.records.get(behind["decision_id"]))["booking"] == "booked"
    await gateway.close()


async def test_the_scorecard_asks_nobody(redis_instance: RedisServer, tmp_path: Path) -> None:
    """By default the switch needs no other service, and so costs no other time."""
    gateway = await opened(Gateway(redis_instance.url, tmp_path / "journal"), "on")
    answer = (await retain(gateway, body())).json()
    assert answer["versions"]["policy"] == "baseline-propensity"
    assert "decision" not in answer["latency_ms"]
    assert gateway.decision.policies == []
    await gateway.close()


async def test_the_baseline_arm_and_the_policy_are_asked_differently(
    redis_instance: RedisServer, tmp_path: Path
) -> None:
    """The arm of an experiment gets the baseline of the settings, a holdout nobody's."""
    for share, asked in (("baseline", [2]), ("holdout", [])):
        shares = ExperimentSettings(**{share: 1.0})
        folder = tmp_path / share
        gateway = await opened(Gateway(redis_instance.url, folder, baseline="uplift_trees", experiment=shares), "off")
        answer = (await retain(gateway, body(share, share))).json()
        assert (answer["arm"], answer["baseline_reason"]) == (share, "experiment")
        assert gateway.decision.policies == asked
        await gateway.redis.flushall()
        await gateway.close()


async def test_a_failing_policy_falls_back_to_the_scorecard_at_once(
    redis_instance: RedisServer, tmp_path: Path
) -> None:
    """A decision service that is away is not asked again for its baseline."""
    gateway = await opened(Gateway(redis_instance.url, tmp_path / "journal", baseline="uplift_trees"), "off")
    gateway.decision.down = DOWN
    answer = (await retain(gateway, body())).json()
    assert answer["baseline_reason"] == "decision_unavailable"
    assert gateway.decision.policies == [0]
    await gateway.close()


async def test_generator_down_means_template(gateway: Gateway) -> None:
    """Failure table, row generator: the approved text, reviewed all the same."""
    gateway.generator.down = DOWN
    answer = (await retain(gateway, body())).json()
    assert answer["mode"] == "policy"
    assert answer["message"]["source"] == "template"
    assert answer["message"]["model"] is None
    assert "20% off for 3 months" in answer["message"]["text"]
    assert answer["safety"]["verdict"] == "pass"


@pytest.mark.parametrize("down", [None, "generator", "shield"])
async def test_an_email_has_its_subject_apart(gateway: Gateway, down: str | None) -> None:
    """Written or approved: the first line is the subject, reviewed with the text, and no part of it."""
    gateway.generator.draft = Draft(
        "Subject: For {first_name}\n\nUntil {expiry}: {offer}.\n\n{opt_out}", "bank", "m-1", "generator-test", 0.5
    )
    if down is not None:
        getattr(gateway, down).down = DOWN
    answer = (await retain(gateway, body(channels={"email": {"consent": True}}))).json()
    assert answer["decision"]["channel"] == "email"
    assert answer["message"]["subject"] == ("For Ana" if down is None else "About your plan with us")
    assert "Subject" not in answer["message"]["text"]
    assert answer["message"]["text"].startswith("Until 16 Mar 2026" if down is None else "Hi ")
    if down != "shield":
        assert gateway.shield.texts[-1].startswith("Subject: ")


async def test_shield_down_means_approved_template_only(gateway: Gateway) -> None:
    """Failure table, row shield: neither what the model wrote nor a customer's own name is sent unreviewed."""
    gateway.shield.down = DOWN
    answer = (await retain(gateway, body(first_name="Visit evil.com now"))).json()
    assert answer["message"]["text"].startswith("Hi there! We are glad that you joined us")
    assert answer["message"]["source"] == "template"
    assert "stay a while" not in answer["message"]["text"]
    assert answer["safety"]["verdict"] == "not_reviewed"
    assert answer["decision"]["contact"] is True


async def test_blocked_text_gives_way_to_the_template(gateway: Gateway) -> None:
    """What the shield blocks even without the name is replaced by the approved text, which is reviewed as well."""
    gateway.shield.forbidden = {"stay a while"}
    answer = (await retain(gateway, body())).json()
    assert answer["message"]["source"] == "template"
    assert answer["safety"]["verdict"] == "pass"
    assert len(gateway.shield.texts) == 3


@pytest.mark.parametrize("why", ["blocked", "nothing passes", "no shield", "invented slot"])
async def test_the_approved_text_has_the_propensity_of_the_draft_that_led_to_it(gateway: Gateway, why: str) -> None:
    """The draw among the bank's messages took place, so the record's total holds its probability all the same."""
    gateway.shield.forbidden = {"blocked": {"stay a while"}, "nothing passes": {"Hi"}}.get(why, set())
    gateway.shield.down = DOWN if why == "no shield" else None
    if why == "invented slot":
        gateway.generator.draft = Draft("Hi {first_name}, {account_number}", "bank", "m-1", "generator-test", 0.5)
    answer = (await retain(gateway, body())).json()
    record = await gateway.records.get(answer["decision_id"])
    assert record["message"]["source"] == (None if why == "nothing passes" else "template")
    assert record["propensity"] == {"arm": 1.0, "policy": 0.25, "message": 0.5, "total": 0.125}


async def test_a_draft_without_a_source_gives_way_to_the_template(gateway: Gateway) -> None:
    """An answer that the gateway cannot place counts as none."""
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        generator = GrpcGenerator(channel)
        answer = generator_pb2.GenerateResponse(draft="{offer} until {expiry}. {opt_out}")
        generator._stub = SimpleNamespace(Generate=AsyncMock(return_value=answer))
        gateway.retention._generator = generator
        message = (await retain(gateway, body())).json()["message"]
    assert message["source"] == "template"


async def test_offensive_name_is_left_out(gateway: Gateway) -> None:
    """A name that the shield blocks costs the customer the name, not the message."""
    gateway.shield.forbidden = {"Zounds"}
    answer = (await retain(gateway, body(first_name="Zounds"))).json()
    assert answer["message"]["text"].startswith("Hi there")
    assert answer["message"]["source"] == "bank"
    assert answer["safety"] == {"verdict": "pass", "findings": []}
    record = await gateway.records.get(answer["decision_id"])
    assert record["message"] == {"id": "m-1", "source": "bank", "named": False}
    assert record["propensity"] == {"arm": 1.0, "policy": 0.25, "message": 0.5, "total": 0.125}


@pytest.mark.parametrize(("name", "greeting"), [("Ana", "Hi Ana,"), ("João", "Hi there,")])
async def test_a_letter_that_makes_an_sms_too_long_costs_the_name(gateway: Gateway, name: str, greeting: str) -> None:
    """By the shield's own rules: ã is not in GSM-7, so that a segment holds half."""

    async def review(
        text: str, brief: Brief, slots: dict[str, str], delivery: Delivery, timeout_s: float
    ) -> shield_pb2.ReviewResponse:
        asked = Review(text, Stage.FILLED, brief.channel, brief.language, slots, delivery.send_at, delivery.timezone)
        found = {finding.rule for finding in review_with_rules(asked, Policy.of(gateway.retention.world))}
        assert found <= {"sms_segments"}
        return shield_pb2.ReviewResponse(verdict=shield_pb2.VERDICT_BLOCK if found else shield_pb2.VERDICT_PASS)

    gateway.shield.review = review  # type: ignore[method-assign,assignment]
    text = "Hi {first_name}, we have spent some time together, and your plan has been running for a while. We would be "
    text += "glad if you stayed with us. Until {expiry}, we have {offer} for you. {opt_out}"
    gateway.generator.draft = Draft(text, "bank", "m-1", "generator-test", 0.5)
    answer = (await retain(gateway, body(first_name=name))).json()
    assert answer["message"]["source"] == "bank"
    assert answer["message"]["text"].startswith(greeting)
    record = await gateway.records.get(answer["decision_id"])
    assert record["message"]["named"] is (name == "Ana")


@pytest.mark.parametrize(
    ("name", "down", "reviews"), [("Ana", None, 3), (None, None, 2), ("Ana", "generator", 2), (None, "generator", 1)]
)
async def test_nothing_is_reviewed_twice(gateway: Gateway, name: str | None, down: str | None, reviews: int) -> None:
    """Nobody's name is no name to leave out, and the approved text has itself for a successor."""
    if down is not None:
        getattr(gateway, down).down = DOWN
    gateway.shield.forbidden = {"Hi"}
    assert (await retain(gateway, body(first_name=name))).json()["message"] is None
    assert len(gateway.shield.texts) == reviews


async def test_nothing_passes_means_nobody_is_contacted(gateway: Gateway) -> None:
    """Where not even the approved text passes there is no message, no contact and no cost."""
    gateway.shield.forbidden = {"Hi"}
    answer = (await retain(gateway, body())).json()
    assert answer["decision"]["contact"] is False
    assert answer["message"] is None
    assert answer["safety"]["verdict"] == "block"
    assert answer["safety"]["findings"][0]["rule"] == "phrase"
    assert await gateway.redis.get("cs:reserved:default") is None


@pytest.mark.parametrize("answered", [1, 2])
async def test_shield_that_dies_between_two_reviews(gateway: Gateway, answered: int) -> None:
    """It blocked the written text, with or without the name, and is gone: the approved one goes out, nameless."""
    gateway.shield.forbidden = {"stay a while"}
    review = gateway.shield.review

    async def at_first(*args: Any) -> Any:
        if len(gateway.shield.texts) == answered:
            raise DOWN
        return await review(*args)

    gateway.shield.review = at_first  # type: ignore[method-assign]
    answer = (await retain(gateway, body())).json()
    assert answer["message"]["text"].startswith("Hi there!")
    assert answer["safety"]["verdict"] == "not_reviewed"


async def test_invented_slot_never_reaches_a_customer(gateway: Gateway) -> None:
    """A draft with a slot that nobody defined gives way to the approved text, which is reviewed."""
    gateway.generator.draft = Draft("Hi {first_name}, {account_number}", "model", "m", "g", 1.0)
    answer = (await retain(gateway, body())).json()
    assert answer["safety"]["verdict"] == "pass"
    assert answer["message"]["source"] == "template"
    assert "{" not in answer["message"]["text"]


async def test_redis_down_means_no_contact_and_a_journaled_record(
    gateway: Gateway, redis_instance: RedisServer
) -> None:
    """Failure table, row Redis: 200, nobody contacted; the record is sent on when Redis is back."""
    redis_instance.kill()
    answer = (await retain(gateway, body())).json()
    assert answer["baseline_reason"] == "ledger_unavailable"
    assert answer["decision"]["contact"] is False
    async with gateway.client() as client:
        outcome = {"decision_id": answer["decision_id"], "outcome": "opted_out"}
        refused = await client.post("/v1/outcomes", json=outcome)
        switch = await client.put("/v1/kill-switch", json={"state": "on", "reason": "test"})
        ready = await client.get("/readyz")
    assert refused.status_code == switch.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert ready.status_code == 200
    waiting = await gateway.records.get(answer["decision_id"])
    assert (waiting["answer"], waiting["booking"]) == (answer, "none"), "it waits in the journal, and was made"
    redis_instance.start()
    await send_unsent(gateway.ledger, gateway.journal)
    assert (await gateway.records.get(answer["decision_id"]))["answer"] == answer
    assert gateway.journal.unsent() == []


async def test_an_answer_given_without_redis_is_replayed_too(gateway: Gateway, redis_instance: RedisServer) -> None:
    """During the outage, before and after the journal is sent on: one key, one answer, and it can be erased."""
    redis_instance.kill()
    first = await retain(gateway, body())
    during = await retain(gateway, body())
    other_body = await retain(gateway, body(first_name="Bo"))
    redis_instance.start()
    before_sending = await retain(gateway, body())
    await send_unsent(gateway.ledger, gateway.journal)
    after = await retain(gateway, body())
    assert first.content == during.content == before_sending.content == after.content
    assert other_body.status_code == 422
    await gateway.records.erase("c1")
    assert not await gateway.redis.keys("cs:decision:*")
    assert not await gateway.redis.keys("cs:idempotency:*")


async def test_a_full_disk_changes_no_answer(
    gateway: Gateway, redis_instance: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Booked as decided while Redis is there; without it nobody is contacted, and memory stands in for the disk."""

    def no_space(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(line_file, "_write_all", no_space)
    booked = await retain(gateway, body())
    assert booked.status_code == 200
    assert booked.json()["decision"]["contact"] is True
    redis_instance.kill()
    unbooked, again = [await retain(gateway, body("c2", "r2")) for _ in range(2)]
    assert unbooked.status_code == 200
    assert unbooked.json()["baseline_reason"] == "ledger_unavailable"
    assert again.content == unbooked.content
    redis_instance.start()
    monkeypatch.undo()
    await send_unsent(gateway.ledger, gateway.journal)
    assert (await gateway.records.get(unbooked.json()["decision_id"]))["booking"] == "none"


async def test_one_key_twice_in_one_outage_is_one_answer(gateway: Gateway, redis_instance: RedisServer) -> None:
    """Both requests were on their way when Redis went; another body under the key is still refused."""
    claim, waiting, claiming = gateway.ledger.claim, asyncio.Event(), list[Any]()

    async def later(*args: Any) -> Any:
        claiming.append(args)
        await waiting.wait()
        return await claim(*args)

    gateway.ledger.claim = later  # type: ignore[method-assign]
    bodies = [body(), body(), body(first_name="Bo")]
    asked = [asyncio.create_task(retain(gateway, one)) for one in bodies]
    async with asyncio.timeout(10):
        while len(claiming) < len(asked):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    redis_instance.kill()
    waiting.set()
    first, second, other = await asyncio.gather(*asked)
    assert first.content == second.content
    assert other.status_code == 422


async def test_erasure_reaches_answers_to_polls(gateway: Gateway) -> None:
    """A poll's own copy of the standing answer holds the customer's name too."""
    await retain(gateway, body(request_id="k1"))
    await retain(gateway, body(request_id="k2"))
    await gateway.records.erase("c1")
    assert not await gateway.redis.keys("cs:idempotency:*")


async def test_redis_without_its_data_is_closed_until_rebuilt(gateway: Gateway) -> None:
    """Failure table, row data lost: nobody is contacted until opt-outs and contacts are known again."""
    contacted = (await retain(gateway, body("c1", "r1"))).json()
    opted_out = (await retain(gateway, body("c2", "r2"))).json()
    async with gateway.client() as client:
        await client.post("/v1/outcomes", json={"decision_id": opted_out["decision_id"], "outcome": "opted_out"})
    await gateway.redis.flushall()
    lost = (await retain(gateway, body("c3", "r3"))).json()
    assert lost["baseline_reason"] == "ledger_unavailable"
    await rebuild(gateway.ledger, gateway.journal)
    gateway.decision.down = DOWN  # the gateway's own mask tells what the ledger knows
    again = (await retain(gateway, body("c1", "r4"))).json()
    never = (await retain(gateway, body("c2", "r5"))).json()
    assert contacted["decision"]["contact"] is True
    assert set(again["decision"]["masked"].values()) == {"cooldown"}
    assert set(never["decision"]["masked"].values()) == {"do_not_contact"}
    assert int(await gateway.redis.get("cs:reserved:default")) == 1200


async def test_holdout_is_never_contacted(redis_instance: RedisServer, tmp_path: Path) -> None:
    """An experiment's holdout is decided, recorded and left alone."""
    gateway = Gateway(redis_instance.url, tmp_path / "journal", experiment=ExperimentSettings(holdout=1.0))
    await rebuild(gateway.ledger, gateway.journal)
    await gateway.kill_switch.write(KillSwitchRequest(state="off", reason="test"))
    answer = (await retain(gateway, body())).json()
    assert (answer["arm"], answer["baseline_reason"]) == ("holdout", "experiment")
    assert answer["decision"]["contact"] is False
    await gateway.close()


async def test_nobody_is_contacted_without_consent(gateway: Gateway) -> None:
    """The scorecard would contact, but no channel is consented to."""
    gateway.decision.down = DOWN
    answer = (await retain(gateway, body(channels={"sms": {"consent": False}}))).json()
    assert answer["decision"]["contact"] is False
    assert set(answer["decision"]["masked"].values()) == {"consent"}


async def test_channel_follows_the_customers_order(gateway: Gateway) -> None:
    """The first consented channel is taken, in the order in which the customer gave them."""
    channels = {"push": {"consent": False}, "email": {"consent": True}, "sms": {"consent": True}}
    answer = (await retain(gateway, body(channels=channels))).json()
    assert answer["decision"]["channel"] == "email"


async def test_baseline_waits_out_quiet_hours(gateway: Gateway) -> None:
    """At 22:00 local time the baseline takes the first delay that ends in the morning."""
    gateway.decision.down = DOWN
    gateway.now += timedelta(hours=10)
    answer = (await retain(gateway, body())).json()
    assert answer["decision"]["delay_hours"] == 12
