"""Rules, dashboards and runbooks belong together, and promtool is content with what Prometheus reads."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.support.prometheus import MONITORING, ROOT, RULES, exported_metrics, metric_names, promtool

CLOUD_RULES = ROOT / "terraform" / "modules" / "monitoring" / "rules" / "cloud.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
BOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))


def cases_of(rules: Path) -> Path:
    return rules.with_name(f"{rules.stem}_test.yaml")


def alerts(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


ALERTS = alerts(RULES) + alerts(CLOUD_RULES)
PAGES = sorted(path for path in RUNBOOKS.glob("*.md") if path.stem != "README")


# -- rules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    """In the words that Prometheus, the chart and Cloud Monitoring take over, and with a page that says more."""
    assert alert["labels"]["severity"] in {"CRITICAL", "WARNING"}
    assert set(alert["annotations"]) == {"summary", "action", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/runbooks/{alert['alert']}.md"
    assert re.fullmatch(r"\d+s", alert["for"]), "Cloud Monitoring takes seconds"


def test_no_two_alerts_share_a_name() -> None:
    assert [name for name, count in Counter(alert["alert"] for alert in ALERTS).items() if count > 1] == []


@pytest.mark.parametrize("rules", [RULES, CLOUD_RULES], ids=lambda path: path.stem)
def test_every_alert_is_tested_both_ways(rules: Path) -> None:
    """There is a series on which it fires, and one on which it does not; neither of nothing at all."""
    told = Counter[tuple[str, bool]]()
    for each in yaml.safe_load(cases_of(rules).read_text())["tests"]:
        (asked,) = each["promql_expr_test"]
        assert each["input_series"]
        told[re.findall(r'alertname="(\w+)"', asked["expr"])[0], bool(asked["exp_samples"])] += 1
    names = [alert["alert"] for alert in alerts(rules)]
    assert set(told) == {(name, fires) for name in names for fires in (True, False)}


@pytest.mark.stack
def test_rules_fire_when_they_should() -> None:
    """Prometheus' own unit tests."""
    promtool("test", "rules", str(cases_of(RULES)), str(cases_of(CLOUD_RULES)))


@pytest.mark.stack
def test_prometheus_reads_rules_and_configuration() -> None:
    """Its linter finds nothing either."""
    promtool("check", "config", "--lint=all", "--lint-fatal", str(MONITORING / "prometheus.yaml"))
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES), str(CLOUD_RULES))


def test_prometheus_looks_where_the_services_tell() -> None:
    """Jobs, names and ports are those of compose, whose services keep their default ports."""
    jobs = {
        job["job_name"]: job for job in yaml.safe_load((MONITORING / "prometheus.yaml").read_text())["scrape_configs"]
    }
    serve = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())
    ports = {name: serve[name].get("metrics_port", serve[name]["port"]) for name in jobs}
    assert set(jobs) == {"gateway", "decision", "generator", "shield"}
    for name, job in jobs.items():
        (found,) = job["dns_sd_configs"]
        assert (found["names"], found["port"]) == ([name], ports[name])


# -- dashboards ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_knows(path: Path) -> None:
    """Grafana's own model reads it and loses nothing; its address never changes."""
    document = json.loads(path.read_text())
    assert json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder)) == document
    assert document["uid"] == f"churn-saver-{path.stem}"
    assert [variable["name"] for variable in document["templating"]["list"]] == ["datasource", "job", "instance"]
    for panel in document["panels"]:
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"
    cells = Counter(cell for panel in document["panels"] for cell in _cells(panel["gridPos"]))
    assert max(cells.values()) == 1, "charts lie on each other"
    assert max(x for x, _ in cells) < 24


def _cells(at: dict[str, int]) -> Iterator[tuple[int, int]]:
    return ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))


def test_rules_dashboards_and_runbooks_name_metrics_that_are_exported() -> None:
    """A renamed metric would silence its alert and empty its chart."""
    queries = [alert["expr"] for alert in alerts(RULES)]
    queries += [target["expr"] for path in BOARDS for target in _targets(path)]
    queries += [query for page in PAGES for query in promql(page)]
    names = {name for query in queries for name in metric_names(query)} - {"ALERTS"}
    assert len(names) > 40
    assert names - exported_metrics() == set()


