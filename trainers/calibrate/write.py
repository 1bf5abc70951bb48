"""Puts calibrated values into `env.yaml`: only the numbers change, and the intervals that stand beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from churnsaver.errors import SettingsError
from trainers.calibrate.estimate import Estimate

# "calibrated from starbucks_promo_train, 95 % -6.76 to -5.44", on the value's line or in the comment above it.
BESIDE = r"(calibrated from {stem}, 95 % )\S+ to [-+.\de]*\d"


def write_estimates(path: Path, estimates: Sequence[Estimate]) -> None:
    """Replaces in `path` the values of the estimates that are used; every other byte stays.

    Raises:
        SettingsError: the file has no such parameter.
    """
    text = path.read_bytes().decode()
    for estimate in estimates:
        if estimate.used:
            text = _replaced(text, estimate, path)
    path.write_bytes(text.encode())


def _replaced(text: str, estimate: Estimate, path: Path) -> str:
    node = _scalar(text, ("dynamics", *estimate.parameter.split(".")), path)
    start, end = node.start_mark.index, node.end_mark.index
    line_end = text.find("\n", end) if "\n" in text[end:] else len(text)
    before, beside = text[:start], text[end:line_end]
    stem = re.escape(estimate.file.split(".")[0])
    pattern = re.compile(BESIDE.format(stem=stem), re.IGNORECASE)
    interval = rf"\g<1>{estimate.low:g} to {estimate.high:g}"
    beside, found = pattern.subn(interval, beside, count=1)
    if not found and (above := _comment_above(before)) is not None:
        before = before[:above] + pattern.sub(interval, before[above:], count=1)
    return f"{before}{estimate.value:g}{beside}{text[line_end:]}"


def _comment_above(before: str) -> int | None:
    """Where the block of comment lines above the value's line begins; None without one."""
    lines = before.splitlines(keepends=True)
    first = at = len(lines) - 1  # the value's own line, cut at the value
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return sum(map(len, lines[:first])) if first < at else None


def _scalar(text: str, keys: Sequence[str], path: Path) -> yaml.ScalarNode:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for key in keys:
        inner = {name.value: value for name, value in node.value} if isinstance(node, yaml.MappingNode) else {}
        if key not in inner:
            raise SettingsError(
                f"{path}: has no {'.'.join(keys)}; compare with the env.yaml that came with this version"
            )
        node = inner[key]
    if not isinstance(node, yaml.ScalarNode):
        raise SettingsError(f"{path}: {'.'.join(keys)} is not a number; expected one")
    return node
