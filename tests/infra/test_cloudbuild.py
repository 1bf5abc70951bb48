"""The pipeline: Google's own definition of a build reads it, and its steps run here with stand-ins for the cloud."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud.devtools.cloudbuild_v1 import Build
from google.protobuf import json_format

from churnsaver.settings import read_yaml
from tests.support.chart import SERVICES, container, render, values_of
from tests.support.shipping import Bench, Gateway, digest, running_gateway
from tests.unit.test_documents import DOCUMENTS, commands
from tools.release import HELM_TIMEOUT_MIN, IMAGES, WORDS

ROOT = Path(__file__).resolve().parents[2]
PIPELINE, PROMOTION = "cloudbuild.yaml", "cloudbuild.promote.yaml"
FILES = [PIPELINE, PROMOTION]
PAGE = (ROOT / "docs" / "DEPLOYMENT.md").read_text(encoding="utf-8")
# Google's own, which a trigger fills.
BUILT_IN = {"PROJECT_ID", "SHORT_SHA", "BUILD_ID"}
PINNED = f"python@sha256:{'0' * 64}"
GIVEN = {
    "_REGISTRY": "registry.example/dev/churn-saver",
    "_REGION": "europe-west1",
    "_CLUSTER": "churn-saver",
    "_NAMESPACE": "retain",
    "_BUCKET": "example-data",
    "_ATTESTOR": "tested",
    "_KEY": "projects/p/locations/l/keyRings/r/cryptoKeys/images/cryptoKeyVersions/1",
    "_PROMOTE_REGISTRY": "registry.example/prod/churn-saver",
    "_PROMOTE_TOPIC": "projects/example-prod/topics/promotions",
    "_TAG": "abc1234",
    "PROJECT_ID": "example-dev",
    "SHORT_SHA": "abc1234",
}

Step = dict[str, Any]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway that answers, for as long as a test runs."""
    with running_gateway() as server:
        yield server


def build(file: str) -> dict[str, Any]:
    return read_yaml(ROOT / file)


def steps(file: str) -> dict[str, Step]:
    return {step["id"]: step for step in build(file)["steps"]}


def substitutions_in(text: str) -> set[str]:
    return set(re.findall(r"\$\{?([A-Z_]+)", text))


def filled(file: str, text: str) -> str:
    """What Cloud Build makes of a text."""
    declared = {name: value or PINNED for name, value in build(file)["substitutions"].items()}
    return re.sub(r"\$\{?([A-Z_]+)\}?", lambda found: {**declared, **GIVEN}[found[1]], text)


def before(file: str, step: str) -> set[str]:
    """Everything that has ended when a step begins."""
    found: set[str] = set()
    waiting = [step]
    while waiting:
        new = set(steps(file)[waiting.pop()].get("waitFor", [])) - found
        found |= new
        waiting += new
    return found


def run(bench: Bench, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *words], cwd=bench.root, env=bench.env, capture_output=True, text=True, timeout=60, check=False
    )


def run_steps(bench: Bench, file: str) -> None:
    """Each step that ships something, as Cloud Build would run it."""
    for name, step in steps(file).items():
        if name == "helm":
            (bench.root / step["args"][1]).symlink_to(bench.command("helm"))
        elif step["args"][0] in WORDS:
            done = run(bench, *(filled(file, word) for word in step["args"]))
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("file", FILES)
def test_google_reads_it(file: str) -> None:
    """Every field, enumeration and duration is one of Cloud Build's API."""
    read = json_format.ParseDict(build(file), Build.pb(Build()))
    assert len(read.steps) == len(build(file)["steps"])
    with pytest.raises(json_format.ParseError, match="waitfor"):
        json_format.ParseDict({"steps": [{"name": "x", "waitfor": ["y"]}]}, Build.pb(Build()))


@pytest.mark.parametrize("file", FILES)
def test_steps_wait_for_what_there_is(file: str) -> None:
    """Each waits for steps above it, has a limit, and only the check waits for nobody."""
    names: list[str] = []
    for step in build(file)["steps"]:
        assert set(step.get("waitFor", [])) <= set(names), step["id"]
        assert step["id"] not in names
        assert step["timeout"]
        names.append(step["id"])
    assert [name for name in names if not before(file, name)] == ["check"]


