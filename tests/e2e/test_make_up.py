"""`make up` and `make down` as the README says them."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import ROOT, run_cli

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)


def stack_processes() -> dict[str, int]:
    status = json.loads(run_cli("status", "--json", env={}).stdout)
    return {name: service["pid"] for name, service in status["services"].items() if service["pid"]}


def runs(pid: int) -> bool:
    """Whether a process still runs; one that only waits for its parent to ask about it has ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_make_up_twice_and_down() -> None:
    """Twenty customers in a table, the URLs; the second time within 30 s; nothing left after `make down`."""
    first = make("up")
    try:
        assert first.returncode == 0, first.stderr
        assert "/docs" in first.stdout
        assert "of 20 contacted" in first.stdout
        started = time.monotonic()
        second = make("up")
        assert second.returncode == 0, second.stderr
        assert time.monotonic() - started <= 30.0
        pids = stack_processes()
        assert len(pids) == 6
    finally:
        down = make("down")
    assert down.returncode == 0, down.stderr
    assert not [name for name, pid in pids.items() if runs(pid)]
    assert stack_processes() == {}


def test_make_up_on_real_customers(telco_csv: Path) -> None:
    """The same on the Telco customers: trained on them, then 20 of them retained."""
    done = make("up", f"DATA={telco_csv}", "SCHEMA=configs/schemas/telco.yaml")
    try:
        assert done.returncode == 0, done.stderr
        assert "of 20 contacted" in done.stdout
        ids = telco_csv.read_text().splitlines()[1:]
        assert sum(f" {line.partition(',')[0]} " in done.stdout for line in ids) == 20
    finally:
        make("down")