def _targets(path: Path) -> Iterator[dict[str, Any]]:
    for panel in json.loads(path.read_text())["panels"]:
        yield from panel.get("targets", [])


# -- runbooks --------------------------------------------------------------------------------------------


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    names = {alert["alert"] for alert in ALERTS}
    assert {page.stem for page in PAGES} == names
    index = (RUNBOOKS / "README.md").read_text()
    assert set(re.findall(r"\]\((\w+)\.md\)", index)) == names
    for alert in ALERTS:
        assert alert["annotations"]["summary"] in index


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_tells_all_that_is_needed(page: Path) -> None:
    """What it means, how to confirm it, what to do first, when it is over, what to do afterwards; and it is short."""
    text = page.read_text()
    heads = ["**Confirm.**", "**First.**", "**Over.**", "**Afterwards.**"]
    assert [head for head in re.findall(r"^\*\*\w+\.\*\*", text, re.MULTILINE) if head in heads] == heads
    assert len(text.splitlines()) <= 45
    for linked in re.findall(r"\]\(([\w./]+\.md)\)", text):
        assert (RUNBOOKS / linked).exists(), linked


def test_no_page_promises_that_the_baseline_contacts_nobody() -> None:
    """FORCE_BASELINE makes the scorecard decide, which contacts people as well."""
    paragraphs = [part for page in [*PAGES, ROOT / "docs" / "DEPLOYMENT.md"] for part in told(page.read_text())]
    paragraphs += [alert["annotations"]["action"] for alert in ALERTS]
    named = [text for text in paragraphs if re.search(r"forceBaseline|FORCE_BASELINE", text)]
    assert named
    promise = re.compile(
        r"(stop|end)\w* (all )?contact|contacts? must stop|(contacts?|contacted) nobody|nobody is contacted"
    )
    assert [text for text in named if promise.search(text)] == []


def told(text: str) -> list[str]:
    """Paragraphs, each with the block of commands below it; of a table, its rows."""
    parts = re.split(r"\n\n(?!```)", text)
    return [each for part in parts for each in (part.splitlines() if part.startswith("|") else [part])]


def test_upgrades_on_the_spot_take_the_new_chart_s_values() -> None:
    """With --reuse-values alone, a chart that is newer than the release lacks its own defaults and fails."""
    lines = [line for _, line in COMMANDS if line.startswith("helm ") and " upgrade " in line]
    assert len(lines) > 4
    assert [line for line in lines if " --reset-then-reuse-values " not in line] == []
    for page in (ROOT / "docs").rglob("*.md"):
        assert " --reuse-values" not in page.read_text(), page


def code(page: Path) -> Iterator[str]:
    """Every command of a page: lines of blocks, and what stands in the text as code."""
    text = page.read_text()
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if kind == "sh":
            yield from block.splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose))


def promql(page: Path) -> Iterator[str]:
    for block in re.findall(r"^```promql\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        yield from block.splitlines()


COMMANDS = [
    *((page.stem, line) for page in [*PAGES, RUNBOOKS / "README.md"] for line in code(page)),
    *(
        (alert["alert"], found)
        for alert in ALERTS
        for found in re.findall(r"`([^`]+)`", alert["annotations"]["action"])
    ),
]


def test_lines_of_the_log_that_are_looked_for_are_written() -> None:
    """Each event that a page greps for is one that the code logs."""
    files = [path for folder in ("services", "churnsaver") for path in (ROOT / folder).rglob("*.py")]
    logged = {event for path in files for event in re.findall(r'"([a-z_]+\.[a-z_]+)"', path.read_text())}
    looked_for = {
        event for _, line in COMMANDS for event in re.findall(r"[a-z_]+\.[a-z_]+", line.partition("| grep ")[2])
    }
    assert len(looked_for) > 10
    assert looked_for - logged == set()


def test_kubectl_and_helm_name_the_namespace() -> None:
    """Typed in a hurry, into whatever context is current."""
    lines = [line for _, line in COMMANDS if re.match(r"(kubectl|helm) ", line)]
    assert len(lines) > 60
    assert [line for line in lines if " -n churn-saver " not in line and line != "helm rollback"] == []
