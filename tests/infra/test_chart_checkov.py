"""Checkov on everything that the chart renders."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.chart import CHART, EVERYTHING, FILES, INGRESS, render, values_of

SKIPPED = CHART / "ci" / "checkov.yaml"

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


def test_checkov_finds_what_is_explained_and_no_more(checkov: Path, tmp_path: Path) -> None:
    """For every values file, as it is and with all that can be on; a skip that nothing needs is a fault too."""
    for installation in FILES:
        for name, more in (("plain", {}), ("everything", EVERYTHING), ("ingress", INGRESS)):
            found = render(values_of(installation, more))
            for each in found:
                each["metadata"]["namespace"] = "retain"  # as Helm does when it installs
            (tmp_path / f"{installation}-{name}.yaml").write_text(yaml.safe_dump_all(found))
    words = [checkov, "--directory", tmp_path, "--framework", "kubernetes", "--skip-download", "--output", "json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 5000
    assert report["summary"]["parsing_errors"] == 0
    skipped = set(yaml.safe_load(SKIPPED.read_text())["skip-check"])
    failed = {each["check_id"]: each["check_name"] for each in report["results"]["failed_checks"]}
    assert failed.keys() == skipped, failed


def test_every_skip_is_explained() -> None:
    """The lines above say why, for one or for several."""
    _, skips = SKIPPED.read_text().split("skip-check:\n")
    assert re.fullmatch(r"((  # .*\n)+(  - CKV\w+\n)+)+", skips)
