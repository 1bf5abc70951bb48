"""What Dockerfiles do with tools/image.py, as far as it can be done to a machine that is to stay as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import image


def test_compile_imports_all_below_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every module but the one that would run, so that a library that is missing fails the build."""
    package = tmp_path / "sample_of_image"
    package.mkdir()
    for name in ("__init__", "first", "second"):
        (package / f"{name}.py").write_text("")
    (package / "__main__.py").write_text("raise SystemExit(1)")
    monkeypatch.syspath_prepend(str(tmp_path))
    image.compile_modules("sample_of_image")
    found = {name for name in sys.modules if name.startswith("sample_of_image")}
    assert found == {"sample_of_image", "sample_of_image.first", "sample_of_image.second"}
    (package / "third.py").write_text("import a_library_that_is_missing")
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_missing"):
        image.compile_modules("sample_of_image")


def test_install_takes_an_extra_at_locked_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What all need and what the extra adds, wheels that lie there, and nothing that is never imported."""
    (tmp_path / "pyproject.toml").write_text(
        """[project]
dependencies = ["all>=1"]
optional-dependencies = {one = ["ours>=2"], other = ["theirs>=3"]}
"""
    )
    (tmp_path / "torch-1.0-py3-none-any.whl").write_text("")
    packages = tmp_path / "venv" / "packages"
    (packages / "tests").mkdir(parents=True)
    for name in ("module.py", "module.pyi", "tests/test_module.py", "tests/_used.py"):
        (packages / name).write_text("")
    commands: list[list[str]] = []

    def noted(command: list[str], **_: Any) -> None:
        commands.append(command)

    monkeypatch.setattr(subprocess, "run", noted)
    monkeypatch.chdir(tmp_path)
    image.install("venv", "one")
    environment, pip, *strip = commands
    assert "--without-pip" in environment
    assert {"all>=1", "ours>=2", str(tmp_path / "torch-1.0-py3-none-any.whl")} <= set(pip)
    assert "theirs>=3" not in pip
    assert pip[pip.index("--constraint") + 1] == "requirements.lock"
    assert {command[0] for command in strip} == {"/usr/bin/strip"}
    left = {str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file()}
    assert left == {"module.py", "tests/_used.py"}
