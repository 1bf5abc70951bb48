"""The gateway, the decision service and the shield as processes, without a generator; the command against them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from services.gateway.ledger import opt_out_key
from tests.conftest import RedisServer, free_port
from tests.e2e.conftest import ROOT, run_cli, stack_environment
from tests.support.registry import Yard, publish_all

SERVICES = ("decision", "shield", "gateway")
READY_WITHIN_S = 120.0  # a machine that is busy with other tests takes its time
EXAMPLE = json.loads((ROOT / "examples" / "retain.json").read_text())


@dataclass
class Mesh:
    """Processes that know each other, and the environment that the command finds them with."""

    env: dict[str, str]
    customers: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.env['CHURN_SAVER_GATEWAY__PORT']}"

    @contextmanager
    def running(self, service: str, **more: str) -> Iterator[None]:
        """A service, until it is stopped as Kubernetes does; it must end by itself, without an error.

        It writes where the test does: pytest shows that where one fails.
        """
        command = [sys.executable, "-m", f"services.{service}"]
        with subprocess.Popen(command, env={**os.environ, **self.env, **more}, cwd=ROOT) as process:
            try:
                yield
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=30)
            finally:
                process.kill()  # nothing happens where it has ended
        assert process.returncode == 0

    def wait(self, *services: str) -> None:
        """Until the gateway is ready and these services say what they serve."""
        end = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < end:
            try:
                serving = httpx.get(f"{self.url}/v1/models").json()
                if httpx.get(f"{self.url}/readyz").is_success and all(serving[name] for name in services):
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.1)
        raise AssertionError(f"not everything became ready in {READY_WITHIN_S:.0f} s")

    def retain(self, name: str) -> dict[str, Any]:
        body = {**EXAMPLE, "request_id": name, "customer": {**EXAMPLE["customer"], "id": name}}
        answer = httpx.post(f"{self.url}/v1/retain", json=body, timeout=10)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def settings(yard: Yard, state: Path, redis_url: str) -> dict[str, str]:
    """Those of a stack of the test's own, with this registry."""
    return {**stack_environment(state, yard.folder), **yard.environment(), "CHURN_SAVER_REDIS__URL": redis_url}


@pytest.fixture(scope="module")
def yard(decision_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return publish_all(decision_checkpoints, tmp_path_factory.mktemp("yard"))


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def mesh(
    yard: Yard, redis: RedisServer, decision_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mesh]:
    """All but the generator, with the kill switch off."""
    found = Mesh(settings(yard, tmp_path_factory.mktemp("state"), redis.url), decision_checkpoints / "customers.csv")
    with ExitStack() as processes:
        for service in SERVICES:
            processes.enter_context(found.running(service))
        found.wait("decision", "shield")
        yield found


def test_answers_without_a_generator(mesh: Mesh) -> None:
    """The policy decides, the shield passes the approved text; the record says by which models."""
    assert run_cli("kill", "off", "--reason", "test", "--url", mesh.url, env=mesh.env).returncode == 0
    answers = [mesh.retain(f"alone-{number}") for number in range(12)]
    assert {answer["mode"] for answer in answers} == {"policy"}
    contacted = [answer for answer in answers if answer["decision"]["contact"]]
    assert contacted, "a dozen customers, and nobody is contacted"
    assert {answer["message"]["source"] for answer in contacted} == {"template"}
    record = httpx.get(f"{mesh.url}/v1/decisions/{answers[0]['decision_id']}").json()
    assert record["versions"]["policy"] == answers[0]["versions"]["policy"]
    serving = httpx.get(f"{mesh.url}/v1/models").json()
    assert serving["gateway"]["risk"]["version"] == answers[0]["versions"]["risk"]
    assert serving["decision"].keys() >= {"risk", "acceptance", "policy"}


def test_idle_connections_are_kept(mesh: Mesh) -> None:
    """A load balancer that comes back to one finds it open: closing it is the balancer's part."""
    with httpx.Client(base_url=mesh.url, limits=httpx.Limits(keepalive_expiry=60)) as client:
        opened = client.get("/healthz").extensions["network_stream"].get_extra_info("client_addr")
        time.sleep(6)  # uvicorn's own default is 5
        reused = client.get("/healthz").extensions["network_stream"].get_extra_info("client_addr")
    assert opened == reused


def test_retain_command(mesh: Mesh) -> None:
    """A CSV goes through, riskiest first, as a table and as JSON."""
    words = ["retain", "--csv", str(mesh.customers), "--limit", "3", "--riskiest", "--url", mesh.url]
    table = run_cli(*words, env={**mesh.env, "COLUMNS": "200"})
    assert table.returncode == 0, table.stderr
    assert "of 3 contacted" in table.stdout
    answers = json.loads(run_cli(*words, "--json", env=mesh.env).stdout)["answers"]
    risks = [answer["decision"]["risk"] for answer in answers]
    assert len(risks) == 3
    assert min(risks) > 0.5, "the riskiest of 1,500 are likelier to leave than to stay"


def test_kill_command(mesh: Mesh) -> None:
    """On with nobody contacted, shown, off again; each is what the gateway then does."""
    where = ["--url", mesh.url]
    assert run_cli("kill", "on", "--no-contact", "--reason", "drill", *where, env=mesh.env).returncode == 0
    answer = mesh.retain("killed")
    assert (answer["mode"], answer["baseline_reason"]) == ("baseline", "kill_switch")
    assert answer["decision"]["contact"] is False
    known = json.loads(run_cli("kill", "status", "--json", *where, env=mesh.env).stdout)
    assert (known["state"], known["scope"], known["reason"]) == ("on", "no_contact", "drill")
    assert run_cli("kill", "off", "--reason", "over", *where, env=mesh.env).returncode == 0
    assert mesh.retain("alive")["mode"] == "policy"


def test_facts_from_elsewhere_reach_the_ledger(mesh: Mesh, redis: RedisServer) -> None:
    """What DEPLOYMENT.md says of a backup: lines for the journal, and the command that closes the ledger."""
    page = (ROOT / "docs" / "DEPLOYMENT.md").read_text()
    (program,) = re.findall(r"exec churn-saver-gateway-0 -- python -c '(.*)'$", page, re.MULTILINE)
    with (Path(mesh.env["CHURN_SAVER_STATE_DIR"]) / "gateway" / "facts.jsonl").open("a") as file:
        file.write('{"opt_out": "from-a-copy"}\n')
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **mesh.env}, cwd=ROOT, check=True)
    with Redis.from_url(redis.url) as client:
        end = time.monotonic() + 10
        while not client.exists("cs:generation") and time.monotonic() < end:
            time.sleep(0.1)
        assert client.exists("cs:generation")
        assert client.exists(opt_out_key("from-a-copy"))


