"""The real stack of `churn-saver up`, on ports and in a folder of the test run's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from churnsaver.settings import load_schema
from cli.retain import request_body
from tests.conftest import free_port
from tests.support.registry import registry_environment
from trainers.data.customers import read_customers

ROOT = Path(__file__).resolve().parent.parent.parent
LOCAL = ROOT / ".churn-saver"
CUSTOMERS = LOCAL / "data" / "simulated" / "customers.csv"
SCHEMA = ROOT / "configs" / "schemas" / "default.yaml"


@dataclass
class Stack:
    """A stack and the environment that the command finds it with."""

    env: dict[str, str]
    url: str

    def cli(self, *words: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        return run_cli(*words, env=self.env, timeout_s=timeout_s)

    def cli_json(self, *words: str) -> Any:
        done = self.cli(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pid(self, service: str) -> int:
        return int(self.cli_json("status")["services"][service]["pid"])

    def post(self, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/retain", json=body, timeout=10.0)


def run_cli(*words: str, env: dict[str, str], timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *words]
    return subprocess.run(
        command, env={**os.environ, **env}, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def stack_environment(state_dir: Path, registry: Path) -> dict[str, str]:
    """Settings of a stack that meets no other one on this machine."""
    env = {
        "CHURN_SAVER_STATE_DIR": str(state_dir),
        **registry_environment(registry, LOCAL / "keys"),
        "CHURN_SAVER_EVENTS__EMBEDDED": f"127.0.0.1:{free_port()}",
        "CHURN_SAVER_GATEWAY__PORT": str(free_port()),
        "CHURN_SAVER_REDIS__URL": f"redis://127.0.0.1:{free_port()}/0",
        # A machine that is busy for a moment is not what tests of who decides are about.
        "CHURN_SAVER_GATEWAY__DEADLINE_MS": "1300",
        "CHURN_SAVER_GATEWAY__DECISION_TIMEOUT_MS": "1000",
    }
    for name in ("decision", "generator", "shield"):
        port = free_port()
        env[f"CHURN_SAVER_{name.upper()}__PORT"] = str(port)
        env[f"CHURN_SAVER_{name.upper()}__METRICS_PORT"] = str(free_port())
        env[f"CHURN_SAVER_ADDRESSES__{name.upper()}"] = f"127.0.0.1:{port}"
    return env


@pytest.fixture(scope="session")
def published() -> Path:
    """The registry that `make test-stack` filled before the tests; to be copied, not changed."""
    folder = LOCAL / "registry" / "default"
    if not (folder / "kinds" / "policy.json").exists():
        pytest.fail("nothing is trained and published; run `make test-stack`, which does so first")
    return folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, published: Path) -> Iterator[Stack]:
    """The stack, up and with a filled bank; nothing of it is left running afterwards."""
    root = tmp_path_factory.mktemp("stack")
    env = stack_environment(root / "state", shutil.copytree(published, root / "registry"))
    built = Stack(env, f"http://127.0.0.1:{env['CHURN_SAVER_GATEWAY__PORT']}")
    started = built.cli("up")
    assert started.returncode == 0, started.stderr
    yield built
    stopped = built.cli("down")
    assert stopped.returncode == 0, stopped.stderr


@pytest.fixture(scope="session")
def bodies() -> list[dict[str, Any]]:
    """Requests for simulated customers; every test takes its own, so that none meets a standing decision.

    It stands here, not in a module: a fixture that another module imports is made anew for it.
    """
    schema = load_schema(SCHEMA)
    made = [request_body(schema, row, seed=42) for row in read_customers(CUSTOMERS, schema)[:2000]]
    for body in made:
        body["customer"]["id"] = f"e2e-{body['customer']['id']}"  # not those whom `churn-saver retain` sends
    return made


def take(bodies: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    taken, bodies[:] = bodies[-count:], bodies[:-count]
    return taken
