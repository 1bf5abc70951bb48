"""docker-compose.yaml for real: telco customers through all containers, upgrades under load, and what was recorded."""

from __future__ import annotations

import asyncio
import csv
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from churnsaver.rpc.channels import open_channel
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as decision_pb2
from churnsaver.settings import load_schema, load_world
from services.gateway.downstream import GrpcDecision
from tests.conftest import free_port
from tests.load.audit import Exchange, audit
from tests.load.chaos import read_records
from tests.load.containers import RETURN_AFTER_S, UPGRADE_S, Load, new_customers, upgrade_under_load
from tests.load.customers import returning
from tests.load.processes import wait_until
from tests.support.containers import REPLICAS, ROOT, SERVICES, Project

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

RATE_RPS = 20.0
TELCO = ROOT / "configs" / "schemas" / "telco.yaml"
ONCE = {"trainer", "kill-switch"}


@dataclass
class Containers:
    """The running project, and everything that it was asked about customers."""

    project: Project
    telco_csv: Path
    exchanges: list[Exchange] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.new = new_customers(self.telco_csv, TELCO, "new", 42)
        # They come back, as exact retries and as others' requests, so that nobody is contacted twice.
        regulars = new_customers(self.telco_csv, TELCO, "regular", 42)
        self.returning = returning(regulars, after=round(RATE_RPS * RETURN_AFTER_S), seed=42)

    def send(self, seconds: float) -> list[Exchange]:
        """Requests about new customers; others get their standing decision, whatever changed since."""
        exchanges = Load(self.project, self.new, RATE_RPS, seconds).finish()
        self.exchanges += exchanges
        return exchanges

    def replies(self, path: str, number: int = 8) -> list[httpx.Response]:
        """Answers to the same question, from both replicas."""
        found = [httpx.get(f"{self.project.url}{path}", timeout=5.0) for _ in range(number)]
        assert {each.headers["x-served-by"] for each in found} == set(REPLICAS)
        return found

    def models(self) -> list[dict[str, dict[str, dict[str, str]]]]:
        """What every service serves, as each replica sees it."""
        return [each.json() for each in self.replies("/v1/models")]


@pytest.fixture(scope="module")
def containers(images: dict[str, str], telco_csv: Path) -> Iterator[Containers]:
    """Everything up and healthy, trained on real customers; nothing of it is left afterwards."""
    settings = {"DATA": str(telco_csv), "SCHEMA": str(TELCO), "CHURN_SAVER_PSEUDONYM_KEY": "of-this-test"}
    project = Project(images, "churn-saver-test", free_port(), **settings)
    try:
        project.compose("up", "--wait", "--wait-timeout", "600")
        yield Containers(project, telco_csv)
    finally:
        project.close()


def test_everything_is_healthy(containers: Containers) -> None:
    """After `up --wait` every service is healthy, and what runs once has ended well."""
    states = {name: each["State"] for name, each in containers.project.containers().items()}
    assert set(states) == {*REPLICAS, *SERVICES[1:], "balancer", "redis", "pubsub", *ONCE}
    assert {name: state["Health"]["Status"] for name, state in states.items() if name not in ONCE} == dict.fromkeys(
        set(states) - ONCE, "healthy"
    )
    assert {name: state["ExitCode"] for name, state in states.items() if name in ONCE} == dict.fromkeys(ONCE, 0)


def test_containers_can_do_next_to_nothing(containers: Containers) -> None:
    """As the kernel sees it: another user than root, no capability, no way to more; a root that cannot be written."""
    script = "cat /proc/1/status; touch /x 2>&1; touch /tmp/x"
    for service in (*REPLICAS, "decision", "generator", "shield", "redis", "pubsub", "balancer"):
        said = containers.project.compose("exec", "--no-TTY", service, "sh", "-c", script)
        facts = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
        assert facts["Uid"].split() == ["10001"] * 4, service
        assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0, service
        assert facts["NoNewPrivs"] == "1", service
        assert "'/x': Read-only file system" in said, service


def test_one_port_is_open(containers: Containers) -> None:
    """The balancer's, on this machine only."""
    published = {
        (name, binding["HostIp"])
        for name, each in containers.project.containers().items()
        for bindings in each["NetworkSettings"]["Ports"].values()
        for binding in bindings or []
    }
    assert published == {("balancer", "127.0.0.1")}


def test_telco_customers_are_retained(containers: Containers) -> None:
    """The command in a container sends real customers: the policy decides, and the text is from bank or template."""
    assert all(each[name] for each in containers.models() for name in SERVICES)
    words = ("--csv", "/data/customers.csv", "--schema", "/data/schema.yaml", "--url", "http://balancer:8080")
    answers = json.loads(containers.project.cli("retain", *words, "--limit", "40", "--riskiest", "--json"))["answers"]
    check_mostly_policy((each["mode"], each["baseline_reason"]) for each in answers)
    contacted = [each for each in answers if each["decision"]["contact"]]
    assert contacted
    assert {each["message"]["source"] for each in contacted} <= {"bank", "template"}
    assert {each["safety"]["verdict"] for each in contacted} == {"pass"}


