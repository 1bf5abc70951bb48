"""What happens to images between a build and a cluster; each word is a target of the Makefile.

Needs Python's standard library and the commands that it calls (git, docker, gcloud, kubectl, helm), so that it runs in
images that hold those and nothing of ours. What it is told stands in the environment, under the names in `FIELDS`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGES = ("gateway", "decision", "generator", "shield", "trainers")
RELEASE, CHART = "churn-saver", "charts/churn-saver"
HELM_TIMEOUT_MIN = 15  # for each hook, for the upgrade, and once more for the rollback
BUILD = Path("build")
DIGESTS = BUILD / "digests.json"  # values of the chart: which images, to the byte
DEPLOY = BUILD / "deploy"
DEPLOY_FILES = ("values-terraform.json", "facts.yaml", "customer.json")

PINNED = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
IMAGE_PATH = re.compile(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+")
# Field: what it looks like, and where one gets it.
FIELDS: dict[str, tuple[re.Pattern[str], str]] = {
    "PROJECT": (re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]"), "the PROJECT_ID that `gcloud projects list` shows"),
    "TAG": (re.compile(r"(?!latest$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"), "a commit, such as abc1234, never latest"),
    "REGISTRY": (IMAGE_PATH, "_REGISTRY of `terraform output cloud_build`"),
    "REGION": (re.compile(r"[a-z]+-[a-z]+[0-9]+"), "_REGION of `terraform output cloud_build`"),
    "CLUSTER": (re.compile(r"[a-z][a-z0-9-]*"), "_CLUSTER of `terraform output cloud_build`"),
    "NAMESPACE": (re.compile(r"[a-z0-9][a-z0-9-]*"), "_NAMESPACE of `terraform output cloud_build`"),
    "BUCKET": (re.compile(r"[a-z0-9][a-z0-9._-]+"), "_BUCKET of `terraform output cloud_build`"),
    "ATTESTOR": (re.compile(r"[a-z][a-z0-9-]*"), "_ATTESTOR of `terraform output cloud_build`"),
    "KEY": (re.compile(r"projects/.+/cryptoKeyVersions/[0-9]+"), "_KEY of `terraform output cloud_build`"),
    "VALUES": (re.compile(r"charts/churn-saver/values-[a-z]+\.yaml"), "a values file of the chart"),
    "PROMOTE_REGISTRY": (IMAGE_PATH, "_PROMOTE_REGISTRY of prod's `terraform output promotion`, or leave both empty"),
    "PROMOTE_TOPIC": (
        re.compile(r"projects/[a-z0-9-]+/topics/[a-z]+"),
        "_PROMOTE_TOPIC of prod's `terraform output promotion`, or leave both empty",
    ),
}
PROMOTION = ("PROMOTE_REGISTRY", "PROMOTE_TOPIC")
IMAGE_MEND = "an image by digest, name@sha256:…, as docs/DEPLOYMENT.md says"


def field(name: str) -> str:
    """What a field says; ends with the field and the mend where that cannot be."""
    for fault in faults([name]):
        sys.exit(fault)
    return os.environ[name]


def faults(names: list[str]) -> Iterator[str]:
    """A line for each field that is missing or says what cannot be."""
    for name in names:
        value = os.environ.get(name, "")
        pattern, mend = FIELDS.get(name, (PINNED, IMAGE_MEND))
        if not pattern.fullmatch(value):
            yield f"{name}: {f'{value!r} will not do' if value else 'is empty'}; give {mend}"


def run(*words: str) -> None:
    """A command whose failure ends everything."""
    print("+", *words, flush=True)
    done = subprocess.run([found(words[0]), *words[1:]], check=False)
    if done.returncode:
        sys.exit(f"{words[0]} {words[1]}: failed with {done.returncode}; its own words stand above")


def ask(*words: str) -> str | None:
    """What a command prints; None where it fails."""
    done = subprocess.run([found(words[0]), *words[1:]], stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def found(command: str) -> str:
    """The path of a command; ends where there is none."""
    return shutil.which(command) or sys.exit(
        f"{command}: is not installed; this needs git, docker, gcloud, kubectl and helm"
    )


# -- the words -------------------------------------------------------------------------------------


def check() -> None:
    """Everything that a build is told, before anything is built: all faults at once."""
    images = [name for name in os.environ if name.endswith("_IMAGE")]
    given = [name for name in FIELDS if name not in PROMOTION]
    found = list(faults([*given, *images]))
    if any(os.environ.get(name) for name in PROMOTION):
        found += faults(list(PROMOTION))
    if found:
        sys.exit("nothing was built:\n" + "\n".join(found))
    print(f"{len(given)} fields and {len(images)} pinned images")


def checkout() -> None:
    """The commit that ran in dev: chart, settings and these words are its own, whatever came to the branch since."""
    if ask("git", "rev-parse", "--is-shallow-repository") == "true":
        run("git", "fetch", "--unshallow")
    run("git", "checkout", "--detach", field("TAG"))


def scan() -> None:
    """No image has a known hole that a newer package closes, and none holds a secret."""
    socket = "/var/run/docker.sock:/var/run/docker.sock"
    trivy = ["docker", "run", "--rm", "--volume", socket, field("TRIVY_IMAGE"), "image", "--no-progress"]
    for name in IMAGES:
        rules = ["--scanners", "vuln,secret", "--severity", "HIGH,CRITICAL", "--ignore-unfixed", "--exit-code", "1"]
        run(*trivy, *rules, tagged(name))


def push() -> None:
    """Pushes what is not there yet; tags never change, so a build that is run again keeps the images of the first."""
    for name in IMAGES:
        if digest_of(tagged(name)) is None:
            run("docker", "push", tagged(name))
    digests()


def digests() -> None:
    """Writes down which images the tag means."""
    values = {}
    for name in IMAGES:
        digest = digest_of(tagged(name))
        if digest is None:
            sys.exit(f"{tagged(name)}: is not in the registry; push it first, or give the TAG of a release that is")
        values[name] = {"image": {"digest": digest}}
    DIGESTS.parent.mkdir(exist_ok=True)
    DIGESTS.write_text(json.dumps({"image": {"tag": field("TAG")}, **values}, indent=2) + "\n", encoding="utf-8")
    print(DIGESTS.read_text(encoding="utf-8"))


def sign() -> None:
    """Says of each image that it was tested and scanned: prod's cluster runs no other."""
    attestor = [f"--attestor={field('ATTESTOR')}", f"--attestor-project={field('PROJECT')}"]
    for name in IMAGES:
        run(
            *["gcloud", "beta", "container", "binauthz", "attestations", "sign-and-create"],
            *[f"--project={field('PROJECT')}", f"--artifact-url={pinned(name)}", f"--keyversion={field('KEY')}"],
            *attestor,
        )


