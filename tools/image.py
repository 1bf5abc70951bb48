"""What the stages of our Dockerfiles do, with the Python that they have and nothing else.

python image.py slim                    # the base: without pip, what builds, caches and documentation
python image.py install FOLDER EXTRA…   # a virtual environment for these extras, at the locked versions
python image.py compile MODULE…         # imports the modules with all below them, so that their bytecode is there
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import site
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

# numpy's own tests are all of these but one small module, which numpy.testing imports.
NEVER_IMPORTED = ("*.pyi", "*.pyx", "*.pxd", "*.c", "*.h", "*.a", "*/tests/test_*.py", "*/tests/data/*")
EXTENSION_MODULES = ("*.cpython-*.so", "*.abi3.so")
NOT_IN_AN_IMAGE = (
    "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/python-wheels/*",
    "var/cache/*", "var/lib/apt/lists/*", "var/log/*",
    "usr/bin/pip*", "usr/local/bin/pip*", "usr/bin/wheel*", "usr/local/bin/wheel*",
    "usr/local/bin/idle*", "usr/local/bin/2to3*",
)  # fmt: skip
NOT_IN_PYTHON = ("ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo", "test")


def slim() -> None:
    """Takes out of this system what no process of ours needs; licences stay."""
    root, standard_library = Path("/"), Path(sysconfig.get_path("stdlib"))
    _remove(chain.from_iterable(Path(folder).glob("*") for folder in site.getsitepackages()))  # pip, setuptools
    _remove(standard_library / name for name in NOT_IN_PYTHON)
    _remove(list(standard_library.rglob("__pycache__")))  # `compile` makes it anew, of what is imported
    _remove(chain.from_iterable(root.glob(pattern) for pattern in NOT_IN_AN_IMAGE))
    _remove(path for path in (root / "usr/share/doc").rglob("*") if path.is_file() and path.name != "copyright")
    _remove([Path(__file__)])


def install(folder: str, *extras: str) -> None:
    """Installs what every process needs and what `extras` add; wheels beside this file win over the index's."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    named = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    wheels = [str(wheel.absolute()) for wheel in Path().glob("*.whl")]
    # This Python's pip, so that the environment has none.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        f"{folder}/bin/python",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ]
    options = ["--quiet", "--root-user-action", "ignore", "--no-compile", "--only-binary", ":all:"]
    locked = ["--constraint", "requirements.lock"]
    subprocess.run([*pip, "install", *options, *locked, *wheels, *chain.from_iterable(named)], check=True)
    _remove(chain.from_iterable(Path(folder).rglob(pattern) for pattern in NEVER_IMPORTED))
    for pattern in EXTENSION_MODULES:
        subprocess.run(["/usr/bin/strip", "--strip-debug", *map(str, Path(folder).rglob(pattern))], check=True)


def compile_modules(*names: str) -> None:
    """Imports `names` and every module in them; fails where the environment lacks what they need."""
    for name in names:
        module = importlib.import_module(name)
        for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{name}."):
            if not found.name.endswith(".__main__"):
                importlib.import_module(found.name)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    STEPS: dict[str, Callable[..., None]] = {"slim": slim, "install": install, "compile": compile_modules}
    STEPS[sys.argv[1]](*sys.argv[2:])
