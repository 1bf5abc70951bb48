"""The shield over real gRPC: verdicts, missing fields, and that it fails closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from churnsaver.checkpoints import open_checkpoint
from churnsaver.errors import CheckpointError
from churnsaver.rpc.server import MetricsInterceptor
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as pb
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2_grpc as shield_grpc
from churnsaver.safety import rules
from churnsaver.safety.bundled import BUNDLED_CHECKPOINT
from churnsaver.safety.review import Finding, Policy
from churnsaver.safety.subject import Subject
from churnsaver.safety.toxicity import KIND, ToxicityModel
from churnsaver.settings import load_serve_settings, load_world
from services.shield import review as review_module
from services.shield.bootstrap import build_reviewer
from services.shield.review import Reviewer
from services.shield.server import register
from tests.support.metrics import grows, sample

DRAFT = "Hi {first_name}, thank you for being with us. Yours until {expiry}: {offer}. {opt_out}"
SLOTS = {
    "first_name": "Ana",
    "offer": "10% off for 3 months",
    "expiry": "12 Jan 2026",
    "opt_out": "Reply STOP to stop.",
}
FILLED = "Hi Ana, thank you for being with us. Yours until 12 Jan 2026: 10% off for 3 months. Reply STOP to stop."
NOON = int(datetime(2026, 1, 2, 12, tzinfo=UTC).timestamp())


@pytest.fixture
async def shield() -> AsyncIterator[shield_grpc.ShieldServiceAsyncStub]:
    reviewer = build_reviewer(load_serve_settings(), open_checkpoint(BUNDLED_CHECKPOINT, KIND))
    server = grpc.aio.server(interceptors=[MetricsInterceptor()])
    register(server, lambda: reviewer)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield shield_grpc.ShieldServiceStub(channel)
    await server.stop(None)


def filled(**changes: Any) -> pb.ReviewRequest:
    fields: dict[str, Any] = {
        "text": FILLED,
        "stage": pb.STAGE_FILLED,
        "channel": "sms",
        "language": "en",
        "slots": SLOTS,
        "delivery": pb.Delivery(send_at_unix_s=NOON, timezone="Europe/London"),
    }
    return pb.ReviewRequest(**(fields | changes))


async def test_a_good_draft_and_its_filled_text_pass(shield: Any) -> None:
    """Drafts are scored for toxicity, filled texts are not; both name the shield's version."""
    draft = await shield.Review(pb.ReviewRequest(text=DRAFT, stage=pb.STAGE_DRAFT, channel="sms", language="en"))
    sent = await shield.Review(filled())
    assert (draft.verdict, sent.verdict) == (pb.VERDICT_PASS, pb.VERDICT_PASS)
    assert 0.0 <= draft.scores["toxicity"] < 0.5
    assert not sent.scores
    assert draft.version == sent.version == open_checkpoint(BUNDLED_CHECKPOINT, KIND).version


async def test_a_bad_text_is_blocked_with_the_rules_names(shield: Any) -> None:
    """Wording, hours and missing elements each leave their finding."""
    late = pb.Delivery(send_at_unix_s=NOON, timezone="Asia/Tokyo")
    answer = await shield.Review(
        filled(text=FILLED.replace("thank you", "act now").replace("10%", "90%"), delivery=late)
    )
    assert answer.verdict == pb.VERDICT_BLOCK
    assert {f.rule for f in answer.findings} >= {"phrase", "quiet_hours", "required_element", "price"}


async def test_reviews_findings_and_the_classifier_are_counted(shield: Any) -> None:
    """By stage and verdict, by rule, and the time of each text that was classified."""
    with (
        grows("shield_reviews_total", stage="draft", verdict="pass"),
        grows("shield_reviews_total", stage="filled", verdict="pass"),
        grows("shield_reviews_total", stage="filled", verdict="block"),
        grows("shield_findings_total", rule="phrase"),
        grows("shield_classifier_seconds_count"),
    ):
        await shield.Review(pb.ReviewRequest(text=DRAFT, stage=pb.STAGE_DRAFT, channel="sms", language="en"))
        await shield.Review(filled())
        await shield.Review(filled(text=FILLED.replace("thank you", "act now")))
    assert sample("shield_findings_total", rule="internal_error") is not None, "an alert waits for its first increase"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ReviewRequest(text=DRAFT, channel="sms"), "stage"),
        (filled(channel="fax"), "channel"),
        (filled(slots={}), "slots"),
        (filled(slots={"offer": "x", "expiry": "y"}), "opt_out"),
        (filled(delivery=None), "delivery"),
        (filled(delivery=pb.Delivery(send_at_unix_s=1 << 62, timezone="UTC")), "send_at_unix_s"),
    ],
)
async def test_a_missing_field_is_an_invalid_argument_that_names_it(
    shield: Any, request_: pb.ReviewRequest, field: str
) -> None:
    """The caller learns which field to mend."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shield.Review(request_)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")


async def test_a_broken_rule_and_a_broken_classifier_block(shield: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks inside a review, the verdict is block."""

    def broken(subject: Subject) -> Iterator[Finding]:
        raise RuntimeError("no")

    monkeypatch.setattr(rules, "RULES", (broken,))
    monkeypatch.setattr(review_module, "review_with_rules", lambda r, p: rules.review_with_rules(r, p, rules.RULES))
    monkeypatch.setattr(ToxicityModel, "score", lambda self, text: 1 / 0)
    answer = await shield.Review(pb.ReviewRequest(text=DRAFT, stage=pb.STAGE_DRAFT, channel="sms", language="en"))
    assert answer.verdict == pb.VERDICT_BLOCK
    assert [f.rule for f in answer.findings] == ["internal_error", "internal_error"]


def test_a_shield_that_forgot_its_cases_does_not_start() -> None:
    """The built-in cases are checked before the first request."""
    model = ToxicityModel.from_checkpoint(open_checkpoint(BUNDLED_CHECKPOINT, KIND))
    with pytest.raises(CheckpointError, match="must pass"):
        Reviewer(Policy.of(load_world()), model, 0.0, "test").check_built_in_cases()
