"""`python -m tests.infra.cluster_report`: what chart and `launch` do on a real API server, into reports/cluster.json.

It runs the tests of them, and writes what they recorded: steps with their seconds, objects, revisions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITES = ("test_cluster.py", "test_launch.py", "test_chart_checkov.py")


class Recorder:
    """Collects what tests say with `record_property`."""

    def __init__(self) -> None:
        self.tests: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            name = report.nodeid.rpartition("/")[2]
            seconds = round(report.duration, 1)
            self.tests.append(
                {"test": name, "outcome": report.outcome, "seconds": seconds, **dict(report.user_properties)}
            )


def main() -> None:
    """Exit 1 where a test fails; the report says which."""
    recorder = Recorder()
    words = [str(ROOT / "tests" / "infra" / name) for name in SUITES]
    code = pytest.main([*words, "-m", "stack", "-p", "no:cacheprovider"], plugins=[recorder])
    report = {
        "command": "python -m tests.infra.cluster_report",
        "api_server": "v1.20.2",
        "passed": sum(each["outcome"] == "passed" for each in recorder.tests),
        "objects_accepted": sum(each.get("objects", 0) for each in recorder.tests),
        "tests": recorder.tests,
    }
    (ROOT / "reports" / "cluster.json").write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
