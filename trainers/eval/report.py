"""Reports as one HTML file each, with nothing to load from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from churnsaver.errors import BadInput

COLOURS = ("#1f6feb", "#d4691e", "#2c8c57", "#8a4fbf")
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2128}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #d8dee4}"
    "pre{background:#f6f8fa;padding:1rem;overflow:auto}svg text{font:12px system-ui,sans-serif;fill:#57606a}"
)


def write_report(out: Path, title: str, result: Mapping[str, Any], plots: Sequence[str]) -> Path:
    """`report.html` and `report.json` in the folder `out`; returns the HTML file's path.

    Args:
        result: numbers, nested mappings of them, and "missed": the targets that were missed.
        plots: SVG elements, shown first.
    """
    missed: Sequence[str] = result.get("missed", ())
    verdict = "".join(f"<li>{escape(sentence)}</li>" for sentence in missed)
    html = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>"
        + (f"<p>Targets missed:</p><ul>{verdict}</ul>" if missed else "<p>Every target is met.</p>")
        + "".join(f"<figure>{plot}</figure>" for plot in plots)
        + f"<table><tr><th>figure<th>value</tr>{''.join(_rows(result))}</table>"
        + f"<h2>As JSON</h2><pre>{escape(json.dumps(result, indent=2))}</pre></html>\n"
    )
    path = out / "report.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(html, encoding="utf-8")
        (out / "report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    return path


def _rows(result: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Table rows of every number in `result`, nested names joined by dots."""
    rows: list[str] = []
    for name, value in result.items():
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            rows.append(f"<tr><td>{escape(prefix + name)}<td>{value:.4f}</tr>")
        elif not isinstance(value, list):
            rows.append(f"<tr><td>{escape(prefix + name)}<td>{escape(str(value))}</tr>")
    return rows
