"""The registry in Cloud Storage, through Google's client, against the server of ../shared's acceptance checks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from churnsaver.checkpoints.registry import Alias
from churnsaver.checkpoints.stores import Conflict, open_store
from churnsaver.errors import RegistryError
from tests.conftest import free_port
from tests.support.registry import KIND, Yard

SERVER = Path(__file__).resolve().parents[3] / "shared" / "tools" / "gcp" / "embedded_gcs_prototype.py"


@pytest.fixture(scope="module")
def gcs() -> Iterator[str]:
    """The address of a Cloud Storage server on this machine."""
    if not SERVER.exists():
        pytest.skip(f"no Cloud Storage server here ({SERVER.name} in ../shared/tools/gcp)")
    port = free_port()
    process = subprocess.Popen([sys.executable, str(SERVER), str(port)], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            httpx.get(f"{url}/storage/v1/b?project=local")
            break
        except httpx.TransportError:
            time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(10)


@pytest.fixture
def bucket(gcs: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket's URL."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs)
    name = f"registry-{uuid.uuid4().hex[:8]}"
    httpx.post(f"{gcs}/storage/v1/b?project=local", json={"name": name}).raise_for_status()
    return f"gs://{name}/checkpoints"


def test_publish_fetch_and_roll_back(bucket: str, tmp_path: Path) -> None:
    """The whole life of a checkpoint, as with a folder."""
    yard = Yard(tmp_path, open_store(bucket))
    one = yard.publish("one")
    two = yard.publish("two")
    release = yard.registry.catalogue(KIND).at(Alias.CHAMPION)
    assert release is not None
    assert release.version == two
    fetched = yard.registry.fetch(KIND, release, tmp_path / "cache" / "two")
    assert fetched.read_json("name.json") == "two"
    assert yard.registry.rollback(KIND).version == one
    assert yard.registry.kinds() == [KIND]


def test_concurrent_promotions_never_lose_an_update(bucket: str, tmp_path: Path) -> None:
    """Eight publish at once, each with a client of its own: every release is there, numbered without a gap."""
    Yard(tmp_path)  # makes the keys

    def publish(worker: int) -> None:
        yard = Yard(tmp_path, open_store(bucket))
        for number in range(3):
            yard.publish(f"{worker}-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(publish, range(8)))
    catalogue = Yard(tmp_path, open_store(bucket)).registry.catalogue(KIND)
    assert [release.number for release in catalogue.releases] == list(range(1, 25))
    assert len({release.version for release in catalogue.releases}) == 24
    assert catalogue.serial == 24


def test_replace_compares_generations(bucket: str) -> None:
    store = open_store(bucket)
    store.replace("a", b"1", None)
    first = store.read("a")
    assert first is not None
    store.replace("a", b"2", first.tag)
    for tag in (None, first.tag):
        with pytest.raises(Conflict):
            store.replace("a", b"3", tag)
    assert store.read("b") is None


def test_what_is_missing_is_named(bucket: str, tmp_path: Path) -> None:
    """A bucket and an object that do not exist."""
    with pytest.raises(RegistryError, match=r"gs://.*/blobs/nothing: there is no such bucket or object"):
        open_store(bucket).download("blobs/nothing", tmp_path / "nothing")
    with pytest.raises(RegistryError, match=r"gs://no-such-bucket"):
        Yard(tmp_path, open_store("gs://no-such-bucket/x")).publish("one")


def test_an_unreachable_server_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the client raises; tried again for a while first."""
    from churnsaver.checkpoints import gcs_store

    monkeypatch.setattr(gcs_store, "RETRY", gcs_store.DEFAULT_RETRY.with_timeout(1.0))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RegistryError, match=r"gs://bucket/x/kinds/risk\.json: cannot be read"):
        open_store("gs://bucket/x").read("kinds/risk.json")
    assert "STORAGE_EMULATOR_HOST" in os.environ
