"""The policy's report for people: sections of tables and plots, made of the report's numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainers.eval.business import FIGURES
from trainers.eval.policy import PPO
from trainers.eval.policy_plots import (
    constraints_plot,
    cost_over_limit_by_scenario,
    costs_plot,
    forest_plot,
    segments_plot,
    stress_plot,
)
from trainers.eval.policy_targets import EQUAL_SPEND
from trainers.eval.report import Section, paragraph, table

SEGMENT_FIGURES = ("gain_usd", "roi", "incremental_saves_per_1000", "spend_usd", "contacts", "opt_outs", "churned")


def policy_sections(report: Mapping[str, Any]) -> list[Section]:
    """Verdict and figures, arena, business, segments, constraints, stress."""
    return [
        _summary(report),
        _arena(report),
        _business(report),
        _segments(report),
        _constraints(report),
        _stress(report),
    ]


def _summary(report: Mapping[str, Any]) -> Section:
    checkpoint, data, under = report["checkpoint"], report["data"], report["judged_under"]
    rows = [
        ("checkpoint", _identity(checkpoint)),
        ("data", f"{data['name']}, {report['customers']:,} customers of the test part"),
        *((name, _identity(model)) for name, model in under["models"].items()),
        *((f"{name} (env.yaml)", f"sha256 {sha256[:16]}…") for name, sha256 in under["settings_sha256"].items()),
        ("campaigns", report["campaigns"]),
        ("decisions", report["decisions"]),
        ("contacts", report["contacts"]),
        ("violations of hard rules", report["hard_rule_violations"]),
        ("the same under stress", sum(found["hard_rule_violations"] for found in report["stress"].values())),
        ("decisions under stress", sum(found["decisions"] for found in report["stress"].values())),
    ]
    warnings = [paragraph(f"Warning: {warning}.") for warning in report["warnings"]]
    return Section("What was judged", [*warnings, table(["", ""], rows)])


def _identity(checkpoint: Mapping[str, Any]) -> str:
    return f"{checkpoint['version']}, sha256 {checkpoint['sha256'][:16]}…"


def _arena(report: Mapping[str, Any]) -> Section:
    standings = [
        (place["policy"], place["gain_usd"], " to ".join(map(str, dict.fromkeys(place["ranks"]))))
        for place in report["arena"]["standings"]
    ]
    pairs = [
        (f"{pair['first']} - {pair['second']}", pair["difference_usd"], pair["simultaneous"], pair["as_drawn"])
        for pair in report["arena"]["pairs"]
    ]
    spent = [
        (
            name,
            found["costs_per_month"]["spend_usd"],
            report["gain_over"].get(name, {}).get("spend_ratio"),
            _turned_to(report["baselines"].get(name, {})),
        )
        for name, found in report["policies"].items()
    ]
    return Section(
        "Arena: every policy on the same random numbers",
        [
            paragraph(
                "Net value over contacting nobody, $ a customer and campaign, with 95 % intervals of a paired "
                "bootstrap over customers and campaigns. Baselines were turned, in other campaigns, to spend what the "
                f"policy spends; the gate asks that each spends {EQUAL_SPEND[0]:g} to {EQUAL_SPEND[1]:g} of it. "
                "Thompson sampling's posterior was fitted to a pilot and learns nothing more while it plays. Ranks are "
                "those that the simultaneous intervals leave open."
            ),
            f"<figure>{forest_plot(report)}</figure>",
            table(["policy", "net value, $", "ranks"], standings),
            table(["pair", "difference, $", "all pairs at once", "money as drawn"], pairs),
            table(["policy", "spend, $ a customer-month", "of the policy's", "turned to"], spent),
        ],
    )


def _turned_to(spec: Mapping[str, Any]) -> str:
    numbers = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in spec.items()}
    return ", ".join(f"{name} {value}" for name, value in numbers.items() if value is not None)


def _business(report: Mapping[str, Any]) -> Section:
    policies = report["policies"]
    rows = [
        (figure.title, *(found["business"][name] for found in policies.values())) for name, figure in FIGURES.items()
    ]
    note = (
        "Over the campaign and the customers of its start; what each figure means stands in trainers/eval/business.py. "
        "Saves, retention and acceptance are as drawn, on common random numbers."
    )
    return Section("As a business", [paragraph(note), table(["figure", *policies], rows)])


def _segments(report: Mapping[str, Any]) -> Section:
    rows = [
        (f"{kind}: {part}", found["share"], *(found[name] for name in SEGMENT_FIGURES), found["best_baseline_gain_usd"])
        for kind, parts in report["segments"].items()
        for part, found in parts.items()
    ]
    best = next(iter(next(iter(report["segments"].values())).values()))["best_baseline"]
    head = ["segment", "share", *(FIGURES[name].title for name in SEGMENT_FIGURES), f"net value of {best}, $"]
    note = "The response segment is the simulator's own; no policy sees it."
    return Section("By segment", [paragraph(note), f"<figure>{segments_plot(report)}</figure>", table(head, rows)])


def _constraints(report: Mapping[str, Any]) -> Section:
    rows = [
        (name, {key: cost[key] for key in ("value", "low", "high")}, cost["limit"])
        for name, cost in report["constraints"].items()
    ]
    head = ["a customer and month", PPO, "limit"]
    scenarios = cost_over_limit_by_scenario(report)
    shares = [(name.replace("_", " "), *found.values()) for name, found in scenarios.items()]
    note = (
        "The gate asks that each cost, as trained, is within its limit over its whole interval. Below, every cost as a "
        "share of its limit under stress too: prices of costs were trained for the world as it was, so where the world "
        "changes nothing holds a cost to its limit but training anew. Hard rules are masks and hold everywhere."
    )
    return Section(
        "Soft constraints",
        [
            paragraph(note),
            f"<figure>{constraints_plot(report)}</figure>",
            table(head, rows),
            f"<figure>{costs_plot(report)}</figure>",
            table(["share of the limit", *report["constraints"]], shares),
        ],
    )


def _stress(report: Mapping[str, Any]) -> Section:
    rows, described = [], []
    for name, found in report["stress"].items():
        title = name.replace("_", " ")
        described.append(
            (title, found["description"], found["new_response"], found["gain_usd"], found["hard_rule_violations"])
        )
        rows += [
            (
                f"{title}: {rival}",
                gain["equal_spend"],
                gain["spend_ratio"],
                gain["as_deployed"],
                gain["as_deployed_spend_ratio"],
            )
            for rival, gain in found["gain_over"].items()
        ]
    note = (
        "Worlds that the policy was not trained in. At equal spend, each baseline's dial is turned anew, in other "
        "campaigns, to what the policy spends there, while the policy stays as it is; read a gain beside the share of "
        "our spend that the baseline came to. The gate asks it where customers respond otherwise than in training, "
        "and that the policy does not earn less there than contacting nobody. As deployed, nobody is changed, and "
        "spend differs."
    )
    return Section(
        "Under stress",
        [
            paragraph(note),
            *(paragraph(f"{remark.replace('_', ' ')}.") for remark in report["remarks"]),
            f"<figure>{stress_plot(report)}</figure>",
            table(["stress", "what changes", "new response", "net value over never, $", "violations"], described),
            table(
                ["gain over", "at equal spend, $", "their spend / ours", "as deployed, $", "their spend / ours"], rows
            ),
        ],
    )
