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
ALLOWED_SUFFIXES = frozenset({".json", ".onnx", ".safetensors", ".ubj", ".md", ".txt"})


class Manifest(Frozen):
    """What a checkpoint is.

    Attributes:
        kind: risk, acceptance, policy, shield, generator.
        version: derived from the files' hashes.
        seed: the seed that it was trained with.
        files: sha256 of every file but the manifest itself, in hexadecimal, by name.
        parents: versions of the checkpoints that training read, by kind.
        data_sha256: hash of the training data; None where there was none.
        metrics: what training measured on rows that it did not train on.
    """

    kind: str
    version: str
    seed: int
    files: dict[str, str]
    parents: dict[str, str] = Field(default_factory=dict)
    data_sha256: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files have been verified and are held in memory.

    Attributes:
        path: the folder that it was read from.
        manifest: what it says of itself.
        sha256: hash of the manifest, which pins every file.
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
) -> Manifest:
    """Writes a checkpoint to the folder `out`, whole or not at all; an older one there is replaced."""
    if bad := [name for name in files if Path(name).suffix not in ALLOWED_SUFFIXES or "/" in name]:
        raise ValueError(f"a checkpoint holds data files only, not {bad}")
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    version = f"{kind}-{hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:12]}"
    manifest = Manifest(
        kind=kind,
        version=version,
        seed=seed,
        files=hashes,
        parents=dict(parents or {}),
        data_sha256=data_sha256,
        metrics=dict(metrics),
    )
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


def open_checkpoint(path: Path, kind: str) -> Checkpoint:
    """Reads and verifies a checkpoint.

    Raises:
        CheckpointError: it is missing, of another kind, or a file is missing, truncated or altered.
    """
    try:
        raw = (path / MANIFEST).read_bytes()
    except OSError:
        raise CheckpointError(
            f"{path}: no {kind} checkpoint here ({MANIFEST} is missing); train one or run `make up`"
        ) from None
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError:
        raise CheckpointError(f"{path / MANIFEST}: is truncated or no manifest; train the checkpoint again") from None
    if manifest.kind != kind:
        raise CheckpointError(f"{path}: is a {manifest.kind} checkpoint; expected a {kind} checkpoint")
    contents = {name: _read_verified(path / name, digest) for name, digest in manifest.files.items()}
    return Checkpoint(path, manifest, hashlib.sha256(raw).hexdigest(), contents)


def _read_verified(path: Path, digest: str) -> bytes:
    if path.suffix not in ALLOWED_SUFFIXES:
        raise CheckpointError(f"{path}: a checkpoint is data, not code; {path.suffix or 'this file'} is refused")
    try:
        content = path.read_bytes()
    except OSError:
        raise CheckpointError(f"{path}: is missing though the manifest lists it; train the checkpoint again") from None
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise CheckpointError(
            f"{path}: is truncated or altered (sha256 {found[:12]}…, the manifest says {digest[:12]}…); "
            "restore it or train the checkpoint again"
        )
    return content