def deploy() -> None:
    """Installs or upgrades; what does not come up is rolled back by Helm."""
    enter()
    refuse_pending()
    DEPLOY.mkdir(parents=True, exist_ok=True)
    run("gcloud", "storage", "cp", *(f"gs://{field('BUCKET')}/deploy/{name}" for name in DEPLOY_FILES), f"{DEPLOY}/")
    values = (field("VALUES"), str(DEPLOY / "values-terraform.json"), str(DEPLOY / "facts.yaml"), str(DIGESTS))
    run(
        *[helm(), "upgrade", "--install", RELEASE, CHART, "--namespace", field("NAMESPACE")],
        *["--create-namespace", "--atomic", "--timeout", f"{HELM_TIMEOUT_MIN}m"],
        *(word for file in values for word in ("--values", file)),
    )


def smoke() -> None:
    """Asks what was deployed: the chart's own test, then one customer from the outside."""
    enter()
    run(helm(), "test", RELEASE, "--namespace", field("NAMESPACE"), "--logs")
    with forwarded() as url:
        run(sys.executable, str(Path(__file__).with_name("smoke.py")), url, str(DEPLOY / "customer.json"))


def promote() -> None:
    """Brings the images to production and asks for their release there, which a person approves."""
    if not any(os.environ.get(name) for name in PROMOTION):
        print("PROMOTE_REGISTRY and PROMOTE_TOPIC are empty: this release stays here")
        return
    registry, topic = (field(name) for name in PROMOTION)
    for name in IMAGES:
        there = f"{registry}/{name}:{field('TAG')}"
        if digest_of(there) is None:
            run("docker", "pull", pinned(name))
            run("docker", "tag", pinned(name), there)
            run("docker", "push", there)
        if digest_of(there) != digest(name):
            sys.exit(f"{there}: is not what was tested here, {digest(name)}; commit again, for a tag of its own")
    run("gcloud", "pubsub", "topics", "publish", topic, f"--message={json.dumps({'tag': field('TAG')})}")