def test_smoke(mesh: Mesh) -> None:
    """What the pipeline asks a new release: it notices that no generator serves."""
    words = [sys.executable, "tools/smoke.py", mesh.url, "examples/retain.json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nothing serves in generator" in done.stderr


def test_commands_say_what_they_cannot_reach(mesh: Mesh) -> None:
    """Nobody there, and somebody who is no gateway: exit 2 with the mend."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    for words in (["kill", "status"], ["retain", "--csv", str(mesh.customers), "--limit", "1"]):
        done = run_cli(*words, "--url", nowhere, env=mesh.env)
        assert done.returncode == 2
        assert "run `churn-saver up`" in done.stderr
    metrics = f"http://127.0.0.1:{mesh.env['CHURN_SAVER_SHIELD__METRICS_PORT']}"
    done = run_cli("kill", "status", "--url", metrics, env=mesh.env)
    assert done.returncode == 2
    assert "check --url" in done.stderr


def test_status_and_down_of_a_stack_that_is_not_there(mesh: Mesh) -> None:
    """What others started is not shown as ours, and not stopped."""
    shown = json.loads(run_cli("status", "--json", env=mesh.env).stdout)["services"]
    assert shown.keys() == {"gateway", "decision", "generator", "shield", "redis", "pubsub"}
    assert {service["pid"] for service in shown.values()} == {None}
    assert "nothing was running" in run_cli("down", env=mesh.env).stdout
    mesh.wait()


def test_up_names_a_port_that_is_taken(mesh: Mesh) -> None:
    """The mesh's Redis is not this stack's, so nothing is started."""
    done = run_cli("up", env=mesh.env)
    assert done.returncode == 2
    assert mesh.env["CHURN_SAVER_REDIS__URL"].rpartition(":")[2].partition("/")[0] in done.stderr
    assert json.loads(run_cli("status", "--json", env=mesh.env).stdout)["services"]["redis"]["pid"] is None


def test_gateway_alone_answers_with_the_baseline(yard: Yard, tmp_path: Path) -> None:
    """No Redis, no service, an unknown switch: 200, nobody contacted, and the record waits on the disk."""
    alone = Mesh(settings(yard, tmp_path / "state", f"redis://127.0.0.1:{free_port()}/0"), tmp_path)
    with alone.running("gateway"):
        alone.wait()
        answer = alone.retain("alone")
    assert answer["mode"] == "baseline"
    assert answer["decision"]["contact"] is False
    assert answer["decision_id"] in (tmp_path / "state" / "gateway" / "unsent.jsonl").read_text()


def test_forced_baseline_wins(yard: Yard, redis: RedisServer, tmp_path: Path) -> None:
    """FORCE_BASELINE=1 at the start, whatever the switch says."""
    forced = Mesh(settings(yard, tmp_path / "state", redis.url), tmp_path)
    with forced.running("gateway", FORCE_BASELINE="1"):
        forced.wait()
        assert forced.retain("forced")["baseline_reason"] == "force_baseline"


def test_port_in_use_stops_the_start(mesh: Mesh) -> None:
    """Exit 2 with the address and the mend."""
    command, env = [sys.executable, "-m", "services.gateway"], {**os.environ, **mesh.env}
    second = subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=READY_WITHIN_S, check=False
    )
    assert second.returncode == 2
    assert "CHURN_SAVER_GATEWAY__PORT" in second.stderr
