"""What the documents say can be done: links lead somewhere, and commands, options and files are there."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(path for folder in ("docs", "charts", "terraform", "monitoring") for path in (ROOT / folder).rglob("*.md")),
]
# Folders of ours; what is named in them must be there. What tests and builds write is elsewhere.
FOLDERS = sorted(
    path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._" and path.name != "build"
)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def commands(path: Path) -> Iterator[list[str]]:
    """The words of everything that a reader would type: lines of shell blocks, and code within a line."""
    blocks = [body for language, body in FENCE.findall(path.read_text(encoding="utf-8")) if language in {"sh", ""}]
    lines = [line for body in blocks for line in body.replace("\\\n", " ").splitlines()]
    for line in [*lines, *(span.replace("\n", " ").replace("\\|", "|") for span in SPAN.findall(prose(path)))]:
        for command in re.split(r"&&|;|(?<=\s)\|(?=\s)|\$\(", re.sub(r"\s#.*", "", line)):
            try:
                words = shlex.split(command)
            except ValueError:
                continue  # not shell: half of a quotation
            while words and ASSIGNMENT.fullmatch(words[0]):
                words.pop(0)
            if words:
                yield words


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@cache
def targets() -> set[str]:
    """What make can make by name."""
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def command_at(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the words behind its name; KeyError where there is none."""
    found: Any = typer.main.get_command(app)
    while hasattr(found, "commands") and words and not words[0].startswith("-") and words[0] != "…":
        found, words = found.commands[words[0]], words[1:]
    return found, words


def alternatives(words: list[str]) -> Iterator[list[str]]:
    """`train risk|accept` is two commands."""
    for at, word in enumerate(words):
        if "|" in word:
            for one in word.split("|"):
                yield from alternatives([*words[:at], one, *words[at + 1 :]])
            return
    yield words


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    """Files and headings that are linked to are there."""
    for target in LINK.findall(prose(path)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), f"{path.name}: {target} leads nowhere"
        if anchor:
            assert anchor in map(slug, HEADING.findall(prose(linked))), f"{path.name}: {target} is no heading"


@each_document
def test_make_knows_its_targets(path: Path) -> None:
    """Every `make X` is in the Makefile."""
    for words in commands(path):
        if words[0] == "make":
            asked = {word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)}
            assert asked <= targets(), f"{path.name}: {' '.join(words)}"


@each_document
def test_the_command_knows_its_words_and_options(path: Path) -> None:
    """Every `churn-saver X --option` is one that `--help` shows."""
    for words in commands(path):
        if words[0].rpartition("/")[2] != "churn-saver":
            continue
        for each in alternatives(words[1:]):
            said = f"{path.name}: churn-saver {' '.join(each)}"
            try:
                command, rest = command_at(each)
            except KeyError:
                pytest.fail(f"{said}: no such command")
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            options = {word.partition("=")[0] for word in rest if word.startswith("--")} - {"--help"}
            assert options <= known, f"{said}: no such option"


@each_document
def test_modules_can_be_run(path: Path) -> None:
    """Every `python -m X` of ours is a module."""
    for words in commands(path):
        if words[0].startswith("python") and "-m" in words[:-1]:
            module = words[words.index("-m") + 1]
            if module.partition(".")[0] in FOLDERS:
                assert importlib.util.find_spec(module), f"{path.name}: {' '.join(words)}"


@each_document
def test_files_that_are_named_are_there(path: Path) -> None:
    """A path of ours in code leads from the root or from the document's folder; `docs/adr/0005` stands for its file."""
    for span in SPAN.findall(prose(path)):
        if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./-]+", span):
            found = [*ROOT.glob(f"{span.rstrip('/')}*"), *path.parent.glob(f"{span.rstrip('/')}*")]
            assert found, f"{path.name}: {span} is not there"


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    """A document that lies in every way fails every check."""
    lying = tmp_path / "lying.md"
    lying.write_text(
        "[gone](gone.md) `services/gateway/gone.py`\n\n```sh\nX=1 make nothing-of-the-kind DATA=x\n"
        "churn-saver train risk|nonsense --data x\npython -m tests.load.gone\n```\n"
    )
    checks = (
        test_links_lead_somewhere,
        test_make_knows_its_targets,
        test_the_command_knows_its_words_and_options,
        test_modules_can_be_run,
        test_files_that_are_named_are_there,
    )
    for check in checks:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            check(lying)
