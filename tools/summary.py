"""Prints the tables of docs/PROJECT_SUMMARY.md: tests by kind, lines by part."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

PARTS = ("churnsaver", "services", "trainers", "cli", "tools", "protos", "charts", "terraform", "tests")
LANGUAGES = {".py", ".lua", ".proto", ".tf", ".hcl", ".yaml", ".tpl"}


def tests(marker: str) -> Counter[str]:
    """How many tests there are of each kind, which is the folder that they lie in."""
    words = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-m", marker]
    listed = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Counter(re.findall(r"^tests/(\w+)/.*::", listed, re.MULTILINE))


def lines(part: str) -> int:
    """Lines of the files that somebody wrote."""
    listed = subprocess.run(["git", "ls-files", part], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    written = [Path(name) for name in listed if Path(name).suffix in LANGUAGES and "/stubs/" not in name]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in written if not path.is_symlink())


def main() -> None:
    """Both tables, as Markdown."""
    quick, slow = tests("not stack"), tests("stack")
    print("| tests | `make test` | `make test-stack` |\n| --- | --- | --- |")
    for kind in sorted(quick | slow):
        print(f"| {kind} | {quick[kind]:,} | {slow[kind]:,} |")
    print(f"| **all** | {quick.total():,} | {slow.total():,} |\n")
    print("| part | lines |\n| --- | --- |")
    for part in PARTS:
        print(f"| `{part}/` | {lines(part):,} |")


if __name__ == "__main__":
    main()
