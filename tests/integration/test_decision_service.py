"""The decision service as a process of its own, over real gRPC."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from churnsaver.checkpoints import open_checkpoint
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as pb
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2_grpc as decision_grpc
from churnsaver.rpc.stubs.models.v1 import models_service_pb2 as models_pb
from churnsaver.rpc.stubs.models.v1 import models_service_pb2_grpc as models_grpc
from churnsaver.settings import load_world
from services.decision.decide import Decider
from services.decision.models import load_models
from services.gateway.downstream import GrpcDecision, Unavailable
from tests.conftest import free_port
from tests.support.decision import CUSTOMER, decide_request, open_all
from tests.support.registry import Yard, publish_all


def start(yard: Yard, port: int) -> subprocess.Popen[str]:
    """`python -m services.decision` with this registry on this port."""
    environment = {
        **os.environ,
        **yard.environment(),
        "CHURN_SAVER_STATE_DIR": str(yard.root / "state"),
        "CHURN_SAVER_EVENTS__EMBEDDED": f"127.0.0.1:{free_port()}",  # where nobody listens: it does without
        "CHURN_SAVER_DECISION__PORT": str(port),
        "CHURN_SAVER_DECISION__METRICS_PORT": str(free_port()),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "services.decision"], env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def yard(decision_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """A registry with the decision's checkpoints."""
    return publish_all(decision_checkpoints, tmp_path_factory.mktemp("yard"))


@pytest.fixture(scope="module")
def service(yard: Yard) -> Iterator[str]:
    """The address of a running decision service; it must stop cleanly on SIGTERM."""
    port = free_port()
    process = start(yard, port)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=120)
    yield f"127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors


@pytest.fixture
def channel(service: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service) as opened:
        yield opened


def test_answers_as_in_process(channel: grpc.Channel, decision_checkpoints: Path) -> None:
    """Over the wire comes exactly what the decider says in this process: same models, same seed, same bits."""
    decider, stub = Decider(load_world(), load_models(open_all(decision_checkpoints), load_world())), decision_grpc
    for seed in range(10):
        request = decide_request(seed=seed)
        assert stub.DecisionServiceStub(channel).Decide(request, timeout=5) == decider.decide(request)


def test_every_policy_answers_over_the_wire(channel: grpc.Channel) -> None:
    """Champion and baselines, each under its own version; a policy that nobody knows is INVALID_ARGUMENT."""
    stub = decision_grpc.DecisionServiceStub(channel)
    answers = [stub.Decide(decide_request(policy=number), timeout=5) for number in pb.PolicyName.values()]
    champion, *baselines = (answer.versions["policy"] for answer in answers)
    names = ("propensity", "uplift-trees", "thompson-sampling")
    assert baselines == [f"baseline-{name}@{champion}" for name in names]
    assert all(0.0 < answer.propensity <= 1.0 for answer in answers)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Decide(decide_request(policy=9), timeout=5)  # type: ignore[arg-type]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_gateways_client_names_the_policy(service: str) -> None:
    """What the gateway asks for is what decides; what the service does not hold is as if it were away."""
    contact = decide_request().contact
    async with grpc.aio.insecure_channel(service) as opened:
        client = GrpcDecision(opened)
        answer = await client.decide(CUSTOMER, contact, 42, pb.POLICY_NAME_UPLIFT_TREES, 5.0)
        assert answer.versions["policy"].startswith("baseline-uplift-trees@policy-")
        with pytest.raises(Unavailable, match="decision: INVALID_ARGUMENT"):
            await client.decide(CUSTOMER, contact, 42, 9, 5.0)  # type: ignore[arg-type]


def test_health_and_models(channel: grpc.Channel, decision_checkpoints: Path) -> None:
    """The health protocol says serving, and GetModels names the three checkpoints."""
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "churnsaver.decision.v1.DecisionService"):
        status = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    models = models_grpc.ModelsServiceStub(channel).GetModels(models_pb.GetModelsRequest(), timeout=5).models
    assert [model.kind for model in models] == ["risk", "acceptance", "policy"]
    assert all(len(model.sha256) == 64 for model in models)


def test_bad_request_is_invalid_argument(channel: grpc.Channel) -> None:
    """A bad attribute is INVALID_ARGUMENT with the field's name, and the service goes on."""
    stub = decision_grpc.DecisionServiceStub(channel)
    for request, field in (
        (decide_request(monthly_usd=float("nan")), "attributes.monthly_usd"),
        (decide_request(contract="weekly"), "attributes.contract"),
        (pb.DecideRequest(), "attributes.contract is missing"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Decide(request, timeout=5)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith(field)
        assert "Traceback" not in caught.value.details()
    assert stub.Decide(decide_request(), timeout=5).versions["risk"].startswith("risk-")


def truncate_model(yard: Yard, trained: Path) -> None:
    digest = open_checkpoint(trained / "risk").manifest.files["model.ubj"]
    blob = yard.folder / "blobs" / digest
    blob.write_bytes(blob.read_bytes()[:1000])


def drop_policy(yard: Yard, trained: Path) -> None:
    (yard.folder / "kinds" / "policy.json").unlink()


def drop_everything(yard: Yard, trained: Path) -> None:
    shutil.rmtree(yard.folder)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (truncate_model, "model.ubj: is truncated or altered"),
        (drop_policy, "has no champion of kind policy"),
        (drop_everything, ", or does not exist; run `make up`"),
    ],
)
def test_bad_checkpoint_stops_the_start(
    decision_checkpoints: Path, tmp_path: Path, harm: Callable[[Yard, Path], None], expected: str
) -> None:
    """Where nothing served before, a checkpoint that cannot be trusted is one line and exit 2."""
    yard = publish_all(decision_checkpoints, tmp_path)
    harm(yard, decision_checkpoints)
    process = start(yard, free_port())
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    last = errors.splitlines()[-1]
    assert last.startswith("decision: ")
    assert expected in last
    assert "Traceback" not in errors


def test_port_in_use_stops_the_start(service: str, yard: Yard) -> None:
    """A second service on the same port says so and exits 2."""
    process = start(yard, int(service.rpartition(":")[2]))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "is in use" in errors
    assert "Traceback" not in errors