# Fields of a record's contact state that the decision service knows by another name; `budget_shared` is only told.
ASKED_AS = {"opted_out": "do_not_contact", "arm_budget_cents": "budget_cents"}


def test_decisions_are_replayable(containers: Containers) -> None:
    """The record alone, given to the decision service again, leads to the same action, risk and mask."""
    exchanges = containers.send(3.0)
    records = asyncio.run(records_of(containers, exchanges))
    by_policy = [record for record in records.values() if record["mode"] == "policy"]
    assert len(by_policy) > 30

    async def replay() -> None:
        channel, champion = (
            open_channel(f"{containers.project.address('decision')}:8101"),
            decision_pb2.POLICY_NAME_UNSPECIFIED,
        )
        for record in by_policy:
            state = record["contact_state"]
            contact = decision_pb2.ContactState(
                **{ASKED_AS.get(name, name): value for name, value in state.items() if name != "budget_shared"}
            )
            again = await GrpcDecision(channel).decide(record["features"], contact, record["seed"], champion, 5.0)
            assert again.action == record["action"]["index"]
            assert again.risk == record["risk"]
            assert list(again.mask_reasons) == record["mask_reasons"]
            assert dict(again.sha256) == record["sha256"]
        await channel.close()

    asyncio.run(replay())


def test_kill_switch_flips_every_replica(containers: Containers) -> None:
    """Set by the route, it is what both replicas know; requests are answered with the baseline until it is off."""
    found = {}
    for state in ("on", "off"):
        switch = {"state": state, "reason": "this test"}
        assert httpx.put(f"{containers.project.url}/v1/kill-switch", json=switch, timeout=5.0).is_success
        time.sleep(0.5)
        assert {each.json()["state"] for each in containers.replies("/v1/kill-switch")} == {state}
        found[state] = Counter((each.sample.mode, each.sample.reason) for each in containers.send(2.0))
    assert found["on"] == {("baseline", "kill_switch"): 40}
    assert found["off"][("baseline", "kill_switch")] == 0
    check_mostly_policy(found["off"].elements())


def test_published_checkpoint_serves_on_every_replica(containers: Containers) -> None:
    """A model that is trained in a container reaches every process that follows it, by the registry's volume."""
    before = containers.models()[0]["gateway"]["risk"]["version"]
    data = ("--data", "/data/customers.csv", "--schema", "/data/schema.yaml", "--out", "/var/lib/churn-saver/risk-7")
    words = ("train", "risk", "--quick", "--seed", "7", *data, "--publish", "--json")
    trained = json.loads(containers.project.cli(*words))["version"]
    assert trained != before

    def served() -> bool:
        seen = containers.models()
        return {each[name]["risk"]["version"] for each in seen for name in ("gateway", "decision")} == {trained}

    wait_until(served, "the new risk model on every replica", 10.0)
    assert json.loads(containers.project.cli("rollback", "risk", "--json"))["version"] == before


@pytest.mark.parametrize("service", SERVICES)
def test_upgrade_fails_no_request(containers: Containers, service: str) -> None:
    """`make compose-upgrade` replaces a service by another build of it while requests keep coming."""
    names = REPLICAS if service == "gateway" else (service,)
    before = containers.project.containers()
    upgrade = upgrade_under_load(containers.project, service, containers.returning, RATE_RPS)
    containers.exchanges += upgrade.exchanges
    assert Counter(each.sample.status for each in upgrade.exchanges) == {200: round(RATE_RPS * UPGRADE_S[service])}
    check_mostly_policy((each.sample.mode, each.sample.reason) for each in upgrade.exchanges[-40:])
    after = containers.project.containers()
    for name in names:
        assert after[name]["Id"] != before[name]["Id"]
        assert after[name]["Image"] != before[name]["Image"]
    unchanged = set(after) - set(names)
    assert {name: after[name]["Id"] for name in unchanged} == {name: before[name]["Id"] for name in unchanged}


def test_service_restart_is_survived(containers: Containers) -> None:
    """While decision restarts, the scorecard answers; then the policy does again."""
    load = Load(containers.project, containers.returning, RATE_RPS, 20.0)
    time.sleep(2.0)
    containers.project.compose("restart", "decision")
    exchanges = load.finish()
    containers.exchanges += exchanges
    assert all(each.sample.ok for each in exchanges)
    assert {each.sample.reason for each in exchanges} <= {None, "decision_unavailable", "deadline"}
    check_mostly_policy((each.sample.mode, each.sample.reason) for each in exchanges[-40:])


def test_nobody_was_contacted_twice(containers: Containers) -> None:
    """After all of that: every answer has its record, the same as was told, and no rule of contact was broken."""
    assert len(containers.exchanges) > 2000
    records = asyncio.run(records_of(containers, containers.exchanges))
    properties = audit(containers.exchanges, records, load_world(), load_schema(TELCO))
    assert [each for each in properties if not each.holds] == []
    contacts = next(each for each in properties if "contacted twice" in each.name)
    assert contacts.checked > 20


