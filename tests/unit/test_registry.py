"""The registry: what was published, in order, and never an update lost."""

from __future__ import annotations

import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from churnsaver.checkpoints import Gate, open_checkpoint
from churnsaver.checkpoints.checkpoint import KINDS
from churnsaver.checkpoints.evaluation import Evaluation
from churnsaver.checkpoints.registry import Alias, Registry
from churnsaver.checkpoints.signing import create_key_pair
from churnsaver.checkpoints.stores import Conflict, FolderStore, open_store
from churnsaver.errors import BadInput, CheckpointError, GateFailed, RegistryError
from cli.main import app
from tests.support.registry import KIND, Yard, stranger_with_access


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def champion(registry: Registry, kind: str = KIND) -> str | None:
    release = registry.catalogue(kind).at(Alias.CHAMPION)
    return None if release is None else release.version


def test_publish_promote_rollback(yard: Yard) -> None:
    """The aliases follow; releases are numbered in order; `previous` is where a rollback goes."""
    one, two = yard.publish("one"), yard.publish("two")
    manifest, release = yard.registry.publish(yard.checkpoint("three"), challenger=True)
    assert (champion(yard.registry), release.number) == (two, 3)
    assert yard.registry.promote(KIND).version == manifest.version
    catalogue = yard.registry.catalogue(KIND)
    assert [each.number for each in catalogue.releases] == [1, 2, 3]
    assert {alias: pointer.number for alias, pointer in catalogue.aliases.items()} == {"champion": 3, "previous": 2}
    assert yard.registry.rollback(KIND).version == two
    assert yard.registry.rollback(KIND, one).version == one
    assert yard.registry.catalogue(KIND).aliases[Alias.CHAMPION].rolled_back
    assert yard.registry.kinds() == [KIND]


def test_publishing_the_champion_again_changes_nothing(yard: Yard) -> None:
    yard.publish("one")
    before = yard.registry.catalogue(KIND)
    yard.publish("one")
    assert yard.registry.catalogue(KIND) == before


def test_publishing_what_served_before_is_a_new_release(yard: Yard) -> None:
    """Training on the former data again gives the former version; it moves forward all the same."""
    one = yard.publish("one")
    yard.publish("two")
    assert yard.publish("one") == one
    assert yard.registry.catalogue(KIND).aliases[Alias.CHAMPION].number == 3


def test_promotion_moves_forward_only(yard: Yard) -> None:
    one = yard.publish("one")
    yard.publish("two")
    with pytest.raises(RegistryError, match=f"older than the champion.*rollback {KIND} --to {one}"):
        yard.registry.promote(KIND, one)


def test_a_missed_gate_keeps_a_checkpoint_from_serving(yard: Yard) -> None:
    """It can be looked at as a challenger, and not be promoted."""
    path = yard.checkpoint("poor", gate=Gate.of((False, "AUC 0.5 is below 0.8")))
    with pytest.raises(GateFailed, match=r"AUC 0\.5 is below 0\.8"):
        yard.registry.publish(path)
    yard.registry.publish(path, challenger=True)
    with pytest.raises(GateFailed):
        yard.registry.promote(KIND)


def evaluated(path: Path, *missed: str, sha256: str | None = None, kind: str = "policy") -> Evaluation:
    """The report of an evaluation of the checkpoint at `path`."""
    opened = open_checkpoint(path)
    of = {"kind": kind, "version": opened.version, "sha256": sha256 or opened.sha256}
    return Evaluation.parse(json.dumps({"checkpoint": of, "missed": missed, "seed": 42}).encode(), "report.json")


def test_a_policy_is_promoted_on_its_own_evaluation_only(yard: Yard) -> None:
    """Not without one, not on another checkpoint's, not where a target was missed; a good one is kept, signed."""
    yard.publish("one", "policy")
    path = yard.checkpoint("two", "policy")
    _, release = yard.registry.publish(path, challenger=True)
    with pytest.raises(GateFailed, match=r"no evaluation shows.*eval policy --checkpoint"):
        yard.registry.promote("policy")
    with pytest.raises(BadInput, match="evaluate that one"):
        yard.registry.promote("policy", evaluation=evaluated(path, sha256="0" * 64))
    with pytest.raises(BadInput, match=r"is of the uplift policy-.*, not of the policy policy-"):
        yard.registry.promote("policy", evaluation=evaluated(path, kind="uplift"))
    with pytest.raises(GateFailed, match="7 violations of hard rules"):
        yard.registry.promote("policy", evaluation=evaluated(path, "7 violations of hard rules"))
    assert yard.registry.evaluation("policy", release) is None
    assert yard.registry.promote("policy", evaluation=evaluated(path)) == release
    kept = yard.registry.evaluation("policy", release)
    assert kept is not None
    assert json.loads(kept.raw)["seed"] == 42
    yard.registry.rollback("policy")
    assert yard.registry.promote("policy", release.version) == release, "it was evaluated before"


