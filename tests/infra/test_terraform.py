"""Terraform by Terraform itself, against the real provider's schema: no cloud is called."""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from churnsaver.settings import read_yaml
from tests.support.prometheus import exported_metrics, metric_names

ROOT = Path(__file__).resolve().parents[2]
MIRROR = ROOT.parent / "shared" / "tools" / "terraform" / "mirror.sh"
TOOLS = ROOT / ".churn-saver" / "tools"
CHART = ROOT / "charts" / "churn-saver" / "values.yaml"
GIVEN = ["-var=project_id=example-project", '-var=alert_emails=["on-call@example.com"]']
# Nothing is asked of the network, and nothing is read from the caller's home.
OFFLINE = {"TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env={**os.environ, **OFFLINE}, capture_output=True, text=True, timeout=200, check=False
    )


def succeed(*words: str, folder: Path) -> str:
    done = run(*words, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of `terraform/`, initialised with the mirror's provider and with state on the disk."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed")
    if not MIRROR.exists():
        pytest.skip("the offline google provider is not here (../shared/tools/terraform/mirror.sh)")
    mirror = TOOLS / "terraform-mirror"
    succeed(str(MIRROR), str(mirror), folder=ROOT)
    # A lock file names the hashes of Google's own provider.
    ignored = shutil.ignore_patterns(".terraform", ".terraform.lock.hcl", "*.tfstate*")
    folder = shutil.copytree(ROOT / "terraform", tmp_path_factory.mktemp("infra") / "terraform", ignore=ignored)
    for environment in ("dev", "prod"):
        (folder / "environments" / environment / "backend_override.tf").write_text(
            'terraform {\n  backend "local" {}\n}\n'
        )
    for module in (folder, folder / "environments" / "dev", folder / "environments" / "prod"):
        succeed("terraform", "init", "-input=false", "-no-color", f"-plugin-dir={mirror}", folder=module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_GOOGLE_SCHEMA", str(_schema_of_what_is_used(folder)))
        yield folder


def _schema_of_what_is_used(folder: Path) -> Path:
    """The provider's schema without the types that no file names: Terraform starts it often, and reads all of it."""
    schema = json.loads(gzip.decompress((MIRROR.parent / "google-8.7.0-schema.json.gz").read_bytes()))
    used = {name for path in folder.rglob("*.tf") for name in re.findall(r'"(google_\w+)"', path.read_text())}
    for part in ("resources", "data_sources"):
        schema[part] = {name: block for name, block in schema[part].items() if name in used}
    small = folder.parent / "schema.json.gz"
    small.write_bytes(gzip.compress(json.dumps(schema).encode()))
    return small


@pytest.fixture(scope="module", params=["dev", "prod"])
def environment(request: pytest.FixtureRequest, copy: Path) -> Path:
    return copy / "environments" / request.param


@functools.cache
def plan(environment: Path) -> dict[str, Any]:
    """The plan of a whole new environment."""
    succeed("terraform", "plan", "-input=false", "-no-color", "-out=all.tfplan", *GIVEN, folder=environment)
    document: dict[str, Any] = json.loads(succeed("terraform", "show", "-json", "all.tfplan", folder=environment))
    return document


def test_formatted(copy: Path) -> None:
    """`terraform fmt` would change nothing."""
    succeed("terraform", "fmt", "-check", "-recursive", "-diff", folder=copy)


def test_valid(environment: Path) -> None:
    """Every block, attribute and type is one that the provider knows."""
    succeed("terraform", "validate", "-no-color", folder=environment)


def test_plan_makes_everything_anew(environment: Path) -> None:
    """An empty project gets all of it, and nothing is read from or changed in another one."""
    actions = {tuple(change["change"]["actions"]) for change in plan(environment)["resource_changes"]}
    assert actions == {("create",), ("read",)}
    # The public half of the key that signs images, once the key is there.
    read = {change["type"] for change in plan(environment)["resource_changes"] if change["mode"] == "data"}
    assert read == {"google_kms_crypto_key_version"}
    projects = {change["change"]["after"].get("project") for change in plan(environment)["resource_changes"]}
    assert projects - {None} == {"example-project"}


def test_readme_counts_right(environment: Path, copy: Path) -> None:
    """What the README says is made is what would be made."""
    made = [each for each in plan(environment)["resource_changes"] if each["change"]["actions"] == ["create"]]
    alerts = [each for each in made if each["type"] == "google_monitoring_alert_policy"]
    readme = (copy / "README.md").read_text()
    assert f"\n{len(made)} resources each" in readme
    assert f"| {len(alerts)} alerts" in readme


def test_only_prod_is_protected(copy: Path) -> None:
    """Nothing that holds data can be deleted by a slip in prod; dev can be thrown away."""
    for name, protected in (("dev", False), ("prod", True)):
        after = [
            (each["type"], each["change"]["after"]) for each in plan(copy / "environments" / name)["resource_changes"]
        ]
        found = {
            **{kind: values["deletion_protection"] for kind, values in after if "deletion_protection" in values},
            **{kind: values["deletion_protection_enabled"] for kind, values in after if "shard_count" in values},
            **{kind: not values["force_destroy"] for kind, values in after if kind == "google_storage_bucket"},
        }
        kinds = ("container_cluster", "memorystore_instance", "secret_manager_secret", "storage_bucket")
        assert found == {f"google_{kind}": protected for kind in kinds}


def test_no_role_reaches_further_than_its_account_needs(environment: Path) -> None:
    """Rights of the whole project are few, and none of them are an owner's, an editor's or an admin's."""
    bindings = [each for each in plan(environment)["resource_changes"] if each["type"] == "google_project_iam_member"]
    roles = {each["change"]["after"].get("role") for each in bindings} - {
        None
    }  # a custom role has no name before it is
    assert roles == {
        "roles/container.defaultNodeServiceAccount",
        "roles/container.developer",
        "roles/logging.logWriter",
        "roles/memorystore.dbConnectionUser",
    }
    everywhere = {each["change"]["after"].get("role") or "" for each in plan(environment)["resource_changes"]}
    assert not [role for role in everywhere if re.search(r"owner|editor|admin", role, re.IGNORECASE)]


def test_no_value_of_a_secret_is_in_the_plan(environment: Path) -> None:
    """What a plan or a state says may be read by more people than secrets may."""
    versions = [each for each in plan(environment)["resource_changes"] if each["type"].endswith("secret_version")]
    assert {each["index"] for each in versions} == {"redis-url", "redis-ca"}
    assert not [each for each in plan(environment)["resource_changes"] if each["type"] == "google_service_account_key"]


@pytest.mark.parametrize(
    ("given", "field", "mend"),
    [
        ("project_id=My Project", "project_id", "gcloud projects list"),
        ("region=europe-west1-b", "region", "gcloud compute regions list"),
        ("alert_emails=[]", "alert_emails", "name at least one address"),
    ],
)
def test_bad_input_is_refused_with_the_field_and_the_mend(copy: Path, given: str, field: str, mend: str) -> None:
    """Before anything is planned; tests/refused.tftest.hcl has the rest."""
    words = ["terraform", "plan", "-input=false", "-no-color", *GIVEN, f"-var={given}"]
    done = run(*words, folder=copy / "environments" / "prod")
    said = " ".join(re.sub(r"[│╷╵]", " ", done.stderr).split())
    assert done.returncode == 1
    assert f"{field}: " in said
    assert mend in said
    assert "will be created" not in done.stdout
    assert "You can apply" not in done.stdout


def test_terraform_test(copy: Path) -> None:
    """Terraform's own tests, every run of them."""
    said = succeed("terraform", "test", "-no-color", folder=copy)
    runs = sum(path.read_text().count("\nrun ") for path in (copy / "tests").glob("*.tftest.hcl"))
    assert f"Success! {runs} passed, 0 failed." in said


def test_every_variable_says_what_it_is(copy: Path) -> None:
    """Typed and described everywhere; validated where a person gives it, and all that is planned waits for that."""
    waits = re.search(
        r'"google_project_service" "this" \{.*?^\}', (copy / "main.tf").read_text(), re.MULTILINE | re.DOTALL
    )
    assert waits is not None
    for path in copy.rglob("variables.tf"):
        blocks = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', path.read_text(), re.MULTILINE | re.DOTALL)
        assert blocks, path
        for name, body in blocks:
            assert re.search(r"^  type +=", body, re.MULTILINE), f"{path}: {name} has no type"
            assert re.search(r"^  description +=", body, re.MULTILINE), f"{path}: {name} has no description"
            assert path.parent != copy or "validation {" in body, f"{path}: {name} is not validated"
            assert path.parent != copy or f"var.{name}" in waits[0], f"{path}: a wrong {name} would not stop the plan"


def test_chart_knows_the_values(environment: Path) -> None:
    """The output is the chart's values: each key is one of values.yaml, or of serve.yaml below `settings`."""
    if not CHART.exists():
        pytest.skip("the chart is not here (charts/churn-saver)")
    change = plan(environment)["output_changes"]["helm_values"]
    chart = read_yaml(CHART) | {"settings": read_yaml(ROOT / "configs" / "serve.yaml")}
    assert sorted(_unknown_keys(change["after"], chart)) == []
    assert sorted(_unknown_keys(change["after_unknown"], chart)) == []


def _unknown_keys(ours: dict[str, Any], theirs: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in ours.items():
        if key not in theirs:
            yield path + key
        elif isinstance(value, dict) and theirs[key]:  # an empty mapping of the chart takes any key
            yield from _unknown_keys(value, theirs[key], f"{path}{key}.")


def test_alerts_name_metrics_that_are_exported(copy: Path) -> None:
    """A renamed metric would silence its alert: the services' rules and charts name only what a service exports."""
    monitoring = copy / "modules" / "monitoring"
    groups = read_yaml(monitoring / "rules" / "services.yaml")["groups"]
    queries = [rule["expr"] for group in groups for rule in group["rules"]]
    charts = re.findall(r'query = "(.*)" \}', (monitoring / "dashboard.tf").read_text())
    queries += [chart.replace('\\"', '"') for chart in charts]
    names = {name for query in queries for name in metric_names(query) if ":" not in name}
    assert len(names) > 8
    assert names - exported_metrics() == set()


def test_checkov(environment: Path, copy: Path, checkov: Path) -> None:
    """No finding in the plan; what is skipped says why, where it stands in the code."""
    document = environment / "all.json"
    document.write_text(json.dumps(plan(environment)))
    words = [str(checkov), "--file", str(document), "--repo-root-for-plan-enrichment", str(copy)]
    words += ["--framework", "terraform_plan", "--skip-download", "--output", "json"]
    # It asks for pod security policies, which went with Kubernetes 1.25, and crashes where no version is pinned.
    done = run(*words, "--skip-check", "CKV_GCP_24", folder=environment)
    results = json.loads(done.stdout)["results"]
    failed = [f"{each['check_id']} {each['resource']}: {each['check_name']}" for each in results["failed_checks"]]
    assert failed == []
    assert len(results["passed_checks"]) > 70
    assert all(each["check_result"]["suppress_comment"] for each in results["skipped_checks"])
