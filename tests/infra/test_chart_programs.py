"""What the chart's Jobs and probes run, run for real."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from churnsaver.errors import RegistryError, SettingsError
from churnsaver.preflight import check
from churnsaver.rpc.probe import serves
from tests.conftest import free_port
from tests.support.chart import CHART
from tests.support.registry import Yard


class FakeGateway(ThreadingHTTPServer):
    """Answers like the gateway, with what a test says, and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.switch: dict[str, Any] = {"state": "unknown"}
        self.models: dict[str, Any] = {name: {"risk": {}} for name in ("gateway", "decision", "generator", "shield")}


class Handler(BaseHTTPRequestHandler):
    server: FakeGateway

    def do_GET(self) -> None:
        answers = {"/v1/kill-switch": self.server.switch, "/v1/models": self.server.models, "/readyz": {}}
        self._answer(answers[self.path])

    def do_PUT(self) -> None:
        self.server.switch = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._answer(self.server.switch)

    def _answer(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    with FakeGateway() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GATEWAY", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(time, "sleep", lambda _: None)
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


def test_install_leaves_a_switch_that_somebody_set(gateway: FakeGateway) -> None:
    """An operator's `on` outlives a release that is installed again."""
    gateway.switch = {"state": "on", "reason": "theirs"}
    run("set_kill_switch.py")
    assert gateway.switch == {"state": "on", "reason": "theirs"}


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
