"""The decision service as a process of its own, over real gRPC."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as pb
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2_grpc as decision_grpc
from churnsaver.rpc.stubs.models.v1 import models_service_pb2 as models_pb
from churnsaver.rpc.stubs.models.v1 import models_service_pb2_grpc as models_grpc
from churnsaver.settings import load_world
from services.decision.decide import Decider
from services.decision.models import load_models
from tests.conftest import free_port
from tests.support.decision import decide_request


def start(checkpoints: Path, port: int) -> subprocess.Popen[str]:
    """`python -m services.decision` with these checkpoints on this port."""
    environment = {
        **os.environ,
        "CHURN_SAVER_CHECKPOINTS": str(checkpoints),
        "CHURN_SAVER_DECISION__PORT": str(port),
        "CHURN_SAVER_DECISION__METRICS_PORT": str(free_port()),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "services.decision"], env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def service(decision_checkpoints: Path) -> Iterator[str]:
    """The address of a running decision service; it must stop cleanly on SIGTERM."""
    port = free_port()
    process = start(decision_checkpoints, port)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
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
    decider, stub = Decider(load_world(), load_models(decision_checkpoints, load_world())), decision_grpc
    for seed in range(10):
        request = decide_request(seed=seed)
        assert stub.DecisionServiceStub(channel).Decide(request, timeout=5) == decider.decide(request)


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


def truncate_model(folder: Path) -> None:
    model = folder / "risk" / "model.ubj"
    model.write_bytes(model.read_bytes()[:1000])


def drop_policy(folder: Path) -> None:
    shutil.rmtree(folder / "policy")


def swap_kinds(folder: Path) -> None:
    shutil.rmtree(folder / "acceptance")
    shutil.copytree(folder / "risk", folder / "acceptance")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (truncate_model, "model.ubj: is truncated or altered"),
        (drop_policy, "no policy checkpoint here"),
        (swap_kinds, "is a risk checkpoint; expected a acceptance checkpoint"),
    ],
)
def test_bad_checkpoint_stops_the_start(
    decision_checkpoints: Path, tmp_path: Path, harm: object, expected: str
) -> None:
    """A checkpoint that cannot be trusted is one line on standard error and exit 2."""
    shutil.copytree(decision_checkpoints, tmp_path / "checkpoints")
    harm(tmp_path / "checkpoints")
    process = start(tmp_path / "checkpoints", free_port())
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.startswith("decision: ")
    assert expected in errors
    assert len(errors.splitlines()) == 1


def test_port_in_use_stops_the_start(service: str, decision_checkpoints: Path) -> None:
    """A second service on the same port says so and exits 2."""
    process = start(decision_checkpoints, int(service.rpartition(":")[2]))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "is in use" in errors
    assert "Traceback" not in errors
