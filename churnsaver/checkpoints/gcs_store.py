"""The registry's objects in Cloud Storage, through Google's own client.

An object's generation is its tag; `if_generation_match` is the compare-and-swap (0 means: there is none).
`STORAGE_EMULATOR_HOST`, which the client reads itself, names another server.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
from google.api_core.exceptions import GoogleAPIError, NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.exceptions import RequestException

from churnsaver.checkpoints.stores import Conflict, Stored
from churnsaver.errors import RegistryError

# Each try, and all tries of one call; a service looks again every few seconds anyway.
TRY_S = 5.0
FILE_TRY_S = 60.0
RETRY = DEFAULT_RETRY.with_timeout(10.0)
ATTEMPTS = 5
OUTAGES = (GoogleAPIError, GoogleAuthError, RequestException, DataCorruption, InvalidResponse)


class GcsStore:
    """Objects of a bucket under a prefix."""

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            if os.environ.get("STORAGE_EMULATOR_HOST"):
                client = storage.Client(project="local", credentials=AnonymousCredentials())
            else:
                client = storage.Client()
        except (GoogleAuthError, OSError) as error:
            raise RegistryError(
                f"gs://{bucket}: there are no credentials ({error}); use Workload Identity or "
                "`gcloud auth application-default login`"
            ) from None
        self._bucket = client.bucket(bucket)
        self._prefix = f"{prefix}/" if prefix else ""

    @property
    def location(self) -> str:
        return f"gs://{self._bucket.name}/{self._prefix}".rstrip("/")

    def read(self, name: str) -> Stored | None:
        with self._explained(name, "read"):
            for _ in range(ATTEMPTS):
                blob = self._bucket.get_blob(self._prefix + name, timeout=TRY_S, retry=RETRY)
                if blob is None:
                    return None
                # Replaced between the two calls: look again.
                with contextlib.suppress(PreconditionFailed, NotFound):
                    content = blob.download_as_bytes(
                        if_generation_match=blob.generation, timeout=TRY_S, retry=RETRY, checksum="crc32c"
                    )
                    return Stored(content, str(blob.generation))
        raise RegistryError(f"{self.location}/{name}: is replaced faster than it can be read; try again")

    def replace(self, name: str, content: bytes, tag: str | None) -> None:
        with self._explained(name, "written"):
            try:
                self._bucket.blob(self._prefix + name).upload_from_string(
                    content,
                    content_type="application/json",
                    if_generation_match=int(tag or 0),
                    timeout=TRY_S,
                    retry=RETRY,
                    checksum="crc32c",
                )
            except PreconditionFailed:
                raise Conflict(name) from None

    def upload(self, source: Path, name: str) -> None:
        # Who comes first stores the same bytes, for the name is their hash.
        with self._explained(name, "written"), contextlib.suppress(PreconditionFailed):
            found = self._bucket.get_blob(self._prefix + name, timeout=TRY_S, retry=RETRY)
            if found is not None and found.crc32c == _crc32c(source):
                return
            self._bucket.blob(self._prefix + name).upload_from_filename(
                str(source),
                if_generation_match=found.generation if found is not None else 0,
                timeout=FILE_TRY_S,
                retry=RETRY,
                checksum="crc32c",
            )

    def download(self, name: str, target: Path) -> None:
        with self._explained(name, "downloaded"):
            blob = self._bucket.blob(self._prefix + name)
            blob.download_to_filename(str(target), timeout=FILE_TRY_S, retry=RETRY, checksum="crc32c")

    def names(self, prefix: str) -> list[str]:
        with self._explained(prefix, "listed"):
            blobs = self._bucket.list_blobs(prefix=self._prefix + prefix, timeout=TRY_S, retry=RETRY)
            return sorted(blob.name.removeprefix(self._prefix) for blob in blobs)

    @contextlib.contextmanager
    def _explained(self, name: str, done: str) -> Iterator[None]:
        """Turns what the client raises into one sentence that names the object."""
        where = f"{self.location}/{name}"
        try:
            yield
        except NotFound:
            raise RegistryError(f"{where}: there is no such bucket or object; create it or publish again") from None
        except OUTAGES as error:
            raise RegistryError(f"{where}: cannot be {done} ({type(error).__name__}: {error})") from None
        except OSError as error:
            raise RegistryError(f"{where}: cannot be {done} ({error.strerror or error}); is the disk full?") from None


def _crc32c(path: Path) -> str:
    """A file's checksum as Cloud Storage writes it."""
    checksum = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum.update(chunk)  # type: ignore[no-untyped-call]
    return base64.b64encode(checksum.digest()).decode()  # type: ignore[no-untyped-call]
