"""Debian's Prometheus: taken out of its package once, and run for a test on this machine alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import free_port

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"
RULES = MONITORING / "rules" / "services.yaml"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "churn-saver" / "tools" / "prometheus"


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`: this machine's own, else Debian's package, which is not installed."""
    if found := shutil.which(name):
        return found
    if not (CACHE / "usr" / "bin" / name).exists():
        _fetch()
    return str(CACHE / "usr" / "bin" / name)


def _fetch() -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("no prometheus is installed, and there is no apt-get to fetch Debian's package with")
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)  # apt reads and writes as a user of its own
        if _run("apt-get", "download", "prometheus", folder=folder).returncode:
            _run("apt-get", "update", folder=folder)  # a fresh machine knows no packages yet
            done = _run("apt-get", "download", "prometheus", folder=folder)
            assert done.returncode == 0, f"Debian's package prometheus cannot be fetched: {done.stderr}"
        (package,) = folder.glob("prometheus_*.deb")
        unpacked = folder / "unpacked"
        done = _run("dpkg", "-x", str(package), str(unpacked), folder=folder)
        assert done.returncode == 0, done.stderr
        if not CACHE.exists():  # another run may have been quicker
            unpacked.rename(CACHE)


def _run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


def promtool(*words: str) -> str:
    """What promtool says; it must be content."""
    done = _run(tool("promtool"), *words, folder=MONITORING)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metric_names(query: str) -> set[str]:
    """What a query reads; functions are followed by a bracket, labels stand in braces and after `by`."""
    bare = re.sub(r'\{[^}]*\}|\[[^\]]*\]|\b(by|on|ignoring|group_left)\s*\([^)]*\)|"[^"]*"', " ", query)
    return set(re.findall(r"\b[a-zA-Z_:]+_[a-zA-Z_:]+\b(?!\s*\()", bare))


def exported_metrics() -> set[str]:
    """What Prometheus would read from a process that has loaded the services' metrics and nothing of the tests'."""
    script = (
        "import churnsaver.telemetry\n"
        "import services.gateway.metrics, services.generator.metrics, services.shield.metrics\n"
        "from prometheus_client import REGISTRY\n"
        "for metric in REGISTRY.collect():\n"
        "    suffixes = {'counter': ['_total'], 'histogram': ['_bucket', '_sum', '_count']}.get(metric.type, [''])\n"
        "    for suffix in suffixes: print(metric.name + suffix)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30.0)

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant query; a query that is wrong or cannot be evaluated fails the test."""
        answer = self._client.get("/api/v1/query", params={"query": expr}).json()
        assert answer["status"] == "success", f"{expr}: {answer.get('error')}"
        if answer["data"]["resultType"] == "scalar":
            return [{"metric": {}, "value": answer["data"]["result"]}]
        series: list[dict[str, Any]] = answer["data"]["result"]
        return series

    def get(self, path: str) -> Any:
        return self._client.get(f"/api/v1/{path}").json()["data"]

    def close(self) -> None:
        self._client.close()


@contextmanager
def running_prometheus(folder: Path, targets: dict[str, str], rules: Path) -> Iterator[Prometheus]:
    """A Prometheus with monitoring/prometheus.yaml, but for where its jobs are found and how often it looks.

    Args:
        targets: host:port of each job.
        rules: the file of rules in place of its own.
    """
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(rules)]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    written = folder / "prometheus.yaml"
    written.write_text(yaml.safe_dump(config))
    port = free_port()
    command = [tool("prometheus"), f"--config.file={written}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, process, folder / "prometheus.log")
        prometheus = Prometheus(url)
        yield prometheus
        prometheus.close()
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/-/ready", timeout=1.0).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    pytest.fail(f"prometheus did not start: {log.read_text()[-2000:]}")
