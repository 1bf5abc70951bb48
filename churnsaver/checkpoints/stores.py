"""Where a registry keeps its objects: a small protocol, and the one for a folder.

An object is written once and never changes (blobs, manifests), or it is small and replaced as a whole by
compare-and-swap (a kind's catalogue), so that two who promote at once never lose an update.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from churnsaver.errors import RegistryError


class Conflict(Exception):
    """Somebody else replaced the object since it was read; read it again."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object's content and the tag that `replace` compares: one state of the object, one tag."""

    content: bytes
    tag: str


class Store(Protocol):
    """Objects by name. Every method raises RegistryError where the store cannot do what it is asked."""

    @property
    def location(self) -> str:
        """For messages to people."""
        ...

    def read(self, name: str) -> Stored | None:
        """A small object; None where there is none."""
        ...

    def replace(self, name: str, content: bytes, tag: str | None) -> None:
        """Writes an object if it still has `tag` (None: if there is none); Conflict where it has not."""
        ...

    def upload(self, source: Path, name: str) -> None:
        """Stores a file under a name that says what is in it; does nothing where that is there and whole."""
        ...

    def download(self, name: str, target: Path) -> None:
        """Writes an object to the file `target`."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Names of the objects under `prefix`, sorted."""
        ...


def open_store(url: str) -> Store:
    """The store of `gs://bucket/path`, or of a folder.

    Raises:
        RegistryError: the URL has another scheme.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return FolderStore(Path(url))
    if scheme == "gs" and rest.partition("/")[0]:
        from churnsaver.checkpoints.gcs_store import GcsStore  # noqa: PLC0415 – a second that folders need not wait for

        bucket, _, prefix = rest.partition("/")
        return GcsStore(bucket, prefix.strip("/"))
    raise RegistryError(f"registry.url is {url!r}; expected a folder or gs://bucket/path")


class FolderStore:
    """Objects as files. Whole or not at all: written beside, synced, renamed.

    Compare-and-swap holds among all processes of the machine, by a lock on a file.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def location(self) -> str:
        return str(self._root)

    def read(self, name: str) -> Stored | None:
        try:
            content = (self._root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RegistryError(f"{self._root / name}: cannot be read ({error.strerror})") from None
        return Stored(content, _tag(content))

    def replace(self, name: str, content: bytes, tag: str | None) -> None:
        with self._locked():
            found = self.read(name)
            if (found.tag if found else None) != tag:
                raise Conflict(name)
            with self._writing(name) as file:
                file.write_bytes(content)

    def upload(self, source: Path, name: str) -> None:
        with contextlib.suppress(OSError):  # none there; where it is something worse, writing says so
            if _digest(self._root / name) == _digest(source):
                return
        with self._writing(name) as file:
            copy_file(source, file)

    def download(self, name: str, target: Path) -> None:
        try:
            copy_file(self._root / name, target)
        except FileNotFoundError:
            raise RegistryError(f"{self._root / name}: is missing; publish the checkpoint again") from None
        except OSError as error:
            raise RegistryError(f"{self._root / name}: cannot be copied to {target} ({error.strerror})") from None

    def names(self, prefix: str) -> list[str]:
        files = (self._root / prefix).rglob("*")
        return sorted(str(path.relative_to(self._root)) for path in files if path.is_file())

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """A file beside; it takes the name once it is on the disk."""
        target = self._root / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as made:
                beside = Path(made.name)
            try:
                yield beside
                _sync(beside)
                beside.chmod(0o644)
                beside.replace(target)
                _sync(target.parent)
            finally:
                beside.unlink(missing_ok=True)
        except OSError as error:
            raise RegistryError(
                f"{target}: cannot be written ({error.strerror}); is the registry read-only or the disk full?"
            ) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._root / ".lock"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError as error:
            raise RegistryError(f"{path}: cannot be written ({error.strerror}); is the registry read-only?") from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file closes
            yield


def copy_file(source: Path, target: Path) -> None:
    """Copies a file of any size; OSError where it cannot."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(1 << 20):
            writer.write(chunk)


def _tag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
