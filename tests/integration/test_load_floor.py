"""The bare floor really is what it says: processes, hops and a script that answer."""

from __future__ import annotations

import psutil

from tests.load.client import Plan, run_apart
from tests.load.floor import RPC_SERVICES, Floor


def test_the_floor_answers_and_leaves_nothing_running() -> None:
    """Five processes, every request through all of them, and none is left afterwards."""
    with Floor() as floor:
        pids = floor.pids
        assert set(pids) == {*RPC_SERVICES, "redis", "gateway"}
        run = run_apart(Plan(floor.url, 50.0, [{"customer": index} for index in range(25)]))
    assert [sample.status for sample in run.samples] == [200] * 25
    assert all(sample.source == "floor" for sample in run.samples)
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