# -- what they have in common ----------------------------------------------------------------------


def tagged(name: str) -> str:
    """An image as it was built."""
    return f"{field('REGISTRY')}/{name}:{field('TAG')}"


def pinned(name: str) -> str:
    """An image as it was pushed."""
    return f"{field('REGISTRY')}/{name}@{digest(name)}"


def digest(name: str) -> str:
    """The digest that `push` or `digests` wrote down."""
    if not DIGESTS.exists():
        sys.exit(f"{DIGESTS}: is not there; run `make push` or `make digests` first")
    written: dict[str, dict[str, dict[str, str]]] = json.loads(DIGESTS.read_text(encoding="utf-8"))
    return written[name]["image"]["digest"]


def digest_of(image: str) -> str | None:
    """What a tag means in the registry; None where it is not there."""
    return ask("gcloud", "artifacts", "docker", "images", "describe", image, "--format=value(image_summary.digest)")


def helm() -> str:
    """The command; Cloud Build takes it from an image of its own."""
    return os.environ.get("HELM", "helm")


def enter() -> None:
    """Lets kubectl and helm into the cluster."""
    where = [f"--location={field('REGION')}", f"--project={field('PROJECT')}", "--dns-endpoint"]
    run("gcloud", "container", "clusters", "get-credentials", field("CLUSTER"), *where)


def refuse_pending() -> None:
    """Ends where an upgrade was cut off: Helm would refuse the next one without saying what to do."""
    said = ask(helm(), "status", RELEASE, "--namespace", field("NAMESPACE"), "--output", "json")
    state = json.loads(said)["info"]["status"] if said else "not installed"
    if state.startswith("pending-"):
        mend = "uninstall churn-saver" if state == "pending-install" else "rollback churn-saver REVISION --wait"
        sys.exit(
            f"{RELEASE}: is {state}; another build deploys, or one was cut off. If none runs: "
            f"`helm --namespace {field('NAMESPACE')} {mend}` (docs/DEPLOYMENT.md, Rollback)"
        )


@contextmanager
def forwarded() -> Iterator[str]:
    """The gateway's URL on this machine."""
    target = ["port-forward", f"service/{RELEASE}-gateway", ":8080"]
    words = [found("kubectl"), "--namespace", field("NAMESPACE"), *target]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            if port is None:
                sys.exit(f"kubectl {' '.join(target)}: forwards nothing; its own words stand above")
            yield f"http://127.0.0.1:{port[1]}"
        finally:
            process.terminate()


WORDS: dict[str, Callable[[], None]] = {
    "check-build": check,
    "checkout": checkout,
    "scan": scan,
    "push": push,
    "digests": digests,
    "sign": sign,
    "deploy": deploy,
    "smoke": smoke,
    "promote": promote,
}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in WORDS:
        sys.exit(f"usage: release.py {'|'.join(WORDS)}")
    WORDS[sys.argv[1]]()