def test_an_evaluation_that_somebody_else_put_there_is_not_believed(yard: Yard) -> None:
    """What is kept is verified with the trusted keys before it counts."""
    path = yard.checkpoint("one", "policy")
    yard.publish("zero", "policy")
    yard.registry.publish(path, challenger=True)
    stranger = stranger_with_access(yard)
    stranger._keep(evaluated(path), "policy", open_checkpoint(path).sha256)
    with pytest.raises(RegistryError):
        yard.registry.promote("policy")


def test_publishing_can_ask_the_evaluation(yard: Yard) -> None:
    """A missed target keeps it out, whatever its trainer's own gate says; nothing is uploaded."""
    path = yard.checkpoint("one", "policy")
    with pytest.raises(GateFailed, match="too few"):
        yard.registry.publish(path, evaluation=evaluated(path, "3 decisions are too few"))
    assert yard.registry.kinds() == []
    _, release = yard.registry.publish(path, evaluation=evaluated(path))
    assert yard.registry.evaluation("policy", release) is not None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"missed": []}', b'{"checkpoint": {"kind": "policy"}, "missed": []}']
)
def test_what_is_no_evaluation_is_refused(tmp_path: Path, content: bytes) -> None:
    """The message names the file, what is wrong with it, and the command that writes one."""
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"{path}: is no report.*eval policy --out"):
        Evaluation.read(path)
    with pytest.raises(BadInput, match="cannot be read"):
        Evaluation.read(tmp_path / "nowhere.json")


@pytest.mark.parametrize(("promote", "said"), [(True, "no challenger"), (False, "no previous champion")])
def test_an_alias_that_points_to_nothing_is_named(yard: Yard, *, promote: bool, said: str) -> None:
    yard.publish("one")
    with pytest.raises(RegistryError, match=said):
        (yard.registry.promote if promote else yard.registry.rollback)(KIND)
    with pytest.raises(RegistryError, match="no release is 'risk-nobody'"):
        yard.registry.rollback(KIND, "risk-nobody")


def test_fetch_gives_what_was_published(yard: Yard, tmp_path: Path) -> None:
    """Also from a folder that was damaged since."""
    published = open_checkpoint(yard.checkpoint("one"))
    yard.publish("one")
    release = yard.registry.catalogue(KIND).releases[0]
    fetched = yard.registry.fetch(KIND, release, tmp_path / "cache" / "one")
    assert (fetched.sha256, dict(fetched.contents)) == (published.sha256, dict(published.contents))
    (tmp_path / "cache" / "one" / "name.json").write_text('"other"')
    assert yard.registry.fetch(KIND, release, tmp_path / "cache" / "one").contents == published.contents


def test_many_may_fetch_the_same_at_once(yard: Yard, tmp_path: Path) -> None:
    """Commands share a cache; whoever comes second takes what is there."""
    yard.publish("one")
    release, folder = yard.registry.catalogue(KIND).releases[0], tmp_path / "cache" / "one"
    together = threading.Barrier(4)

    def fetch(_: int) -> str:
        together.wait()
        return yard.registry.fetch(KIND, release, folder).sha256

    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(fetch, range(4))) == {release.manifest_sha256}
        assert [path.name for path in folder.parent.iterdir()] == ["one"]


def blob(yard: Yard, content: str) -> Path:
    return next(path for path in (yard.folder / "blobs").iterdir() if path.read_text() == content)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.write_text('"on'), "truncated or altered"),
        (
            lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
            "truncated or altered",
        ),
        (lambda path: path.unlink(), "is missing; publish the checkpoint again"),
    ],
    ids=["truncated", "bit flipped", "missing"],
)
def test_damaged_blobs_are_refused(yard: Yard, tmp_path: Path, harm: object, said: str) -> None:
    """Nothing half-fetched is left behind."""
    yard.publish("one")
    harm(blob(yard, '"one"'))  # type: ignore[operator]
    with pytest.raises((CheckpointError, RegistryError), match=said):
        yard.registry.fetch(KIND, yard.registry.catalogue(KIND).releases[0], tmp_path / "cache" / "one")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_catalogue_in_the_wrong_place_is_refused(yard: Yard) -> None:
    """Both are signed; only the kind differs."""
    yard.publish("one")
    yard.publish("two", "policy")
    shutil.copy(yard.folder / "kinds" / "risk.json", yard.folder / "kinds" / "policy.json")
    with pytest.raises(RegistryError, match="is the catalogue of risk"):
        yard.registry.catalogue("policy")


def test_another_signed_manifest_is_refused(yard: Yard) -> None:
    """A manifest of another release in the place of one: signed, but not what was published there."""
    yard.publish("one")
    yard.publish("two")
    first, second = yard.registry.catalogue(KIND).releases
    manifests = yard.folder / "manifests" / KIND
    shutil.copy(manifests / f"{second.manifest_sha256}.json", manifests / f"{first.manifest_sha256}.json")
    with pytest.raises(RegistryError, match="is another manifest than"):
        yard.registry.manifest(KIND, first)


