"""The real stack, watched by a real Prometheus with our rules: dashboards show data, and an alert goes on and off."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
import yaml

from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as shield_pb2
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2_grpc as shield_grpc
from churnsaver.settings import load_schema
from cli.retain import request_body
from tests.e2e.conftest import CUSTOMERS, Stack
from tests.support.prometheus import MONITORING, ROOT, RULES, Prometheus, metric_names, running_prometheus
from trainers.data.customers import read_customers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

JOBS = ("gateway", "decision", "generator", "shield")
SCHEMA = ROOT / "configs" / "schemas" / "default.yaml"
DRAFT = "Hi {first_name}, thank you for being with us. Yours until {expiry}: {offer}. {opt_out}"
# Queries that find nothing while all is well and the embedded engine writes, by dashboard and title.
EMPTY_WHEN_WELL = {
    ("overview", "Alerts"): "nothing fires",
    ("overview", "Answers that are no success, by route and status"): "no request fails",
    ("decisions", "Baseline, by reason"): "the policy decides everything",
    ("models", "vLLM server"): "there is none",
    ("models", "vLLM's KV cache in use"): "there is none",
}


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes the stack, through which some customers went, each second; alerts wait for two seconds only."""
    folder = tmp_path_factory.mktemp("prometheus")
    rules = yaml.safe_load(RULES.read_text())
    for rule in alerts(rules):
        rule["for"] = "2s"
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    ports = {job: stack.env[f"CHURN_SAVER_{job.upper()}__METRICS_PORT"] for job in JOBS[1:]}
    ports["gateway"] = stack.env["CHURN_SAVER_GATEWAY__PORT"]
    targets = {job: f"127.0.0.1:{port}" for job, port in ports.items()}
    with running_prometheus(folder, targets, folder / "rules.yaml") as running:
        until(lambda: len(running.query("up == 1")) == len(JOBS), "every target is up")
        # Twice, so that counters are seen to grow.
        for number in (1, 2):
            send_customers(stack, number)
            time.sleep(3)
        yield running


def alerts(rules: dict[str, Any]) -> list[dict[str, Any]]:
    return [rule for group in rules["groups"] for rule in group["rules"]]


def send_customers(stack: Stack, number: int) -> None:
    """Decisions, a request asked twice, releases and outcomes of every kind, for customers of this round's own."""
    schema = load_schema(SCHEMA)
    made = [request_body(schema, row, seed=42) for row in read_customers(CUSTOMERS, schema)[:80]]
    for body in made:
        body["customer"]["id"] = f"watched-{number}-{body['customer']['id']}"
    answers = [stack.post(body).json() for body in [*made, made[0]]]
    contacted = [answer["decision_id"] for answer in answers if answer["decision"]["contact"]]
    assert len(contacted) >= 4
    with httpx.Client(base_url=stack.url, timeout=10.0) as client:
        for decision_id, outcome in zip(contacted, ("accepted", "ignored", "churned", "retained"), strict=False):
            client.post(f"/v1/decisions/{decision_id}/release")
            client.post("/v1/outcomes", json={"decision_id": decision_id, "outcome": outcome})
    # The bank is full, so nobody else has a draft reviewed.
    with grpc.insecure_channel(stack.env["CHURN_SAVER_ADDRESSES__SHIELD"]) as channel:
        draft = shield_pb2.ReviewRequest(text=DRAFT, stage=shield_pb2.STAGE_DRAFT, channel="sms", language="en")
        shield_grpc.ShieldServiceStub(channel).Review(draft, timeout=5.0)


def until(holds: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s:.0f} s: {what}"
        time.sleep(0.3)


def chart_queries() -> Iterator[tuple[str, str, str]]:
    """Dashboard, title and query of every chart, as Grafana would send it with everything chosen."""
    for path in sorted((MONITORING / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                expr = target["expr"].replace("$job", ".+").replace("$instance", ".+")
                yield path.stem, panel["title"], re.sub(r"\$__(rate_interval|range)", "1m", expr)


def page_queries() -> Iterator[tuple[str, str]]:
    """Page and query of every query in a runbook."""
    for path in sorted((ROOT / "docs" / "runbooks").glob("*.md")):
        for block in re.findall(r"^```promql\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            yield from ((path.stem, query) for query in block.splitlines())


@pytest.mark.parametrize("job", JOBS)
def test_every_service_is_scraped_and_says_what_it_is(prometheus: Prometheus, job: str) -> None:
    """The job's name is ours to give; the service says its own."""
    (series,) = prometheus.query(f'churn_saver_build_info{{job="{job}"}}')
    assert series["metric"]["service"] == job
    assert prometheus.query(f'process_start_time_seconds{{job="{job}"}}')


@pytest.mark.parametrize(("board", "title", "query"), list(chart_queries()))
def test_every_chart_shows_data(prometheus: Prometheus, board: str, title: str, query: str) -> None:
    """But for those that have nothing to show while all is well."""
    assert "$" not in query, "a variable that Grafana does not know"
    values = [float(series["value"][1]) for series in prometheus.query(query)]
    if (board, title) not in EMPTY_WHEN_WELL:
        assert [value for value in values if math.isfinite(value)], f"{query}: shows nothing"


@pytest.mark.parametrize(("page", "query"), list(page_queries()))
def test_every_query_of_a_runbook_can_be_asked(prometheus: Prometheus, page: str, query: str) -> None:
    """What it finds depends on the trouble; that it is a query does not."""
    prometheus.query(query)


def test_what_may_be_empty_is_there() -> None:
    """The list names no chart that is gone."""
    assert set(EMPTY_WHEN_WELL) <= {(board, title) for board, title, _ in chart_queries()}


def test_every_metric_that_is_named_is_exported(prometheus: Prometheus) -> None:
    """Rules and charts alike; what no series stands for yet has its type announced all the same."""
    exported = set(prometheus.get("label/__name__/values")) | set(prometheus.get("metadata"))
    queries = [rule["expr"] for rule in alerts(yaml.safe_load(RULES.read_text()))]
    queries += [query for _, _, query in chart_queries()]
    assert {name for query in queries for name in metric_names(query)} - exported == set()


def test_every_rule_is_evaluated_and_no_alert_fires(prometheus: Prometheus) -> None:
    """On a stack that is well, whatever the order in which tests run: alerts of the minutes before may go out first."""
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(alerts(yaml.safe_load(RULES.read_text())))
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    until(lambda: firing(prometheus) == set(), f"no alert fires, but {firing(prometheus)}", 60.0)


def firing(prometheus: Prometheus) -> set[str]:
    return {series["metric"]["alertname"] for series in prometheus.query('ALERTS{alertstate="firing"}')}


def test_the_kill_switch_fires_its_alert_and_takes_it_back(stack: Stack, prometheus: Prometheus) -> None:
    """What a person does is what an alert says, and only while it is so."""
    stack.cli_json("kill", "on", "--reason", "test of the alert")
    until(lambda: "KillSwitchOn" in firing(prometheus), "KillSwitchOn fires")
    stack.cli_json("kill", "off", "--reason", "test of the alert")
    until(lambda: "KillSwitchOn" not in firing(prometheus), "KillSwitchOn is over")