def test_stack_comes_back_with_what_it_knew(containers: Containers) -> None:
    """`down` and `up` again: nothing is trained, records and the kill switch are as they were."""
    exchange = next(each for each in containers.exchanges if each.sample.contact)
    record = httpx.get(f"{containers.project.url}/v1/decisions/{exchange.decision_id}").json()
    switch = {"state": "on", "scope": "no_contact", "reason": "closing time"}
    assert httpx.put(f"{containers.project.url}/v1/kill-switch", json=switch, timeout=5.0).is_success
    releases = json.loads(containers.project.cli("checkpoints", "--json"))
    containers.project.compose("down")
    containers.project.compose("up", "--wait", "--wait-timeout", "300")
    assert httpx.get(f"{containers.project.url}/v1/decisions/{exchange.decision_id}").json() == record
    assert json.loads(containers.project.cli("checkpoints", "--json")) == releases
    assert {each.json()["reason"] for each in containers.replies("/v1/kill-switch")} == {"closing time"}
    assert not any(each.sample.contact for each in containers.send(1.0))


def test_other_customers_need_another_registry(containers: Containers) -> None:
    """Another schema than what is served is refused by the trainer, before anything is trained."""
    other = {"SCHEMA": str(ROOT / "configs/schemas/default.yaml")}
    said = containers.project.compose("run", "--rm", "--no-TTY", "trainer", fails=True, **other)
    assert "SCHEMA: another one than this registry's models were trained for" in said
    assert "docker compose down --volumes" in said


def test_missing_data_is_named(containers: Containers, tmp_path: Path) -> None:
    """A path that is not there is refused and not made."""
    said = containers.project.compose("run", "--rm", "--no-TTY", "trainer", fails=True, DATA=str(tmp_path / "none.csv"))
    assert str(tmp_path / "none.csv") in said
    assert not (tmp_path / "none.csv").exists()


def test_wrong_data_is_named(images: dict[str, str], telco_csv: Path, tmp_path: Path) -> None:
    """A CSV that does not follow the schema ends `up` with the file, the row and the column; no service starts."""
    with telco_csv.open(newline="") as file:
        rows = list(csv.reader(file))
    rows[3][rows[0].index("tenure")] = "soon"
    broken = tmp_path / "broken.csv"
    with broken.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    tmp_path.chmod(0o755)
    project = Project(images, "churn-saver-broken", free_port(), DATA=str(broken), SCHEMA=str(TELCO))
    try:
        said = project.compose("up", "--wait", fails=True)
        assert 'service "trainer" didn\'t complete successfully: exit 2' in said
        log = project.compose("logs", "--no-log-prefix", "trainer")
        assert "customers.csv" in log
        assert "row 4" in log
        assert "tenure" in log
        assert project.containers()["gateway-1"]["State"]["Status"] == "created"
    finally:
        project.close()


@pytest.mark.parametrize("given", ["BIND", "CHURN_SAVER_PSEUDONYM_KEY"])
def test_opening_it_to_others_needs_a_key(docker: dict[str, str], given: str) -> None:
    """Without an address or a secret of one's own, compose/open.yaml refuses and says what is missing."""
    files = ("--file", "docker-compose.yaml", "--file", "compose/open.yaml")
    project = Project(docker, "churn-saver-open", 8080, **{given: "10.0.0.5"})
    (missing,) = {"BIND", "CHURN_SAVER_PSEUDONYM_KEY"} - {given}
    said = project.compose(*files, "config", "--quiet", fails=True)
    assert f"required variable {missing} is missing a value: is the" in said
    both = {"BIND": "10.0.0.5", "CHURN_SAVER_PSEUDONYM_KEY": "secret"}
    config = json.loads(project.compose(*files, "config", "--format", "json", **both))
    assert [each["host_ip"] for each in config["services"]["balancer"]["ports"]] == ["10.0.0.5"]


def test_monitoring_profile_is_valid(docker: dict[str, str]) -> None:
    """Its images cannot be pulled here, so it is only read: two services more, nothing else changed."""
    project = Project(docker, "churn-saver-monitoring", 8080)
    plain = json.loads(project.compose("config", "--format", "json"))["services"]
    more = json.loads(project.compose("--profile", "monitoring", "config", "--format", "json"))["services"]
    assert set(more) - set(plain) == {"prometheus", "grafana"}
    assert {name: more[name] for name in plain} == plain


async def records_of(containers: Containers, exchanges: list[Exchange]) -> dict[str, Any]:
    """The record of every decision that was told."""
    ids = sorted({each.decision_id for each in exchanges if each.decision_id is not None})
    return dict(await read_records(containers.project.url, ids))


def check_mostly_policy(answers: Iterable[tuple[str, str | None]]) -> None:
    """That the policy decides: on two busy cores, one request in twenty may miss its deadline."""
    found = Counter(answers)
    assert found["policy", None] >= 0.95 * found.total() > 0, found
