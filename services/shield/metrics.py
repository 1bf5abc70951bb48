"""What the shield counts and times."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as pb
from churnsaver.telemetry import LATENCY_BUCKETS_S

REVIEWS = Counter("shield_reviews_total", "Texts reviewed, by stage and verdict.", ["stage", "verdict"])
FINDINGS = Counter("shield_findings_total", "Reasons not to send a text, by rule.", ["rule"])
CLASSIFIER_SECONDS = Histogram(
    "shield_classifier_seconds",
    "Time of the classifier for one text; at the start, of the built-in cases.",
    buckets=LATENCY_BUCKETS_S,
)

# There before their first event, so that a first increase is seen.
_REVIEWS = {
    (stage, verdict): REVIEWS.labels(stage_name, verdict_name)
    for stage, stage_name in ((pb.STAGE_DRAFT, "draft"), (pb.STAGE_FILLED, "filled"))
    for verdict, verdict_name in ((pb.VERDICT_PASS, "pass"), (pb.VERDICT_BLOCK, "block"))
}
FINDINGS.labels("internal_error")


def count(request: pb.ReviewRequest, answer: pb.ReviewResponse) -> None:
    """Counts one review that somebody asked for."""
    _REVIEWS[request.stage, answer.verdict].inc()
    for finding in answer.findings:
        FINDINGS.labels(finding.rule).inc()
