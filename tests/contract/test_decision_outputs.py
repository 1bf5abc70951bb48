"""What the decision service promises: fixed outputs, replayable draws, honest propensities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from churnsaver.checkpoints import open_checkpoint, write_checkpoint
from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.eligibility import Reason
from churnsaver.domain.schema import Scalar
from churnsaver.errors import BadInput
from churnsaver.models.baselines import load_baselines
from churnsaver.models.policy import OnnxPolicy
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as pb
from churnsaver.settings import load_world
from services.decision.decide import Decider, draw
from services.decision.models import load_models
from tests.support.decision import CUSTOMER, decide_request, open_all

WORLD = load_world()


@pytest.fixture(scope="module")
def decider(decision_checkpoints: Path) -> Decider:
    return Decider(WORLD, load_models(open_all(decision_checkpoints), WORLD))


def test_same_seed_same_answer(decider: Decider, decision_checkpoints: Path) -> None:
    """The same request gives the same bytes, also after a restart; another seed may give another action."""
    restarted = Decider(WORLD, load_models(open_all(decision_checkpoints), WORLD))
    request = decide_request(seed=42)
    once = decider.decide(request).SerializeToString(deterministic=True)
    decider.decide(decide_request(seed=7))
    assert decider.decide(request).SerializeToString(deterministic=True) == once
    assert restarted.decide(request).SerializeToString(deterministic=True) == once
    assert len({decider.decide(decide_request(seed=seed)).action for seed in range(30)}) > 3


# Computed once with numpy 2.4; numpy promises that PCG64's stream never changes (NEP 19).
@pytest.mark.parametrize(("seed", "action"), [(0, 2), (1, 2), (2, 1), (3, 0), (42, 2), (2**32, 2), (2**64 - 1, 2)])
def test_draws_are_fixed(seed: int, action: int) -> None:
    """The draw of a seed is part of the contract: records are replayed with it."""
    assert draw(np.array([0.25, 0.25, 0.5]), seed) == action


def test_zero_probability_is_never_drawn() -> None:
    """Neither at the edges nor in between, and rounding up cannot pass the last possible action."""
    drawn = {draw(np.array([0.0, 0.5, 0.0, 0.5 + 1e-15, 0.0]), seed) for seed in range(2000)}
    assert drawn == {1, 3}


def test_draws_follow_the_propensities(decider: Decider) -> None:
    """Over many seeds, each action comes as often as its reported propensity says."""
    answers = [decider.decide(decide_request(seed=seed)) for seed in range(2000)]
    propensity = {answer.action: answer.propensity for answer in answers}
    for action, expected in propensity.items():
        share = sum(answer.action == action for answer in answers) / len(answers)
        assert share == pytest.approx(expected, abs=4.0 * np.sqrt(expected * (1.0 - expected) / len(answers)))


def test_propensity_can_be_replayed_from_the_answer(decider: Decider, decision_checkpoints: Path) -> None:
    """Observation, mask and policy checkpoint give the logged propensity and, with the seed, the action."""
    policy = OnnxPolicy.from_checkpoint(open_checkpoint(decision_checkpoints / "policy", "policy"))
    for seed in range(20):
        answer = decider.decide(decide_request(seed=seed))
        allowed = np.frombuffer(answer.mask_reasons, dtype=np.uint8) == Reason.ALLOWED
        observation = np.array([answer.observation], dtype=np.float32)
        probabilities = policy.probabilities(observation, allowed[None, :])[0]
        assert probabilities[answer.action] == answer.propensity
        assert draw(probabilities, seed) == answer.action
        assert allowed[answer.action]


def test_answer_is_consistent(decider: Decider, decision_checkpoints: Path) -> None:
    """Every field says the same about the action, and versions name the checkpoints that took part."""
    space = ActionSpace(WORLD)
    for seed in range(20):
        answer = decider.decide(decide_request(seed=seed))
        action = space[answer.action]
        assert (answer.contact, answer.offer) == (action.contact, action.offer.id if action.offer else "")
        assert answer.delay_hours == action.delay_hours
        assert (answer.reserved_cents > 0) == action.contact
        assert 0.0 < answer.propensity <= 1.0
        assert 0.0 <= answer.risk <= 1.0
        if not action.contact:
            assert answer.expected_value_usd == 0.0
    for kind in ("risk", "acceptance", "policy"):
        checkpoint = open_checkpoint(decision_checkpoints / kind, kind)
        assert (answer.versions[kind], answer.sha256[kind]) == (checkpoint.version, checkpoint.sha256)
    assert dict(answer.multipliers) == {"spend_usd": 0.5}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"consent": False}, Reason.CONSENT),
        ({"do_not_contact": True}, Reason.DO_NOT_CONTACT),
        ({"hours_since_contact": [1.0]}, Reason.COOLDOWN),
        ({"hours_since_contact": [100.0, 120.0]}, Reason.WEEKLY_CAP),
        ({"local_hour_at_send": [22.0, 23.0, 3.0, 8.5]}, Reason.QUIET_HOURS),
        ({"budget_left_cents": 0, "local_hour_at_send": [10.0, 16.0, 11.0, 10.0]}, Reason.BUDGET),
    ],
)
def test_each_hard_rule_alone_stops_every_contact(decider: Decider, change: dict[str, object], reason: Reason) -> None:
    """Where a rule forbids all contact, nobody is contacted, with certainty, whatever the seed."""
    for seed in range(10):
        request = decide_request(seed=seed)
        for field, value in change.items():
            request.contact.ClearField(field)
            request.contact.MergeFrom(pb.ContactState(**{field: value}))
        answer = decider.decide(request)
        assert not answer.contact
        assert (answer.propensity, answer.reserved_cents) == (1.0, 0)
        assert set(answer.mask_reasons[1:]) == {int(reason)}
        assert answer.masked_offers == {offer.id: reason.slug for offer in WORLD.offers}


def test_large_offers_are_masked_by_a_small_budget(decider: Decider) -> None:
    """With 20 dollars left, 30 % off a 50-dollar plan for 3 months (45 dollars) is out, 10 % is in."""
    request = decide_request()
    request.contact.budget_left_cents = 2_000
    assert dict(decider.decide(request).masked_offers) == {"discount_20": "budget", "discount_30": "budget"}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"contract": "weekly"}, "attributes.contract is 'weekly'; expected one of 'month_to_month', "),
        ({"tenure_months": "three"}, "attributes.tenure_months is 'three'; expected a number"),
        ({"monthly_usd": float("nan")}, "attributes.monthly_usd is nan; expected a finite number"),
        ({"monthly_usd": float("inf")}, "attributes.monthly_usd is inf; expected a finite number"),
        ({"monthly_usd": -1.0}, "attributes.monthly_usd is -1.0; expected 0 or more"),
        ({"plan": True}, "attributes.plan is True; expected one of 'basic'"),
        ({"usage_gb": None}, "attributes.usage_gb is missing; give it a value"),
    ],
)
def test_bad_attributes_are_named(decider: Decider, attributes: dict[str, Scalar], message: str) -> None:
    """A value that does not follow the schema is refused by field, with what was expected."""
    with pytest.raises(BadInput) as caught:
        decider.decide(decide_request(seed=42, **attributes))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("local_hour_at_send", [10.0], "contact.local_hour_at_send is [10.0]; expected 4 hours of day"),
        ("local_hour_at_send", [10.0, 16.0, 24.0, 1.0], "contact.local_hour_at_send"),
        ("local_hour_at_send", [10.0, 16.0, float("nan"), 1.0], "contact.local_hour_at_send"),
        ("hours_since_contact", [float("inf")], "contact.hours_since_contact is [inf]"),
        ("contact_cost_cents", -1, "contact.contact_cost_cents is -1; expected 0 or more"),
    ],
)
def test_bad_contact_state_is_named(decider: Decider, field: str, value: object, message: str) -> None:
    """A contact state that cannot be is refused by field."""
    request = decide_request()
    request.contact.ClearField(field)
    request.contact.MergeFrom(pb.ContactState(**{field: value}))
    with pytest.raises(BadInput) as caught:
        decider.decide(request)
    assert str(caught.value).startswith(message)


def test_unknown_attributes_are_not_read(decider: Decider) -> None:
    """A column that the schema does not name changes nothing."""
    assert decider.decide(decide_request(shoe_size=44.0)) == decider.decide(decide_request())
    assert "shoe_size" not in CUSTOMER


BASELINES = {
    pb.POLICY_NAME_PROPENSITY: "propensity",
    pb.POLICY_NAME_UPLIFT_TREES: "uplift_trees",
    pb.POLICY_NAME_THOMPSON_SAMPLING: "thompson_sampling",
}


@pytest.mark.parametrize(("number", "name"), BASELINES.items())
def test_a_baseline_decides_where_it_is_asked(
    decider: Decider, decision_checkpoints: Path, number: pb.PolicyName.ValueType, name: str
) -> None:
    """Its own draw, propensity and version; the same observation and mask as the champion's, no multipliers."""
    policy = load_baselines(open_checkpoint(decision_checkpoints / "policy", "policy"), WORLD)[name]
    champion = decider.decide(decide_request())
    for seed in range(20):
        answer = decider.decide(decide_request(seed=seed, policy=number))
        allowed = np.frombuffer(answer.mask_reasons, dtype=np.uint8) == Reason.ALLOWED
        observation = np.array([answer.observation], dtype=np.float32)
        probabilities = policy.probabilities(observation, allowed[None, :])[0]
        assert (answer.action, answer.propensity) == (draw(probabilities, seed), probabilities[answer.action])
        assert (answer.observation, answer.mask_reasons) == (champion.observation, champion.mask_reasons)
        assert answer.versions["policy"] == f"baseline-{name.replace('_', '-')}@{champion.versions['policy']}"
        assert answer.sha256 == champion.sha256
        assert not answer.multipliers


def test_an_unknown_policy_is_named(decider: Decider) -> None:
    """A number of a newer protocol is refused with what there is."""
    with pytest.raises(BadInput, match=r"policy is 9, which policy-\w+ does not hold; expected one of POLICY_NAME_UN"):
        decider.decide(decide_request(policy=9))  # type: ignore[arg-type]


def test_a_checkpoint_without_baselines_decides_as_champion_only(decision_checkpoints: Path, tmp_path: Path) -> None:
    """As those that were published before there were any; asked for a baseline, it says what it holds."""
    opened = open_all(decision_checkpoints)
    older = {name: content for name, content in opened["policy"].contents.items() if name != "baselines.json"}
    write_checkpoint(tmp_path / "policy", "policy", older, seed=42, metrics={})
    served = Decider(WORLD, load_models({**opened, "policy": open_checkpoint(tmp_path / "policy")}, WORLD))
    assert served.decide(decide_request()).propensity > 0.0
    with pytest.raises(BadInput, match=r"expected one of POLICY_NAME_UNSPECIFIED$"):
        served.decide(decide_request(policy=pb.POLICY_NAME_PROPENSITY))
