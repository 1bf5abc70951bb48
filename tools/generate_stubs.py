"""Generates the gRPC stubs of `protos/` into `churnsaver/rpc/stubs`, or checks that they are current.

python tools/generate_stubs.py            # write
python tools/generate_stubs.py --check    # exit 1 where a stub differs from its proto
"""

from __future__ import annotations

import filecmp
import re
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "churnsaver" / "rpc" / "stubs"
# protoc searches PATH for its plugins; those of this environment are meant, active or not.
PLUGINS = [
    f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")
]
# protoc imports by proto path; the stubs live inside a package of their own.
IMPORT = re.compile(r"^(from|import) churnsaver\.(\w+)\.(v\d+)", re.MULTILINE)


def generate(destination: Path) -> None:
    """Writes the stubs of every proto under `destination`, as `<service>/v<n>/…`."""
    sources = sorted(str(path) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as raw:
        outputs = [f"--{kind}_out={raw}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        include = Path(protoc.__file__).parent / "_proto"
        if protoc.main(["protoc", f"-I{PROTOS}", f"-I{include}", *PLUGINS, *outputs, *sources]) != 0:
            sys.exit("protoc failed; its message stands above")
        for path in sorted((Path(raw) / "churnsaver").rglob("*.py*")):
            target = destination / path.relative_to(Path(raw) / "churnsaver")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(IMPORT.sub(r"\1 churnsaver.rpc.stubs.\2.\3", path.read_text()))
    for folder in [destination, *(path for path in destination.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").touch()


def main() -> None:
    if "--check" not in sys.argv:
        shutil.rmtree(STUBS, ignore_errors=True)
        generate(STUBS)
        return
    with tempfile.TemporaryDirectory() as fresh:
        generate(Path(fresh))
        names = sorted(str(path.relative_to(fresh)) for path in Path(fresh).rglob("*.py*"))
        _, differing, missing = filecmp.cmpfiles(fresh, STUBS, names, shallow=False)
    if differing or missing:
        sys.exit(f"stubs are out of date: {', '.join(differing + missing)}; run `make protos`")


if __name__ == "__main__":
    main()
