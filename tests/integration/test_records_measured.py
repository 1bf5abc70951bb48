"""What the gateway publishes is what measuring reads: the same lines, from a real gateway and a real Redis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as decision_pb2
from services.gateway.contract import KillSwitchRequest, Outcome, OutcomeRequest
from services.gateway.outbox import Outbox
from services.gateway.upkeep import rebuild
from tests.conftest import RedisServer
from tests.support.gateway import Gateway, body
from trainers.ope.records import Log, read_log

SHARES = {"baseline": 0.0, "holdout": 0.3}


async def published(gateway: Gateway, folder: Path) -> Log:
    """What the relay would publish now, as Pub/Sub writes it."""
    outbox = Outbox(gateway.ledger)
    for name, messages in zip(("decisions", "outcomes"), await outbox.messages(await outbox.oldest()), strict=True):
        path = folder / name / "a.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(message.data + b"\n" for message in messages))
    return read_log(folder, gateway.world)


async def test_a_gateways_records_are_read(
    redis_instance: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arms, drawn arms, propensities, bookings and outcomes, decision by decision."""
    from churnsaver.settings import ExperimentSettings

    gateway = Gateway(redis_instance.url, tmp_path / "journal", experiment=ExperimentSettings(**SHARES))
    decide = gateway.decision.decide

    async def with_observation(*arguments: object) -> decision_pb2.DecideResponse:
        answer = await decide(*arguments)  # type: ignore[arg-type]
        del answer.observation[:]
        answer.observation.extend(np.linspace(0.0, 1.0, len(observation_names(gateway.world))))
        return answer

    monkeypatch.setattr(gateway.decision, "decide", with_observation)
    await rebuild(gateway.ledger, gateway.journal)
    await gateway.kill_switch.write(KillSwitchRequest(state="off", reason="test"))
    answers = []
    async with gateway.client() as client:
        for number in range(12):
            reply = await client.post("/v1/retain", json=body(f"c{number}", f"for-{number}"))
            answers.append(reply.json())
    for answer in answers[:4]:
        for outcome in (Outcome.ACCEPTED, Outcome.CHURNED):
            await gateway.records.outcome(OutcomeRequest(decision_id=answer["decision_id"], outcome=outcome))
    log = await published(gateway, tmp_path / "records")
    await gateway.close()

    read = {decision.decision_id: decision for decision in log.decisions}
    assert len(read) == 12
    for answer in answers:
        decision = read[answer["decision_id"]]
        assert (decision.arm, decision.drawn_arm) == (answer["arm"], answer["arm"])
        assert decision.contacted == answer["decision"]["contact"]
        assert decision.action.label in ActionSpace(gateway.world).labels
        assert decision.propensity.arm == pytest.approx(0.3 if answer["arm"] == "holdout" else 0.7)
    assert {decision.arm for decision in log.decisions} == {"champion", "holdout"}
    assert {name for name, told in log.outcomes.items() if "churned" in told} == {a["decision_id"] for a in answers[:4]}
    assert len(log.churned_at) == 4