def test_order() -> None:
    """Nothing is pushed that was not tested and scanned; nothing is promoted that did not answer in dev."""
    assert before(PIPELINE, "push") >= {"check", "lint", "coverage", "images", "scan", "sbom"}
    assert before(PIPELINE, "deploy") >= {"push", "sign"}
    assert before(PIPELINE, "promote") >= {"deploy", "smoke"}
    assert before(PROMOTION, "smoke") >= {"check", "digests", "sign", "deploy"}
    assert all("checkout" in before(PROMOTION, step) for step in set(steps(PROMOTION)) - {"check", "checkout"})


@pytest.mark.parametrize("file", FILES)
def test_substitutions(file: str) -> None:
    """What is used is declared, what is declared is used; Cloud Build refuses a build where it is not."""
    declared = set(build(file)["substitutions"])
    body = {key: value for key, value in build(file).items() if key != "substitutions"}
    used = substitutions_in(str(body))
    assert used - BUILT_IN == declared
    assert substitutions_in(str(build(file)["substitutions"])) <= BUILT_IN


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_cut_off(file: str) -> None:
    """Helm may need its time for the pre-flight, the upgrade and the rollback; a build, that of its longest way."""
    limits = {name: int(step["timeout"].removesuffix("s")) for name, step in steps(file).items()}
    assert limits["deploy"] >= 3 * 60 * HELM_TIMEOUT_MIN

    def longest(step: str) -> int:
        return limits[step] + max(map(longest, steps(file)[step].get("waitFor", [])), default=0)

    assert int(build(file)["timeout"].removesuffix("s")) >= max(map(longest, limits))


def test_builds_leave_what_they_found_under_a_name_of_their_own() -> None:
    """A build of the same commit that runs again may not replace what the first one wrote."""
    assert build(PIPELINE)["artifacts"]["objects"]["location"].endswith("/builds/${_TAG}/$BUILD_ID/")


@pytest.mark.parametrize("file", FILES)
def test_terraform_says_what_builds_are_told(file: str) -> None:
    """The outputs' names are the substitutions'."""
    outputs = (ROOT / "terraform" / "outputs.tf").read_text()
    cloud_build, promotion = (
        set(re.findall(r"^    (_[A-Z_]+) +=", block, re.MULTILINE))
        for block in re.findall(r'output "(?:cloud_build|promotion)" \{(.*?)^\}', outputs, re.MULTILINE | re.DOTALL)
    )
    declared = {name for name in build(file)["substitutions"] if not name.endswith("_IMAGE")}
    assert declared - {"_TAG", "_VALUES"} == (cloud_build | promotion if file == PIPELINE else cloud_build)


@pytest.mark.parametrize("file", FILES)
def test_every_image_is_a_substitution_that_is_checked(file: str) -> None:
    """No step runs in an image that the check does not hold to a digest, and every field is checked."""
    checked = set(steps(file)["check"]["args"])
    images = {step["name"] for step in build(file)["steps"]}
    assert all(re.fullmatch(r"\$\{_[A-Z_]+_IMAGE\}", image) for image in images)
    for name in build(file)["substitutions"]:
        assert f"{name[1:]}=${{{name}}}" in checked


