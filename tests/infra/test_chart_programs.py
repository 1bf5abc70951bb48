"""What the chart's Jobs and probes run, run for real."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from churnsaver.errors import BadInput, RegistryError, SettingsError
from churnsaver.preflight import CONTRACTS, check, compare
from churnsaver.rpc import contract
from churnsaver.rpc.probe import serves
from churnsaver.settings import Addresses
from tests.conftest import free_port
from tests.support.chart import CHART
from tests.support.registry import Yard

DECISION = CONTRACTS["decision"]


class FakeGateway(ThreadingHTTPServer):
    """Answers like the gateway, with what a test says, and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.switch: dict[str, Any] = {"state": "unknown", "last_known": None}
        self.models: dict[str, Any] = {name: {"risk": {}} for name in ("gateway", "decision", "generator", "shield")}


class Handler(BaseHTTPRequestHandler):
    server: FakeGateway

    def do_GET(self) -> None:
        answers = {"/v1/kill-switch": self.server.switch, "/v1/models": self.server.models, "/readyz": {}}
        self._answer(answers[self.path])

    def do_PUT(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))
        switch = self.server.switch
        if self.headers["if-none-match"] == "*" and (switch["state"] != "unknown" or switch["last_known"]):
            self._answer({}, status=412)
        else:
            self.server.switch = given
            self._answer(given)

    def _answer(self, body: dict[str, Any], status: int = 200) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    with FakeGateway() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GATEWAY", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


def run(script: str) -> None:
    exec(compile((CHART / "scripts" / script).read_text(), script, "exec"), {"__name__": "__main__"})


def test_install_sets_an_unknown_switch(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody has said anything, the chart says what values say."""
    monkeypatch.setenv("STATE", "off")
    monkeypatch.setenv("REASON", "installed")
    run("set_kill_switch.py")
    assert gateway.switch == {"state": "off", "reason": "installed"}


STOPPED = {"state": "on", "reason": "theirs"}


@pytest.mark.parametrize("switch", [STOPPED, {"state": "unknown", "last_known": STOPPED}])
def test_install_leaves_a_switch_that_somebody_set(
    gateway: FakeGateway, switch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's `on` outlives a release that is installed again, and the loss of Redis."""
    monkeypatch.setenv("STATE", "off")
    monkeypatch.setenv("REASON", "installed")
    gateway.switch = switch
    run("set_kill_switch.py")
    assert gateway.switch == switch


def test_helm_test_wants_a_checkpoint_everywhere(gateway: FakeGateway) -> None:
    """It passes when all four serve, and names the one that does not."""
    run("check_serving.py")
    gateway.models["shield"] = {}
    with pytest.raises(SystemExit, match="shield"):
        run("check_serving.py")


def test_preflight_finds_champions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings and signed champions can be read; what is missing is named."""
    yard = Yard(tmp_path)
    version = yard.publish("first")
    for name, value in yard.environment().items():
        monkeypatch.setenv(name, value)
    assert check(["risk"]) == {"risk": version}
    with pytest.raises(RegistryError, match="policy champion"):
        check(["risk", "policy"])
    monkeypatch.setenv("CHURN_SAVER_GATEWAY__PORT", "0")
    with pytest.raises(SettingsError, match=r"gateway\.port"):
        check(["risk"])


@contextmanager
def decision_service(change: Callable[[FileDescriptorProto], None]) -> Iterator[Addresses]:
    """A running service whose reflection tells of a decision contract with `change`."""
    file = FileDescriptorProto()
    DECISION.file.CopyToProto(file)
    change(file)
    pool = DescriptorPool()
    for each in DECISION.file.dependencies:
        pool.AddSerializedFile(each.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    server = grpc.server(futures.ThreadPoolExecutor(2))
    reflection.enable_server_reflection([DECISION.full_name], server, pool=pool)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Addresses(decision=f"127.0.0.1:{port}", generator="127.0.0.1:1", shield="127.0.0.1:1")
    finally:
        server.stop(None).wait()


def test_preflight_compares_contracts_with_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same contract, and one that lacks what is new, are understood; a service that is down holds nothing up."""
    monkeypatch.setattr(contract, "TIMEOUT_S", 0.5)

    def older(file: FileDescriptorProto) -> None:
        del file.message_type[0].field[-1]

    for change in (lambda _: None, older):
        with decision_service(change) as addresses:
            assert compare(addresses) == {
                "decision": "understands this version",
                "generator": "nobody answers, so nothing was compared",
                "shield": "nobody answers, so nothing was compared",
            }


def test_preflight_refuses_a_contract_that_breaks() -> None:
    """A field of another type, and a method that callers would miss: named, with the mend."""

    def retyped(file: FileDescriptorProto) -> None:
        (request,) = (each for each in file.message_type if each.name == DECISION.methods[0].input_type.name)
        request.field[0].type = FieldDescriptorProto.TYPE_DOUBLE
        request.field[0].ClearField("type_name")

    with (
        decision_service(retyped) as addresses,
        pytest.raises(BadInput, match=r"attributes \(1\) is repeated message, and repeated double where"),
    ):
        compare(addresses)

    def more(file: FileDescriptorProto) -> None:
        method = file.service[0].method.add()
        method.CopyFrom(file.service[0].method[0])
        method.name = "Undo"

    with decision_service(more) as addresses, pytest.raises(BadInput, match=r"DecisionService\.Undo is gone.*; keep"):
        compare(addresses)


def test_preflight_ends_with_one_line(tmp_path: Path) -> None:
    """As a process: exit 2 and a sentence."""
    command = [sys.executable, "-m", "churnsaver.preflight", "risk"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("preflight: ")
    assert "CHURN_SAVER_CONFIGS" in done.stderr


def test_probe_asks_grpcs_health_protocol() -> None:
    """Serving passes; draining and nobody there fail."""
    server, servicer = grpc.server(futures.ThreadPoolExecutor(1)), health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        assert serves(address)
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert not serves(address)
    finally:
        server.stop(None).wait()
    assert not serves(f"127.0.0.1:{free_port()}", timeout_s=0.2)
