"""The checkpoint registry: what was published, and which of it serves (law 6, docs/adr/0008).

    blobs/<sha256>                      a file of a checkpoint, named by its content
    manifests/<kind>/<sha256>.json      a checkpoint's manifest, signed
    evaluations/<kind>/<sha256>.json    the report that a checkpoint was promoted on, signed, by its manifest's hash
    kinds/<kind>.json                   the kind's catalogue, signed: its releases in order, and its aliases

A release is a number that only grows. What serves is the alias `champion`; it moves forward, or back by a
rollback that says so. Only a catalogue is ever replaced, by compare-and-swap, and its serial grows with
every change, so that an old catalogue put in its place is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from churnsaver.checkpoints.catalogue import Alias, Catalogue, Pointer, Release
from churnsaver.checkpoints.checkpoint import MANIFEST, Checkpoint, Manifest, open_checkpoint, read_manifest
from churnsaver.checkpoints.evaluation import Evaluation
from churnsaver.checkpoints.signing import Signer, TrustedKeys
from churnsaver.checkpoints.stores import Conflict, Store
from churnsaver.errors import CheckpointError, GateFailed, RegistryError

__all__ = ["Alias", "Catalogue", "Pointer", "Registry", "Release"]

CATALOGUE_TYPE = "application/vnd.churn-saver.catalogue.v1+json"
MANIFEST_TYPE = "application/vnd.churn-saver.manifest.v1+json"
EVALUATION_TYPE = "application/vnd.churn-saver.evaluation.v1+json"
# Whoever is to take a champion's place has shown in a whole evaluation that it meets its targets.
EVALUATED_KINDS = frozenset({"policy"})
# Many who change one kind at once take turns; this many turns are more than any number of trainers needs.
CHANGE_ATTEMPTS = 100


class Registry:
    """Reads with the trusted keys; writes with a signer."""

    def __init__(self, store: Store, trusted: TrustedKeys, signer: Signer | None = None) -> None:
        self._store, self._trusted, self._signer = store, trusted, signer
        self.location = store.location

    # -- reading -----------------------------------------------------------------------------------

    def kinds(self) -> list[str]:
        """The kinds that something was published of."""
        return [Path(name).stem for name in self._store.names("kinds") if name.endswith(".json")]

    def catalogue(self, kind: str) -> Catalogue:
        """The verified catalogue of a kind; an empty one where nothing was published yet.

        Raises:
            RegistryError: it cannot be read, or is not what a trusted key signed.
        """
        return self._read(kind)[0]

    def manifest(self, kind: str, release: Release) -> Manifest:
        """The verified manifest of a release; RegistryError or CheckpointError where it is not what was signed."""
        return read_manifest(self._manifest_bytes(kind, release), f"{release.version} in {self.location}")

    def fetch(self, kind: str, release: Release, folder: Path) -> Checkpoint:
        """A release's checkpoint in `folder`, downloaded beside it unless it is there already, and verified.

        Raises:
            RegistryError: it cannot be downloaded, or the disk is full.
            CheckpointError: it is of another kind, truncated or altered, or holds code.
        """
        raw = self._manifest_bytes(kind, release)
        manifest = read_manifest(raw, f"{release.version} in {self.location}")
        if manifest.kind != kind:
            raise CheckpointError(f"{release.version}: is a checkpoint of kind {manifest.kind}; expected {kind}")
        if (folder / MANIFEST).exists():
            with contextlib.suppress(CheckpointError):  # damaged since; it is fetched again
                if (cached := open_checkpoint(folder, kind)).sha256 == release.manifest_sha256:
                    return cached
            shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder.parent))
            try:
                for name, digest in manifest.files.items():
                    self._store.download(f"blobs/{digest}", beside / name)
                (beside / MANIFEST).write_bytes(raw)
                try:
                    checkpoint = open_checkpoint(beside, kind)
                except CheckpointError as error:
                    said = str(error).replace(str(beside), f"{release.version} in {self.location}")
                    raise CheckpointError(f"{said}; `churn-saver publish` puts a whole one in its place") from None
                beside.chmod(0o755)
                try:
                    beside.rename(folder)
                except OSError:  # another process fetched the same at this moment
                    if not (folder / MANIFEST).exists():
                        raise
                    checkpoint = open_checkpoint(folder, kind)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        except OSError as error:
            raise RegistryError(f"{folder}: cannot be written ({error.strerror}); is the disk full?") from None
        return replace(checkpoint, path=folder)

    def evaluation(self, kind: str, release: Release) -> Evaluation | None:
        """The evaluation that a release was promoted on; None where there is none, RegistryError where not trusted."""
        name = _evaluation_name(kind, release.manifest_sha256)
        if (stored := self._store.read(name)) is None:
            return None
        where = f"{self.location}/{name}"
        return Evaluation.parse(self._trusted.verify(stored.content, EVALUATION_TYPE, where), where)

    # -- writing -----------------------------------------------------------------------------------

    def publish(
        self, path: Path, *, challenger: bool = False, anew: bool = False, evaluation: Evaluation | None = None
    ) -> tuple[Manifest, Release]:
        """Uploads the checkpoint in the folder `path` and makes it champion, or challenger.

        It becomes a new release, unless it is what the alias points to already.

        Args:
            challenger: it does not serve yet.
            anew: the kind's catalogue begins with it, whatever stands there and cannot be trusted or read.
            evaluation: has to be of this checkpoint, which missed nothing; kept beside it.

        Raises:
            BadInput: the evaluation is of another checkpoint.
            GateFailed: it missed its gate and is not to be a mere challenger, or missed a target of the evaluation.
            CheckpointError: it is damaged.
            RegistryError: the registry cannot be read, trusted or written.
        """
        checkpoint = open_checkpoint(path)
        manifest, raw = checkpoint.manifest, (path / MANIFEST).read_bytes()
        if not challenger and manifest.gate is not None and not manifest.gate.passed:
            raise GateFailed(f"{manifest.version}: {'; '.join(manifest.gate.missed)}; it may be a --challenger only")
        if evaluation is not None:
            evaluation.require(manifest.kind, manifest.version, checkpoint.sha256)
        self._sign(raw, MANIFEST_TYPE)  # who may not sign uploads nothing
        for name, digest in manifest.files.items():
            self._store.upload(path / name, f"blobs/{digest}")
        self._upload_manifest(manifest.kind, raw, checkpoint.sha256)
        if evaluation is not None:
            self._keep(evaluation, manifest.kind, checkpoint.sha256)
        alias = Alias.CHALLENGER if challenger else Alias.CHAMPION

        def published(catalogue: Catalogue) -> Catalogue:
            if catalogue.holds(alias, checkpoint.sha256):
                return catalogue
            release = Release(
                number=1 + max((each.number for each in catalogue.releases), default=0),
                version=manifest.version,
                manifest_sha256=checkpoint.sha256,
                published_at=datetime.now(UTC),
            )
            longer = catalogue.model_copy(update={"releases": (*catalogue.releases, release)})
            return longer.pointed(release) if challenger else longer.moved(release)

        return manifest, self._at(alias, self._change(manifest.kind, published, anew=anew))

    def promote(self, kind: str, version: str | None = None, evaluation: Evaluation | None = None) -> Release:
        """Makes a newer release the champion: the challenger, or the one of `version`.

        Args:
            evaluation: has to be of this release, which missed nothing. EVALUATED_KINDS need one, now or earlier.

        Raises:
            BadInput: the evaluation is of another checkpoint.
            GateFailed: the release missed its trainer's gate or a target of the evaluation, or was never evaluated.
            RegistryError: there is no such release, or it is older than the champion.
        """

        def promoted(catalogue: Catalogue) -> Catalogue:
            release = catalogue.named(version) if version else catalogue.at(Alias.CHALLENGER)
            if release is None:
                raise RegistryError(f"{kind}: there is no challenger; name a version, or publish one with --challenger")
            self._require_gate(kind, release)
            moved = catalogue.promoted(release)
            self._require_evaluated(kind, release, evaluation)
            return moved

        return self._at(Alias.CHAMPION, self._change(kind, promoted))

    def rollback(self, kind: str, version: str | None = None) -> Release:
        """Goes back to an older release: the previous champion, or the one of `version`."""

        def rolled_back(catalogue: Catalogue) -> Catalogue:
            release = catalogue.named(version) if version else catalogue.at(Alias.PREVIOUS)
            if release is None:
                raise RegistryError(f"{kind}: there is no previous champion; name a version with --to")
            self._require_gate(kind, release)
            return catalogue.moved(release, rolled_back=True)

        return self._at(Alias.CHAMPION, self._change(kind, rolled_back))

    # -- how ---------------------------------------------------------------------------------------

    def _read(self, kind: str) -> tuple[Catalogue, str | None]:
        """The catalogue and the tag that it has in the store."""
        name = f"kinds/{kind}.json"
        stored = self._store.read(name)
        if stored is None:
            return Catalogue(kind=kind), None
        where = f"{self.location}/{name}"
        try:
            payload = self._trusted.verify(stored.content, CATALOGUE_TYPE, where)
        except RegistryError as error:
            raise RegistryError(f"{error}; `churn-saver publish --anew` begins the catalogue again") from None
        return Catalogue.parse(payload, kind, where), stored.tag

    def _change(self, kind: str, change: Callable[[Catalogue], Catalogue], *, anew: bool = False) -> Catalogue:
        """Replaces the catalogue by what `change` makes of it, again and again until nobody came in between."""
        for _ in range(CHANGE_ATTEMPTS):
            if anew:
                stored = self._store.read(f"kinds/{kind}.json")
                catalogue, tag = Catalogue(kind=kind), stored.tag if stored else None
            else:
                catalogue, tag = self._read(kind)
            changed = change(catalogue)
            if changed == catalogue:
                return catalogue
            lineage = catalogue.lineage or secrets.token_hex(8)
            changed = changed.model_copy(update={"serial": catalogue.serial + 1, "lineage": lineage})
            payload = changed.model_dump_json().encode()
            try:
                self._store.replace(f"kinds/{kind}.json", self._sign(payload, CATALOGUE_TYPE), tag)
            except Conflict:
                time.sleep(random.uniform(0.0, 0.1))  # noqa: S311 – it only keeps two from meeting again
                continue
            return changed
        raise RegistryError(f"{self.location}/kinds/{kind}.json: too many change it at once; try again")

    def _upload_manifest(self, kind: str, raw: bytes, sha256: str) -> None:
        name = f"manifests/{kind}/{sha256}.json"
        stored, signed = self._store.read(name), self._sign(raw, MANIFEST_TYPE)
        if stored is None or stored.content != signed:  # none, damaged, or signed by a key that was changed since
            with contextlib.suppress(Conflict):  # somebody published the same checkpoint at this moment
                self._store.replace(name, signed, stored.tag if stored else None)

    def _manifest_bytes(self, kind: str, release: Release) -> bytes:
        name = f"manifests/{kind}/{release.manifest_sha256}.json"
        where = f"{self.location}/{name}"
        if (stored := self._store.read(name)) is None:
            raise RegistryError(f"{where}: is missing; publish {release.version} again")
        raw = self._trusted.verify(stored.content, MANIFEST_TYPE, where)
        if hashlib.sha256(raw).hexdigest() != release.manifest_sha256:
            raise RegistryError(f"{where}: is another manifest than {release.version} was published with")
        return raw

    def _sign(self, payload: bytes, payload_type: str) -> bytes:
        if self._signer is None:
            raise RegistryError(
                f"{self.location}: changing it needs a signing key; set CHURN_SAVER_REGISTRY__SIGNING_KEY"
            )
        signed = self._signer.sign(payload, payload_type)
        # Nobody could read what a stranger signed, not even to mend it.
        self._trusted.verify(signed, payload_type, f"what would be written to {self.location}")
        return signed

    def _require_gate(self, kind: str, release: Release) -> None:
        """GateFailed where a release is not to serve."""
        manifest = self.manifest(kind, release)
        if manifest.gate is not None and not manifest.gate.passed:
            raise GateFailed(f"{release.version}: {'; '.join(manifest.gate.missed)}")

    def _require_evaluated(self, kind: str, release: Release, evaluation: Evaluation | None) -> None:
        """Checks and keeps the evaluation, or finds the one that was kept before; GateFailed where there is none."""
        found = evaluation or self.evaluation(kind, release)
        if found is not None:
            found.require(kind, release.version, release.manifest_sha256)
        elif kind in EVALUATED_KINDS:
            raise GateFailed(
                f"{release.version}: no evaluation shows that it meets its targets; run `churn-saver eval {kind} "
                f"--checkpoint … --data … --out DIR`, then `churn-saver promote {kind} --evaluation DIR/report.json`"
            )
        if evaluation is not None:
            self._keep(evaluation, kind, release.manifest_sha256)

    def _keep(self, evaluation: Evaluation, kind: str, manifest_sha256: str) -> None:
        """Signs an evaluation and puts it into the place of an earlier one."""
        name, signed = _evaluation_name(kind, manifest_sha256), self._sign(evaluation.raw, EVALUATION_TYPE)
        stored = self._store.read(name)
        with contextlib.suppress(Conflict):  # somebody keeps another good one of the same checkpoint at this moment
            self._store.replace(name, signed, stored.tag if stored else None)

    @staticmethod
    def _at(alias: Alias, catalogue: Catalogue) -> Release:
        release = catalogue.at(alias)
        assert release is not None  # it was just pointed there
        return release


def _evaluation_name(kind: str, manifest_sha256: str) -> str:
    return f"evaluations/{kind}/{manifest_sha256}.json"