def test_who_has_another_key_can_neither_read_nor_write(yard: Yard, tmp_path: Path) -> None:
    yard.publish("one")
    create_key_pair(tmp_path / "stranger")
    stranger = yard.opened(tmp_path / "stranger")
    with pytest.raises(RegistryError, match="not trusted"):
        stranger.publish(yard.checkpoint("two"))
    before = yard.registry.catalogue(KIND)
    with pytest.raises(RegistryError, match=r"what would be written.*not trusted"):
        yard.opened(tmp_path / "stranger", trusted=yard.keys).publish(yard.checkpoint("two"))
    assert yard.registry.catalogue(KIND) == before, "a key that nobody trusts writes nothing"


def test_a_catalogue_that_cannot_be_trusted_can_be_begun_anew(yard: Yard) -> None:
    """Every other command says how; the manifest that a stranger signed is signed again, too."""
    yard.publish("one")
    stranger_with_access(yard).publish(yard.checkpoint("two"))
    with pytest.raises(RegistryError, match=r"not trusted.*publish --anew"):
        yard.registry.publish(yard.checkpoint("three"))
    _, release = yard.registry.publish(yard.checkpoint("two"), anew=True)
    assert release.number == 1
    assert yard.registry.manifest(KIND, release).version == release.version


def test_a_damaged_blob_is_mended_by_publishing(yard: Yard, tmp_path: Path) -> None:
    yard.publish("one")
    blob(yard, '"one"').write_text('"on')
    yard.publish("one")
    release = yard.registry.catalogue(KIND).releases[0]
    assert yard.registry.fetch(KIND, release, tmp_path / "cache" / "one").read_json("name.json") == "one"


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_every_kind_that_is_published_is_named_in_help(command: str) -> None:
    told = CliRunner().invoke(app, [command, "--help"]).stdout
    assert [kind for kind in KINDS - {"reward_adapters"} if kind not in told] == []


def test_a_rollback_needs_the_gate_as_well(yard: Yard) -> None:
    yard.publish("one")
    path = yard.checkpoint("poor", gate=Gate.of((False, "AUC 0.5 is below 0.8")))
    manifest, _ = yard.registry.publish(path, challenger=True)
    with pytest.raises(GateFailed):
        yard.registry.rollback(KIND, manifest.version)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("kind", "../../../elsewhere", "is of kind '../../../elsewhere'; expected one of acceptance"),
        ("kind", "banana", "is of kind 'banana'"),
        ("version", "risk-000000000000", "its version is not that of its files"),
    ],
)
def test_a_manifest_that_lies_is_refused(yard: Yard, field: str, value: str, said: str) -> None:
    """Nothing is written for it, inside the registry or outside."""
    path = yard.checkpoint("one")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, field: value}))
    with pytest.raises(CheckpointError, match=re.escape(said)):
        yard.registry.publish(path)
    assert not yard.folder.exists()


def test_changes_at_the_same_time_are_never_lost(yard: Yard) -> None:
    """Eight publish four checkpoints each, at once: each is there, once, and the serial counted them."""

    def publish(worker: int) -> None:
        for number in range(4):
            yard.publish(f"{worker}-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(publish, range(8)))
    catalogue = yard.registry.catalogue(KIND)
    assert [each.number for each in catalogue.releases] == list(range(1, 33))
    assert len({each.version for each in catalogue.releases}) == 32
    assert catalogue.serial == 32


def test_the_stores_swap_compares(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    assert store.read("a") is None
    store.replace("a", b"1", None)
    first = store.read("a")
    assert first is not None
    store.replace("a", b"2", first.tag)
    for tag in (None, first.tag):
        with pytest.raises(Conflict):
            store.replace("a", b"3", tag)


def test_a_registry_that_cannot_be_written_is_named(yard: Yard, tmp_path: Path) -> None:
    """A file stands where the folder should: nobody can make the folder, root included."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match=r"file.*cannot be written.*read-only"):
        Yard(tmp_path, FolderStore(tmp_path / "file" / "registry")).publish("one")


@pytest.mark.parametrize("url", ["s3://bucket/path", "gs://", "https://bucket"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(RegistryError, match=r"expected a folder or gs://bucket/path"):
        open_store(url)


def test_a_registry_without_a_signing_key_cannot_be_changed(yard: Yard) -> None:
    from churnsaver.checkpoints.signing import PUBLIC_KEYS, TrustedKeys

    reader = Registry(yard.store, TrustedKeys.read(yard.keys / PUBLIC_KEYS))
    with pytest.raises(RegistryError, match="CHURN_SAVER_REGISTRY__SIGNING_KEY"):
        reader.publish(yard.checkpoint("one"))
