"""Files of one JSON object a line: where lines end, and what happens to a last line that does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from churnsaver.errors import BadInput
from churnsaver.jsonl import mended, read_lines


def test_lines_end_at_a_newline_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes('\ufeff{"a": "x\u2028y"}\r\n\n{"a": "x\u0085y"}'.encode())
    assert read_lines(path) == [(1, '{"a": "x\u2028y"}'), (3, '{"a": "x\u0085y"}')]
    with pytest.raises(BadInput, match=r"none\.jsonl: cannot be read .*; expected UTF-8 JSONL"):
        read_lines(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (b'{"a": 1}\n{"a": 2}', b'{"a": 1}\n{"a": 2}\n'),
        (b'{"a": 1}\n{"brief": "\xc3', b'{"a": 1}\n'),
        (b'{"br', b""),
        (b'{"a": 1}\n', b'{"a": 1}\n'),
        (b"", b""),
        (b"Dear diary,\nthis is no JSON", b"Dear diary,\nthis is no JSON"),
        (b"{# a template of somebody's #}", b"{# a template of somebody's #}"),
    ],
    ids=["whole", "cut off", "cut off at once", "ended", "empty", "another file", "another's one line"],
)
def test_the_end_is_mended(tmp_path: Path, found: bytes, expected: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(found)
    with mended(path):
        assert path.read_bytes() == expected
    assert path.read_bytes() == expected


@pytest.mark.parametrize("found", [b'Dear diary\n{"brief": "of', b'{"a": 1}\n{"a": 2}'])
def test_what_is_refused_is_left_as_it_was_found(tmp_path: Path, found: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(found)
    with pytest.raises(BadInput, match="line 1 is none of ours"), mended(path):
        raise BadInput("line 1 is none of ours")
    assert path.read_bytes() == found


def test_what_cannot_be_mended_is_said(tmp_path: Path) -> None:
    with mended(tmp_path / "none.jsonl"):
        pass
    assert not (tmp_path / "none.jsonl").exists()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(BadInput, match=r"is no file; choose another --out"), mended(path):
            pass
