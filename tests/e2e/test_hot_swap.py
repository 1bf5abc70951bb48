"""From a trainer to every running service: published, verified, swapped, or refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from churnsaver.checkpoints import Checkpoint, open_checkpoint
from churnsaver.models.language_model import model_folder
from churnsaver.settings import load_serve_settings
from tests.e2e.conftest import CUSTOMERS, LOCAL, SCHEMA, Stack, take
from tests.load.variants import write_variant

pytestmark = pytest.mark.stack

SERVING_S = 5.0
REFUSED_S = 10.0
# Python and the libraries' arenas breathe; a checkpoint that stayed would be a hundred times this for the generator.
MEMORY_SLACK_MB = 20.0


def trained(kind: str) -> Checkpoint:
    """What `make test-stack` trained."""
    return open_checkpoint(LOCAL / "checkpoints" / "default" / kind, kind)


def serving(stack: Stack, service: str, kind: str) -> str:
    return str(stack.cli_json("status")["services"][service]["checkpoints"][kind])


def serves(stack: Stack, service: str, kind: str, version: str) -> bool:
    """Whether `version` serves within SERVING_S; read in the log, as asking the command takes a core meanwhile."""

    def is_last() -> bool:
        said = [
            line["version"]
            for line in log_of(stack, service)
            if line["event"] == "checkpoint.serving" and line["kind"] == kind
        ]
        return said[-1:] == [version]

    return until(is_last, SERVING_S) and serving(stack, service, kind) == version


def until(holds: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def traffic(stack: Stack, requests: list[dict[str, Any]]) -> Iterator[list[int]]:
    """Requests one after the other while the block runs; yields their status codes."""
    codes: list[int] = []
    stop = threading.Event()

    def send() -> None:
        for body in requests:
            if stop.is_set():
                return
            codes.append(stack.post(body).status_code)
            time.sleep(0.02)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield codes
    finally:
        stop.set()
        thread.join()


def log_of(stack: Stack, service: str) -> list[dict[str, Any]]:
    lines = (Path(stack.env["CHURN_SAVER_STATE_DIR"]) / "logs" / f"{service}.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_train_publish_serves_and_rolls_back(
    stack: Stack,
    bodies: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    """`train risk --publish` reaches decision and gateway while requests keep coming; `rollback` does, too."""
    before = serving(stack, "decision", "risk")
    train = ["train", "risk", "--quick", "--seed", "7", "--data", str(CUSTOMERS), "--schema", str(SCHEMA)]
    with traffic(stack, take(bodies, 200)) as codes:
        new = stack.cli_json(*train, "--out", str(tmp_path / "risk"), "--publish")["version"]
        assert new != before
        for service in ("decision", "gateway"):
            assert serves(stack, service, "risk", new)
        assert stack.cli_json("rollback", "risk")["version"] == before
        for service in ("decision", "gateway"):
            assert serves(stack, service, "risk", before)
    assert set(codes) == {200}
    releases = stack.cli_json("checkpoints", "risk")["kinds"]["risk"]["releases"]
    assert [release["aliases"] for release in releases] == [["champion"], ["previous"]]


def test_a_checkpoint_that_fails_its_golden_cases_never_serves(stack: Stack, tmp_path: Path) -> None:
    """It is published and signed, every pod refuses it with the reason, and the next good one serves."""
    policy = trained("policy")
    golden = policy.read_json("golden.json")
    golden["cases"][0]["probabilities"].reverse()
    write_variant(policy, 1, tmp_path / "bad", {"golden.json": json.dumps(golden).encode()})
    before = serving(stack, "decision", "policy")
    bad = stack.cli_json("publish", str(tmp_path / "bad"))["version"]

    def refused() -> bool:
        return any(
            line["event"] == "checkpoint.refused" and line["version"] == bad and "golden case 0" in line["reason"]
            for line in log_of(stack, "decision")
        )

    assert until(refused, REFUSED_S)
    assert serving(stack, "decision", "policy") == before
    good = write_variant(policy, 2, tmp_path / "good")
    stack.cli_json("publish", str(tmp_path / "good"))
    assert serves(stack, "decision", "policy", good)


def test_the_generator_swaps_its_model(
    stack: Stack,
    bodies: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Messages keep coming, from the former model's bank until the new one has written its own."""
    status = stack.cli_json("checkpoints", "generator")["kinds"]["generator"]["releases"][-1]
    settings = load_serve_settings().generator
    folder = model_folder(LOCAL / "models", settings.model, settings.quantization)
    model = open_checkpoint(folder, "generator")
    assert model.version == status["version"]
    new = write_variant(model, 1, tmp_path / "generator")
    with traffic(stack, take(bodies, 200)) as codes:
        stack.cli_json("publish", str(tmp_path / "generator"))
        assert serves(stack, "generator", "generator", new)
        riskiest = ["retain", "--csv", str(CUSTOMERS), "--schema", str(SCHEMA), "--limit", "100", "--riskiest"]
        answers = stack.cli_json(*riskiest)["answers"]
    assert set(codes) == {200}
    sources = [answer["message"]["source"] for answer in answers if answer["message"]]
    assert sources.count("bank") >= 0.9 * len(sources)


def test_memory_returns_after_ten_swaps(stack: Stack, tmp_path: Path) -> None:
    """What served before is gone once its requests are done."""
    policy, process = trained("policy"), psutil.Process(stack.pid("decision"))

    def swap(number: int) -> None:
        version = write_variant(policy, 100 + number, tmp_path / str(number))
        stack.cli_json("publish", str(tmp_path / str(number)))
        assert serves(stack, "decision", "policy", version)

    swap(0)
    before_mb = process.memory_info().rss / 2**20
    for number in range(1, 11):
        swap(number)
    assert process.memory_info().rss / 2**20 - before_mb < MEMORY_SLACK_MB
