"""The story of one review: what was asked, what the rules find, what the classifier says, the verdict."""

from __future__ import annotations

from datetime import UTC, datetime

from churnsaver.domain.message import REQUIRED_SLOTS
from churnsaver.errors import BadInput, CheckpointError
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as pb
from churnsaver.safety.names import classified_name
from churnsaver.safety.review import Finding, Policy, Review, Stage
from churnsaver.safety.rules import failed, review_with_rules
from churnsaver.safety.slots import blank_slots
from churnsaver.safety.toxicity import ToxicityModel
from services.shield import metrics

# What any shield must know, whatever its checkpoint: (draft, passes). The last two also compile the lists
# for tricks of spelling, so that no request waits for it.
BUILT_IN_CASES = (
    ("Hi {first_name}, thank you for being with us. Yours until {expiry}: {offer}. {opt_out}", True),
    ("Hi {first_name}, act now or lose everything! Yours until {expiry}: {offer}. {opt_out}", False),
    ("Hi {first_name}, you stupid idiot. Yours until {expiry}: {offer}. {opt_out}", False),
    ("Hi {first_name}, thank you for being with us. Yours until {expiry}: {offer}.", False),
    ("Hi {first_name}, a c t   n o w. Yours until {expiry}: {offer}. {opt_out}", False),
    ("Hi {first_name}, acttt nowww. Yours until {expiry}: {offer}. {opt_out}", False),
)


class Reviewer:
    """Rules on every text; the classifier on drafts, and on the name that enters one when it is filled."""

    def __init__(self, policy: Policy, toxicity: ToxicityModel, threshold: float, version: str) -> None:
        self._policy, self._toxicity, self._threshold, self._version = policy, toxicity, threshold, version

    def review(self, request: pb.ReviewRequest) -> pb.ReviewResponse:
        """The verdict on one text.

        Raises:
            BadInput: a field that the stage needs is missing; it is named.
        """
        review = read_review(self._policy, request)
        findings = review_with_rules(review, self._policy)
        scores: dict[str, float] = {}
        if (unread := _not_yet_classified(review)) is not None:
            scores, found = self._classify(unread)
            findings += found
        return pb.ReviewResponse(
            verdict=pb.VERDICT_BLOCK if findings else pb.VERDICT_PASS,
            findings=[pb.Finding(rule=f.rule, message=f.message, excerpt=f.excerpt) for f in findings],
            scores=scores,
            version=self._version,
        )

    def check_built_in_cases(self) -> None:
        """CheckpointError where this shield does not know what every shield must know."""
        for draft, passes in BUILT_IN_CASES:
            answer = self.review(pb.ReviewRequest(text=draft, stage=pb.STAGE_DRAFT, channel="sms", language="en"))
            if (answer.verdict == pb.VERDICT_PASS) is not passes:
                raise CheckpointError(
                    f"shield {self._version}: {draft!r} must {'pass' if passes else 'be blocked'}; "
                    "restore the checkpoint or train it again"
                )

    def _classify(self, text: str) -> tuple[dict[str, float], list[Finding]]:
        try:
            with metrics.CLASSIFIER_SECONDS.time():
                score, found = self._toxicity.review(text, self._threshold)
        except Exception as error:  # fail closed: an unscored text is not sent
            return {}, [failed("toxicity", error)]
        return {"toxicity": score}, found


def _not_yet_classified(review: Review) -> str | None:
    """A draft's own words; of a filled text, whose draft was classified, only the name that was added."""
    return blank_slots(review.text) if review.stage is Stage.DRAFT else classified_name(review)


def read_review(policy: Policy, request: pb.ReviewRequest) -> Review:
    """The request as a domain value; BadInput names what is missing."""
    if request.stage == pb.STAGE_UNSPECIFIED:
        raise BadInput("stage is not set; expected STAGE_DRAFT or STAGE_FILLED")
    if request.channel not in policy.max_chars:
        raise BadInput(f"channel is {request.channel!r}; expected one of {', '.join(policy.max_chars)}")
    language = request.language or "en"
    if request.stage == pb.STAGE_DRAFT:
        return Review(request.text, Stage.DRAFT, request.channel, language)
    for name in REQUIRED_SLOTS:
        if not request.slots.get(name):
            raise BadInput(f"slots has no {name}; a filled text needs the values of {', '.join(REQUIRED_SLOTS)}")
    if not request.HasField("delivery"):
        raise BadInput("delivery is missing; a filled text needs send_at_unix_s and timezone")
    try:
        send_at = datetime.fromtimestamp(request.delivery.send_at_unix_s, UTC)
    except (ValueError, OverflowError, OSError):
        raise BadInput(
            f"delivery.send_at_unix_s is {request.delivery.send_at_unix_s}; expected seconds since the epoch"
        ) from None
    slots, zone = dict(request.slots), request.delivery.timezone
    return Review(request.text, Stage.FILLED, request.channel, language, slots, send_at, zone)
