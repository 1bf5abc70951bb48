"""A language model's files on disk, verified before they are loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError

from churnsaver.domain.world import Frozen
from churnsaver.errors import BadInput

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
MEND = "run `churn-saver model prepare`"


class LanguageModelManifest(Frozen):
    """What a folder of model files is.

    Attributes:
        name: the model and its quantization.
        source: sha256 of the file that it was made from.
        recipe: how it was made from that; another recipe gives another model.
        files: sha256 of each file, by name.
    """

    name: str
    source: str
    recipe: str
    files: dict[str, str]

    @property
    def sha256(self) -> str:
        """One hash that pins every file."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def version(self) -> str:
        return f"{self.name}@{self.sha256[:12]}"


def model_folder(models: Path, name: str, quantization: str) -> Path:
    """Where a model's files lie under the settings' `models`."""
    return models / f"{name}-{quantization}"


def verify_language_model(folder: Path) -> LanguageModelManifest:
    """The manifest, once every file has the hash that it says.

    Raises:
        BadInput: the folder or a file is missing, truncated or altered.
    """
    try:
        manifest = LanguageModelManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError:
        raise BadInput(f"{folder}: no language model here ({MANIFEST} is missing); {MEND}") from None
    except ValidationError:
        raise BadInput(f"{folder / MANIFEST}: is truncated or no manifest; {MEND}") from None
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise BadInput(f"{path}: is missing; {MEND}")
        if file_sha256(path) != digest:
            raise BadInput(f"{path}: is truncated or altered; {MEND}")
    return manifest


def file_sha256(path: Path) -> str:
    """Hash of a file of any size, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
