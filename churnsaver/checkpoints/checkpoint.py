"""One checkpoint: a folder of data files and the manifest that vouches for them (law 6).

A checkpoint is data, never code: JSON, ONNX, safetensors, XGBoost's UBJSON. Its version is derived from
the hashes of its files, so that the same training gives the same version.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from churnsaver.domain.world import Frozen
from churnsaver.errors import CheckpointError

MANIFEST = "manifest.json"
MODEL_CARD = "MODEL_CARD.md"
GOLDEN = "golden.json"
KINDS = frozenset(
    {"risk", "acceptance", "policy", "generator", "shield", "uplift", "writer", "reward", "reward_adapters"}
)
# `.bin` is CTranslate2's format: sizes and numbers. Whatever its name, a file that begins as a pickle does is refused.
ALLOWED_SUFFIXES = frozenset({".bin", ".json", ".onnx", ".safetensors", ".ubj", ".md", ".txt"})
# A pickle of protocol 2 and later begins with its version, one that torch.save wrote is a zip archive.
PICKLE_BEGINNINGS = (*(bytes([0x80, protocol]) for protocol in range(2, 6)), b"PK\x03\x04")
# Larger files (a language model's weights) are verified where they lie and read by whoever needs them.
HELD_BYTES = 32 << 20


class Gate(Frozen):
    """Whether a trained model is good enough to serve, as its trainer measured it.

    Attributes:
        missed: what it missed, a sentence each; empty where it passed.
    """

    passed: bool
    missed: tuple[str, ...] = ()

    @classmethod
    def of(cls, *demands: tuple[bool, str]) -> Gate:
        """The gate of demands, each whether it holds and what to say where it does not."""
        missed = tuple(said for holds, said in demands if not holds)
        return cls(passed=not missed, missed=missed)


class Manifest(Frozen):
    """What a checkpoint is.

    Attributes:
        kind: risk, acceptance, policy, shield, generator, uplift; writer (the language model's adapter),
            reward, and reward_adapters, which it is made of.
        version: derived from the files' hashes.
        seed: the seed that it was trained with.
        files: sha256 of every file but the manifest itself, in hexadecimal, by name.
        parents: versions of the checkpoints that training read, by kind.
        data_sha256: hash of the training data; None where there was none.
        metrics: what training measured on rows that it did not train on.
        gate: whether that was good enough; None where nothing is demanded of the kind.
    """

    kind: str
    version: str
    seed: int
    files: dict[str, str]
    parents: dict[str, str] = Field(default_factory=dict)
    data_sha256: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files have been verified; those up to HELD_BYTES are held in memory.

    Attributes:
        path: the folder that it was read from.
        manifest: what it says of itself.
        sha256: hash of the manifest, which pins every file.
        contents: the files that are held, by name.
    """

    path: Path
    manifest: Manifest
    sha256: str
    contents: Mapping[str, bytes]

    @property
    def version(self) -> str:
        return self.manifest.version

    def read(self, name: str) -> bytes:
        """A file's bytes; CheckpointError where the checkpoint has no such file."""
        try:
            return self.contents[name]
        except KeyError:
            raise CheckpointError(
                f"{self.path}: a {self.manifest.kind} checkpoint needs {name}; train it again"
            ) from None

    def read_json(self, name: str) -> Any:
        """A file as JSON; CheckpointError where it is none."""
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise CheckpointError(f"{self.path / name}: is not valid JSON ({error}); train it again") from None


def write_checkpoint(
    out: Path,
    kind: str,
    files: Mapping[str, bytes],
    *,
    seed: int,
    metrics: Mapping[str, float],
    parents: Mapping[str, str] | None = None,
    data_sha256: str | None = None,
    gate: Gate | None = None,
) -> Manifest:
    """Writes a checkpoint to the folder `out`, whole or not at all; an older one there is replaced.

    Raises:
        CheckpointError: `out` cannot be written, or holds something else than a checkpoint.
    """
    if bad := [name for name in files if not _may_be_named(name)]:
        raise ValueError(f"a checkpoint holds data files only, not {bad}")
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    manifest = Manifest(
        kind=kind,
        version=version_of(kind, hashes),
        seed=seed,
        files=hashes,
        parents=dict(parents or {}),
        data_sha256=data_sha256,
        metrics=dict(metrics),
        gate=gate,
    )
    require_replaceable(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    try:
        for name, content in files.items():
            (staging / name).write_bytes(content)
        (staging / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        staging.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        staging.replace(out)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def require_replaceable(out: Path) -> None:
    """Nothing that is not ours is ever deleted: a folder may hold a checkpoint's files alone, or nothing.

    Raises:
        CheckpointError: `out` is a file, or holds something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise CheckpointError(f"{out}: is a file; choose a folder with --out")
    found = {path.name for path in out.iterdir()}
    try:
        ours = {MANIFEST, *read_manifest((out / MANIFEST).read_bytes(), str(out)).files}
    except (OSError, CheckpointError):
        ours = set()
    if foreign := sorted(found - ours):
        raise CheckpointError(
            f"{out}: holds {foreign[0]!r}, which is no part of a checkpoint and would be deleted; "
            "choose a new or empty folder with --out"
        )


def version_of(kind: str, hashes: Mapping[str, str]) -> str:
    """The version of files with these hashes: the same files are the same version."""
    return f"{kind}-{hashlib.sha256(json.dumps(dict(sorted(hashes.items()))).encode()).hexdigest()[:12]}"


def open_checkpoint(path: Path, kind: str | None = None) -> Checkpoint:
    """Reads and verifies a checkpoint, of `kind` where one is demanded.

    Raises:
        CheckpointError: it is missing, of another kind, or a file is missing, truncated, altered or code.
    """
    try:
        raw = (path / MANIFEST).read_bytes()
    except OSError:
        raise CheckpointError(
            f"{path}: no {kind or 'such'} checkpoint here ({MANIFEST} is missing); train one or run `make up`"
        ) from None
    manifest = read_manifest(raw, str(path / MANIFEST))
    if kind is not None and manifest.kind != kind:
        raise CheckpointError(f"{path}: is a checkpoint of kind {manifest.kind}; expected {kind}")
    contents = {}
    for name, digest in manifest.files.items():
        if (content := _verified(path / name, digest)) is not None:
            contents[name] = content
    return Checkpoint(path, manifest, hashlib.sha256(raw).hexdigest(), contents)


def read_manifest(raw: bytes, where: str) -> Manifest:
    """A manifest from its bytes; CheckpointError where they are none, or name files that are no data."""
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError:
        raise CheckpointError(f"{where}: is truncated or no manifest; train the checkpoint again") from None
    if manifest.kind not in KINDS:
        raise CheckpointError(f"{where}: is of kind {manifest.kind[:40]!r}; expected one of {', '.join(sorted(KINDS))}")
    if bad := [name for name in manifest.files if not _may_be_named(name)]:
        raise CheckpointError(f"{where}: a checkpoint is data, not code; {bad[0]!r} is refused")
    if manifest.version != version_of(manifest.kind, manifest.files):
        raise CheckpointError(f"{where}: its version is not that of its files; train the checkpoint again")
    return manifest


def _may_be_named(name: str) -> bool:
    return Path(name).suffix in ALLOWED_SUFFIXES and Path(name).name == name and not name.startswith(".")


def _verified(path: Path, digest: str) -> bytes | None:
    """The file's content once its hash is right; None for one that is too large to hold."""
    try:
        with path.open("rb") as file:
            beginning = file.read(4)
            file.seek(0)
            content = file.read() if path.stat().st_size <= HELD_BYTES else None
            found = hashlib.sha256(content) if content is not None else hashlib.file_digest(file, "sha256")
    except OSError:
        raise CheckpointError(f"{path}: is missing though the manifest lists it; train the checkpoint again") from None
    if found.hexdigest() != digest:
        raise CheckpointError(
            f"{path}: is truncated or altered (sha256 {found.hexdigest()[:12]}…, the manifest says {digest[:12]}…); "
            "restore it or train the checkpoint again"
        )
    if beginning.startswith(PICKLE_BEGINNINGS):
        raise CheckpointError(f"{path}: holds a pickle, which is code; a checkpoint is data (safetensors, ONNX, JSON)")
    return content