@pytest.mark.parametrize("file", FILES)
def test_every_target_is_there(file: str, tmp_path: Path) -> None:
    """Make knows each step's target, and the files that it names are in the repository."""
    bench = Bench(tmp_path, ROOT)
    for step in build(file)["steps"]:
        if step["entrypoint"] == "make":
            done = subprocess.run(
                ["make", "-n", *(filled(file, word) for word in step["args"])],
                cwd=ROOT,
                env=bench.env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert all((ROOT / name).exists() for name in re.findall(r"\btools/[a-z_]+\.(?:py|sh)\b", done.stdout))
    assert (ROOT / build(file)["substitutions"]["_VALUES"]).exists()


def test_from_commit_to_a_request_in_production(tmp_path: Path, gateway: Gateway) -> None:
    """The images that were scanned are pushed, signed by digest, installed by digest and promoted."""
    bench = Bench(tmp_path, ROOT, gateway.server_port)
    run_steps(bench, PIPELINE)
    there = [f"registry.example/dev/churn-saver/{name}" for name in IMAGES]
    scanned = [call[-1] for call in bench.calls("docker", "run")]
    assert scanned == [f"{image}:abc1234" for image in there]
    pushed = [call[-1] for call in bench.calls("docker", "push")]
    assert pushed == scanned + [image.replace("/dev/", "/prod/") for image in scanned]
    signed = [call[7] for call in bench.calls("gcloud", "beta", "container", "binauthz")]
    assert signed == [f"--artifact-url={image}@{digest(name)}" for name, image in zip(IMAGES, there, strict=True)]
    (installed,) = bench.calls("helm", "upgrade")
    assert installed[:5] == ["helm", "upgrade", "--install", "churn-saver", "charts/churn-saver"]
    assert "--atomic" in installed
    assert [installed[at + 1] for at, word in enumerate(installed) if word == "--values"] == [
        "charts/churn-saver/values-staging.yaml",
        "build/deploy/values-terraform.json",
        "build/deploy/facts.yaml",
        "build/digests.json",
    ]
    written = read_yaml(bench.root / "build" / "digests.json")
    assert written["image"]["tag"] == "abc1234"
    assert {name: written[name]["image"]["digest"] for name in IMAGES} == {name: digest(name) for name in IMAGES}
    assert ("POST", "/v1/retain") in gateway.asked
    (request,) = bench.calls("gcloud", "pubsub")
    assert request[-2:] == ["projects/example-prod/topics/promotions", '--message={"tag": "abc1234"}']


def test_release_in_production(tmp_path: Path, gateway: Gateway) -> None:
    """Nothing is built there: what the tag means is signed and installed."""
    bench = Bench(tmp_path, ROOT, gateway.server_port)
    for name in IMAGES:
        bench.put(f"registry.example/dev/churn-saver/{name}:abc1234", digest(name))
    run_steps(bench, PROMOTION)
    assert len(bench.calls("gcloud", "beta", "container", "binauthz")) == len(IMAGES)
    (installed,) = bench.calls("helm", "upgrade")
    assert "charts/churn-saver/values-production.yaml" in installed
    assert bench.calls("docker") == []
    assert bench.calls("git", "checkout") == [["git", "checkout", "--detach", "abc1234"]]


def test_production_gets_the_chart_that_ran_in_dev(tmp_path: Path) -> None:
    """The trigger clones the head of the branch and nothing before; the tag's commit is fetched, with its files."""

    def git(*words: str) -> str:
        who = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet", "origin")
    for chart in ("as in dev", "newer"):
        (tmp_path / "origin" / "chart").write_text(chart)
        git("-C", "origin", "add", "chart")
        git("-C", "origin", "commit", "--quiet", "--message", chart)
    git("clone", "--quiet", "--depth=1", f"file://{tmp_path}/origin", "workspace")
    env = {**os.environ, "TAG": git("-C", "origin", "rev-parse", "--short", "HEAD~1")}
    words = [sys.executable, str(ROOT / "tools" / "release.py"), "checkout"]
    subprocess.run(words, cwd=tmp_path / "workspace", env=env, check=True, timeout=60)
    assert (tmp_path / "workspace" / "chart").read_text() == "as in dev"


@pytest.mark.parametrize(
    ("status", "mend"),
    [("pending-upgrade", "rollback"), ("pending-rollback", "rollback"), ("pending-install", "uninstall")],
)
def test_an_upgrade_that_was_cut_off_is_told(tmp_path: Path, status: str, mend: str) -> None:
    """With what to do, before Helm is asked to upgrade."""
    bench = Bench(tmp_path, ROOT)
    bench.env["STAND_IN_STATUS"] = status
    words = [filled(PIPELINE, word) for word in steps(PIPELINE)["deploy"]["args"] if not word.startswith("HELM=")]
    done = run(bench, *words)
    assert done.returncode == 2
    assert re.search(rf"churn-saver: is {status}; .*`helm --namespace retain {mend} ", done.stderr)
    assert bench.calls("helm", "upgrade") == []


def test_facts_of_the_page_install() -> None:
    """DEPLOYMENT.md's facts.yaml, over the values and under the digests that `make deploy` gives Helm."""
    facts, trainers = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    images = {name: {"image": {"digest": digest(name)}} for name in IMAGES}
    bucket = {"trainers": {"data": {"bucket": "example-data"}}}  # as values-terraform.json says
    objects = render(values_of("staging", bucket, facts, trainers, {"image": {"tag": "abc1234"}}, images))
    for name in SERVICES:
        assert container(objects, name)["image"].endswith(f"/{name}@{digest(name)}")
    assert not [each for each in objects if each["kind"] in {"Gateway", "HTTPRoute", "ExternalSecret"}]
    assert [each["metadata"]["labels"]["churn-saver/trainer-job"] for each in objects if each["kind"] == "CronJob"] == [
        "risk"
    ]


def test_terraform_is_told_the_same_each_time() -> None:
    """What an apply is told stands in a file: one that was told less would take rights away."""
    (told,) = re.findall(r"^```hcl\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for environment in ("dev", "prod"):
        variables = (ROOT / "terraform" / "environments" / environment / "variables.tf").read_text()
        assert set(re.findall(r"^(\w+) +=", told, re.MULTILINE)) <= set(
            re.findall(r'^variable "(\w+)"', variables, re.MULTILINE)
        )
    lines = [words for path in DOCUMENTS for words in commands(path) if words[0] == "terraform"]
    assert len(lines) > 10
    assert [words for words in lines if any(word.startswith("-var") for word in words)] == []


def test_terraform_has_the_outputs_that_documents_name() -> None:
    """In prod all of them; dev, which releases come from, has no `promotion`."""
    outputs = (ROOT / "terraform" / "environments" / "prod" / "outputs.tf").read_text()
    lines = [words for path in DOCUMENTS for words in commands(path) if words[0] == "terraform" and "output" in words]
    told = {next(word for word in words[words.index("output") + 1 :] if word[0] != "-") for words in lines}
    assert len(told) > 4
    assert told <= set(re.findall(r'^output "(\w+)"', outputs, re.MULTILINE))


def test_opt_outs_are_found_in_a_copied_bucket(tmp_path: Path) -> None:
    """The page's own line, on files that lie as Pub/Sub writes them."""
    subscriptions = (ROOT / "terraform" / "modules" / "pubsub" / "main.tf").read_text()
    assert 'filename_datetime_format = "YYYY/MM/DD/hh_mm_ssZ"' in subscriptions
    for at, outcomes in (("2025/01/31/23_59_59Z", ["opted_out", "retained"]), ("2026/11/25/10_00_00Z", ["opted_out"])):
        file = tmp_path / "records" / "outcomes" / f"{at}_0.jsonl"
        file.parent.mkdir(parents=True)
        lines = [json.dumps({"customer_ref": f"{at[:4]}-{n}", "outcome": each}) for n, each in enumerate(outcomes)]
        file.write_text("\n".join(lines) + "\n")
    (line,) = re.findall(r"^find records/outcomes .*$", PAGE, re.MULTILINE)
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True, timeout=60)
    found = sorted(map(json.loads, (tmp_path / "facts.jsonl").read_text().splitlines()), key=str)
    assert found == [{"opt_out": "2025-0"}, {"opt_out": "2026-0"}]


def given(**other: str) -> list[str]:
    """What the check is told, with something else in places."""
    fields = {
        name.partition("=")[0]: filled(PIPELINE, name.partition("=")[2])
        for name in steps(PIPELINE)["check"]["args"][1:]
    }
    return [f"{name}={value}" for name, value in {**fields, **other}.items()]


@pytest.mark.parametrize(
    ("other", "mend"),
    [
        ({"PROJECT": "My Project"}, "gcloud projects list"),
        ({"REGION": "europe-west1-b"}, "terraform output cloud_build"),
        ({"TAG": "latest"}, "never latest"),
        ({"TAG": ""}, "never latest"),
        ({"REGISTRY": "registry.example"}, "terraform output cloud_build"),
        ({"TRIVY_IMAGE": "aquasec/trivy:latest"}, "by digest"),
        ({"BASE_IMAGE": ""}, "by digest"),
        ({"KEY": "images"}, "terraform output cloud_build"),
        ({"VALUES": "values.yaml"}, "values file of the chart"),
        ({"PROMOTE_TOPIC": ""}, "leave both empty"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(tmp_path: Path, other: dict[str, str], mend: str) -> None:
    """With the field and the mend."""
    bench = Bench(tmp_path, ROOT)
    done = run(bench, "check-build", *given(**other))
    assert done.returncode == 2  # of make
    (field,) = other
    assert re.search(rf"^{field}: .*{re.escape(mend)}", done.stderr, re.MULTILINE), done.stderr
    assert bench.calls() == []


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Nobody mends one field a build."""
    done = run(Bench(tmp_path, ROOT), "check-build", *given(REGION="", BUCKET="", HELM_IMAGE="helm"))
    assert {line.partition(":")[0] for line in done.stderr.splitlines()} >= {"REGION", "BUCKET", "HELM_IMAGE"}


def test_a_build_that_runs_again_keeps_its_images(tmp_path: Path) -> None:
    """Tags never change in the registry, so the second push would be refused."""
    bench = Bench(tmp_path, ROOT)
    words = ["push", "TAG=abc1234", f"REGISTRY={GIVEN['_REGISTRY']}"]
    assert run(bench, *words).returncode == 0
    assert run(bench, *words).returncode == 0
    assert len(bench.calls("docker", "push")) == len(IMAGES)


def test_other_images_are_not_promoted(tmp_path: Path) -> None:
    """A tag that means something else in production is not asked to be released."""
    bench = Bench(tmp_path, ROOT)
    words = [f"{name[1:]}={GIVEN[name]}" for name in ("_TAG", "_REGISTRY", "_PROMOTE_REGISTRY", "_PROMOTE_TOPIC")]
    assert run(bench, "push", *words).returncode == 0
    bench.put("registry.example/prod/churn-saver/shield:abc1234", digest("another"))
    done = run(bench, "promote", *words)
    assert done.returncode == 2
    assert "shield:abc1234: is not what was tested here" in done.stderr
    assert bench.calls("gcloud", "pubsub") == []


def test_a_release_that_goes_nowhere_says_so(tmp_path: Path) -> None:
    """Dev alone has no production to ask."""
    done = run(Bench(tmp_path, ROOT), "promote", "PROMOTE_REGISTRY=", "PROMOTE_TOPIC=")
    assert done.returncode == 0
    assert "this release stays here" in done.stdout


def test_tag_that_was_never_pushed(tmp_path: Path) -> None:
    """Production says which image it lacks."""
    done = run(Bench(tmp_path, ROOT), "digests", "TAG=abc1234", f"REGISTRY={GIVEN['_REGISTRY']}")
    assert done.returncode == 2
    assert "gateway:abc1234: is not in the registry; push it first" in done.stderr


def smoke(url: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "tools/smoke.py", url, "examples/retain.json"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_smoke_forgets_whom_it_made_up(gateway: Gateway) -> None:
    """One customer is retained, asked for again, and erased."""
    done = smoke(f"http://127.0.0.1:{gateway.server_port}")
    assert done.returncode == 0, done.stderr
    assert [method for method, path in gateway.asked if path.startswith("/v1/customers/smoke-")] == ["DELETE"]


def test_smoke_sees_what_is_wrong(gateway: Gateway) -> None:
    """A service without a model, a ledger that forgets and an error end it, and the customer is erased all the same."""
    url = f"http://127.0.0.1:{gateway.server_port}"
    gateway.remembers = False
    assert "the ledger forgets" in smoke(url).stderr
    assert gateway.asked[-1][0] == "DELETE"
    gateway.retain_status = 503
    assert "retain: answered 503" in smoke(url).stderr
    gateway.models["shield"] = {}
    assert "nothing serves in shield" in smoke(url).stderr


def test_smoke_hears_somebody_else(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load balancer's page in place of the gateway's JSON ends it with a line, not with a traceback."""

    def page(handler: BaseHTTPRequestHandler, *_: object) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"<html>Welcome</html>")

    monkeypatch.setattr("tests.support.shipping.Handler._answer", page)
    done = smoke(f"http://127.0.0.1:{gateway.server_port}")
    assert done.returncode == 1
    assert done.stderr == "models: nothing serves in gateway, decision, generator, shield; see the logs of their pods\n"


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        ([], "usage: smoke.py URL"),
        (["notaurl"], "URL: 'notaurl' is no address; give http://HOST:PORT"),
        (["http://host:port"], "URL: 'http://host:port' is no address; give http://HOST:PORT"),
        (["http://127.0.0.1:1", "nowhere.json"], "CUSTOMER.json: nowhere.json cannot be read"),
        (["http://127.0.0.1:1", "README.md"], "CUSTOMER.json: README.md cannot be read"),
        (["http://127.0.0.1:1", "reports/cluster.json"], "has no `customer`; give a request such as examples/retain"),
    ],
)
def test_smoke_refuses_what_it_cannot_use(words: list[str], mend: str) -> None:
    """Exit 2 in one line, before anybody is asked."""
    command = [sys.executable, "tools/smoke.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert mend in done.stderr
