"""Reports as one HTML file each, with nothing to load from elsewhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from churnsaver.checkpoints.checkpoint import MANIFEST
from churnsaver.errors import BadInput

HTML, JSON = "report.html", "report.json"
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1c2128}"
    "h2{margin-top:2.5rem;border-bottom:1px solid #d8dee4}figure{margin:1rem 0;overflow-x:auto}"
    "table{border-collapse:collapse;font-size:.9rem;display:block;overflow-x:auto;margin:1rem 0}"
    "td,th{padding:.25rem .8rem;text-align:left;border-bottom:1px solid #d8dee4;vertical-align:top}"
    "td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}"
    "small{color:#57606a}.met,.missed{padding:.5rem 1rem;border-left:.3rem solid}"
    ".met{border-color:#2c8c57;background:#eef7f1}.missed{border-color:#b3261e;background:#fcf0ef}"
    "pre{background:#f6f8fa;padding:1rem;overflow:auto}svg{max-width:100%;height:auto}"
)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report: a heading, and what stands under it.

    Attributes:
        parts: HTML or SVG elements, as `paragraph` and `table` and `figures.svg` make them.
    """

    title: str
    parts: Sequence[str]


def write_report(
    out: Path, title: str, result: Mapping[str, Any], plots: Sequence[str], sections: Sequence[Section] | None = None
) -> Path:
    """`report.html` and `report.json` in the folder `out`; returns the HTML file's path, fails as `require_writable`.

    Args:
        result: numbers, nested mappings of them, and "missed": the targets that were missed. A mapping of value,
            low and high is an interval.
        plots: SVG elements, shown first.
        sections: what stands below; None makes one of each nested mapping of `result`.
    """
    shown = sections_of(result) if sections is None else sections
    html = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>"
        + _verdict(result.get("missed", ()), result.get("targets"))
        + "".join(f"<figure>{plot}</figure>" for plot in plots)
        + "".join(f"<h2>{escape(section.title)}</h2>{''.join(section.parts)}" for section in shown)
        + f"<h2>As JSON</h2><details><summary>report.json</summary><pre>{escape(json.dumps(result, indent=2))}</pre>"
        "</details></html>\n"
    )
    require_writable(out)
    try:
        (out / HTML).write_text(html, encoding="utf-8")
        (out / JSON).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise _unwritable(out, error) from None
    return out / HTML


def require_writable(out: Path) -> None:
    """Makes the folder `out` where it is missing; asked by commands that work for minutes before `write_report`.

    Raises:
        BadInput: no report can be written there, or it is a checkpoint's folder, in which nothing else may lie.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        for path in (out / HTML, out / JSON):
            if path.exists():
                path.open("ab").close()
    except OSError as error:
        raise _unwritable(out, error) from None
    if (out / MANIFEST).exists():
        raise BadInput(f"{out}: is the folder of a checkpoint, which holds nothing else; choose another --out")


def _unwritable(out: Path, error: OSError) -> BadInput:
    return BadInput(f"{out}: cannot be written ({error.strerror}); choose another --out")


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; the first column names the row, the others hold what `said` can say, numbers to the right."""
    kind = ["" if i == 0 else ' class="number"' for i in range(len(head))]
    first = "".join(f"<th{kind[i]}>{escape(name)}" for i, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{_kind(i, value)}>{said(value)}" for i, value in enumerate(row)) for row in rows
    )
    return f"<table><tr>{first}{body}</table>"


def said(value: Any) -> str:
    """A value as HTML: an interval as `0.64 (0.51 to 0.78)`, a missing one as a dash."""
    if _is_interval(value):
        return f"{said(value['value'])} <small>({said(value['low'])} to {said(value['high'])})</small>"
    if value is None:
        return "–"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(said(each) for each in value)
    return escape(str(value))


def interval_text(interval: Mapping[str, float]) -> str:
    """An interval of dollars or shares as plain text."""
    return f"{interval['value']:.3g} ({interval['low']:.3g} to {interval['high']:.3g})"


def sections_of(result: Mapping[str, Any]) -> list[Section]:
    """A section for the numbers of `result`, and one for each mapping in it."""
    nested = {name: value for name, value in result.items() if isinstance(value, Mapping) and not _is_interval(value)}
    plain = {name: value for name, value in result.items() if name not in {*nested, "missed"}}
    sections = [Section(name.replace("_", " ").capitalize(), [_tabulated(value)]) for name, value in nested.items()]
    return [Section("Figures", [_tabulated(plain)]), *sections] if plain else sections


# -- how -----------------------------------------------------------------------------------------------


def _verdict(missed: Sequence[str], targets: str | None) -> str:
    if not missed:
        return f'<p class="met">Every target is met{f" ({escape(targets)})" if targets else ""}.</p>'
    return f'<div class="missed">Targets missed:<ul>{"".join(f"<li>{escape(each)}" for each in missed)}</ul></div>'


def _tabulated(values: Mapping[str, Any]) -> str:
    """A mapping of mappings with the same few plain entries as a matrix, any other as two columns."""
    rows = list(values.values())
    if len(rows) > 1 and all(isinstance(row, Mapping) and not _is_interval(row) for row in rows):
        head = list(rows[0])
        if all(list(row) == head and not any(_is_nested(value) for value in row.values()) for row in rows):
            return table(["", *head], [[name, *row.values()] for name, row in values.items()])
    return table(["figure", "value"], _flattened(values))


def _flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Everything in nested mappings, names joined by dots; lists of mappings are left to the JSON."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and not _is_interval(value):
            rows += _flattened(value, f"{prefix}{name}.")
        elif not (isinstance(value, list) and any(isinstance(each, Mapping) for each in value)):
            rows.append((prefix + name, value))
    return rows


def _number(value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if abs(value) >= 1.0 else f"{value:.4f}"


def _is_interval(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"value", "low", "high"}


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list) and not _is_interval(value)


def _kind(column: int, value: Any) -> str:
    return "" if column == 0 or isinstance(value, str) else ' class="number"'
