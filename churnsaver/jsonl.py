"""Files of one JSON object a line, as people bring them along and as commands add to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from churnsaver.errors import BadInput

BEGINNING = b'{"brief"'  # of each line that `generate` and `label` add


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file as `numbered` has them; BadInput where it cannot be read."""
    try:
        return numbered(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); expected UTF-8 JSONL") from None


def numbered(text: str) -> list[tuple[int, str]]:
    """Every line that is not blank, with its number from 1.

    A line ends at a newline alone: str.splitlines would also part it at U+0085 and U+2028, which JSON may hold as they
    are.
    """
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


@contextmanager
def mended(path: Path) -> Iterator[None]:
    """Makes a file fit to be added to, where there is one; what is refused within is left as it was found.

    A last line without its newline gets it, as after an edit by hand; one of ours that was cut off is removed.
    Anything else is left for who reads it to refuse.

    Raises:
        BadInput: it cannot be read or written, or is no file, such as a pipe, which would be read for ever.
    """
    if path.exists() and not path.is_file():
        raise BadInput(f"{path}: is no file; choose another --out")
    try:
        found = path.read_bytes() if path.exists() else b""
        if (fit := _mended(found)) != found:
            path.write_bytes(fit)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read or written ({error.strerror}); choose another --out") from None
    try:
        yield
    except BadInput:
        if fit != found:
            path.write_bytes(found)
        raise


def _mended(found: bytes) -> bytes:
    last = found.rpartition(b"\n")[2]
    if not last.strip():
        return found
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return found.removesuffix(last) if last[: len(BEGINNING)] == BEGINNING[: len(last)] else found
    return found + b"\n"
