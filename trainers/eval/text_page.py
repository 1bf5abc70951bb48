"""The page for people: figures of all writers, and what each wrote for the same briefs, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from churnsaver.domain.message import Brief
from trainers.eval.report import Section, paragraph, table, write_report

NOTE = (
    "Writers' drafts are as they came, at temperature 1; nothing was chosen. The gateway fills slots. A draft with a "
    "red edge is one that the shield's rules stop."
)


def write_page(
    out: Path,
    result: Mapping[str, Any],
    briefs: Sequence[Brief],
    texts: Mapping[str, Sequence[str]],
    passed: Mapping[str, Sequence[bool]],
) -> Path:
    """`report.html` and `report.json` in `out`; the texts stand in the page only.

    Args:
        texts, passed: by writer, for each brief a draft and whether the rules let it pass.
    """
    names = list(result["writers"])
    figures = list(result["writers"][names[0]])
    rates = [
        [
            name,
            {"value": rate["win_rate"], "low": rate["win_rate_low"], "high": rate["win_rate_high"]},
            {
                "value": rate["length_controlled"],
                "low": rate["length_controlled_low"],
                "high": rate["length_controlled_high"],
            },
            rate["ties"],
            rate["pairs"],
            rate["briefs"],
        ]
        for name, rate in result["win_rates"].items()
    ]
    checked = result["audit"]
    divergence = ""
    if (kl := result.get("kl")) is not None:
        divergence = (
            f"Divergence of PPO from SFT: {kl['value']:.2f} nats a text ({kl['low']:.2f} to {kl['high']:.2f}), "
            f"target {kl['target']:g}. "
        )
    sections = [
        Section(
            "Figures",
            [table(["", *names], [[each, *(result["writers"][name][each] for name in names)] for each in figures])],
        ),
        Section(
            "Win rates by the independent judge",
            [
                table(["", "win rate", "at equal length", "ties", "pairs", "briefs"], rates),
                paragraph(
                    "In both orders, a disagreement counts as a tie, ties half; this judge scores each text alone, so "
                    "that no order can sway it. Intervals are clustered by brief. "
                    f"{divergence}Audit: {checked['violations']} violations in {checked['messages']} "
                    f"messages of {checked['written']} drafts."
                ),
            ],
        ),
        Section("Side by side", [paragraph(NOTE), *(_row(i, brief, texts, passed) for i, brief in enumerate(briefs))]),
    ]
    return write_report(out, "Texts before and after tuning", result, [], sections)


def _row(i: int, brief: Brief, texts: Mapping[str, Sequence[str]], passed: Mapping[str, Sequence[bool]]) -> str:
    asked = ", ".join(f"{name} {value}" for name, value in brief.model_dump().items() if name != "language")
    cells = "".join(
        f'<td style="white-space:pre-wrap;min-width:14rem;border-left:.2rem solid '
        f'{"#2c8c57" if passed[name][i] else "#b3261e"}">{escape(drafts[i])}</td>'
        for name, drafts in texts.items()
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in texts)
    return f"<h3>{escape(asked)}</h3><table><tr>{head}</tr><tr>{cells}</tr></table>"
