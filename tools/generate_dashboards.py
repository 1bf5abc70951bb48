"""Writes monitoring/grafana/dashboards/*.json with Grafana's own library, from the charts that stand below.

`--check` writes nothing and exits 1 where a dashboard is not what this file says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

FOLDER = Path(__file__).resolve().parent.parent / "monitoring" / "grafana" / "dashboards"
TAG = "churn-saver"
DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
# In queries, `@` stands for the job and instance that were chosen above the charts.
CHOSEN = 'job=~"$job",instance=~"$instance"'
GREEN, RED = "green", "red"
GRAPH_HEIGHT = 8


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One panel.

    Attributes:
        says: its description, for who has not seen it before.
        queries: PromQL by legend.
        limit: where good turns into bad; the service levels are those of docs/runbooks/README.md.
        bad: on which side of the limit it is bad.
        width: in columns, 24 a line.
    """

    title: str
    says: str
    queries: dict[str, str]
    kind: Literal["graph", "stat", "table"] = "graph"
    unit: str = "short"
    limit: float | None = None
    bad: Literal["above", "below"] = "above"
    stacked: bool = False
    width: int = 8


@dataclass(frozen=True, kw_only=True)
class Board:
    """One dashboard; `uid` is its address for ever."""

    uid: str
    title: str
    says: str
    rows: dict[str, tuple[Chart, ...]]


CALLERS = 'route=~"/v1/.+|/retain"'
RETAIN = 'route=~"/v1/retain|/retain"'


def quantile(q: float, buckets: str, by: str = "") -> str:
    """The quantile of a histogram."""
    return f"histogram_quantile({q}, sum by (le{', ' + by if by else ''}) (rate({buckets}[$__rate_interval])))"


def quantiles(buckets: str) -> dict[str, str]:
    """Median, p95 and p99 of a histogram, by legend."""
    return {name: quantile(q, buckets) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


SERVICE_LEVELS = (
    Chart(
        title="Available, 30 days",
        says="Share of the callers' requests answered without a 5xx. The promise is 99.5 %.",
        queries={
            "": f'1 - (sum(increase(gateway_http_requests_total{{@,{CALLERS},code=~"5.."}}[30d])) or vector(0))'
            f" / sum(increase(gateway_http_requests_total{{@,{CALLERS}}}[30d]))"
        },
        kind="stat",
        unit="percentunit",
        limit=0.995,
        bad="below",
        width=4,
    ),
    Chart(
        title="Errors now",
        says="Share of the callers' requests answered with a 5xx. The promise is less than 1 %.",
        queries={
            "": f'(sum(rate(gateway_http_requests_total{{@,{CALLERS},code=~"5.."}}[$__rate_interval])) or vector(0))'
            f" / sum(rate(gateway_http_requests_total{{@,{CALLERS}}}[$__rate_interval]))"
        },
        kind="stat",
        unit="percentunit",
        limit=0.01,
        width=4,
    ),
    Chart(
        title="Retain, p95",
        says="19 of 20 requests to /v1/retain are answered faster. The promise is 500 ms.",
        queries={"": quantile(0.95, f"gateway_http_request_seconds_bucket{{@,{RETAIN}}}")},
        kind="stat",
        unit="s",
        limit=0.5,
        width=4,
    ),
    Chart(
        title="Retain, p99",
        says="99 of 100 requests to /v1/retain are answered faster. The promise is a second.",
        queries={"": quantile(0.99, f"gateway_http_request_seconds_bucket{{@,{RETAIN}}}")},
        kind="stat",
        unit="s",
        limit=1.0,
        width=4,
    ),
    Chart(
        title="Second reviews that stop a text",
        says="Share of the filled texts that the shield's second review blocks. The promise is less than 0.1 %.",
        queries={
            "": 'sum(rate(shield_reviews_total{@,stage="filled",verdict="block"}[$__rate_interval]))'
            ' / sum(rate(shield_reviews_total{@,stage="filled"}[$__rate_interval]))'
        },
        kind="stat",
        unit="percentunit",
        limit=0.001,
        width=4,
    ),
    Chart(
        title="Messages from bank or model",
        says="Share of the contacts whose message is not the approved text. The promise is at least 90 %.",
        queries={
            "": 'sum(rate(retain_contacts_total{@,source=~"bank|model"}[$__rate_interval]))'
            " / sum(rate(retain_contacts_total{@}[$__rate_interval]))"
        },
        kind="stat",
        unit="percentunit",
        limit=0.9,
        bad="below",
        width=4,
    ),
)

OVERVIEW = Board(
    uid="churn-saver-overview",
    title="Churn-Saver: overview",
    says="Whether the promises are kept, and rate, errors and duration of every service.",
    rows={
        "Service levels": (
            *SERVICE_LEVELS,
            Chart(
                title="Alerts",
                says="Those that fire now. docs/runbooks has a page for each.",
                queries={"": 'count by (alertname, severity) (ALERTS{alertstate="firing"})'},
                kind="table",
                width=24,
            ),
        ),
        "Gateway": (
            Chart(
                title="Requests, by route",
                says="HTTP requests a second; `other` are unknown paths, refused bodies and the documentation.",
                queries={
                    "{{method}} {{route}}": "sum by (method, route) "
                    "(rate(gateway_http_requests_total{@}[$__rate_interval]))"
                },
                unit="reqps",
                stacked=True,
            ),
            Chart(
                title="Answers that are no success, by route and status",
                says="4xx are the callers' mistakes; 503 means that Redis is away; any other 5xx is a fault of ours.",
                queries={
                    "{{code}} {{route}}": "sum by (code, route) "
                    '(rate(gateway_http_requests_total{@,code!~"2.."}[$__rate_interval]))'
                },
                unit="reqps",
                stacked=True,
            ),
            Chart(
                title="Time to answer /v1/retain",
                says="As the gateway measures it, from the request's head to the answer's last byte.",
                queries=quantiles(f"gateway_http_request_seconds_bucket{{@,{RETAIN}}}"),
                unit="s",
                limit=0.5,
            ),
        ),
        "Decision, generator, shield": (
            Chart(
                title="RPCs, by method",
                says="Calls a second that each service answers.",
                queries={"{{method}}": "sum by (method) (rate(rpc_requests_total{@}[$__rate_interval]))"},
                unit="reqps",
            ),
            Chart(
                title="Share of RPCs that fail",
                says="Calls that end in anything but OK and were not given up by the caller.",
                queries={
                    "{{method}}": "(sum by (method) "
                    '(rate(rpc_requests_total{@,code!~"OK|CANCELLED"}[$__rate_interval]))'
                    " or 0 * sum by (method) (rate(rpc_requests_total{@}[$__rate_interval])))"
                    " / sum by (method) (rate(rpc_requests_total{@}[$__rate_interval]))"
                },
                unit="percentunit",
                limit=0.01,
            ),
            Chart(
                title="Time to answer an RPC, p95",
                says="As the service itself measures it; the gateway allows 150, 150 and 100 ms.",
                queries={"{{method}}": quantile(0.95, "rpc_request_seconds_bucket{@}", "method")},
                unit="s",
                limit=0.1,
            ),
        ),
        "Processes": (
            Chart(
                title="Replicas, by service and version",
                says="Processes that answer Prometheus.",
                queries={"{{service}} {{version}}": "count by (service, version) (churn_saver_build_info{@})"},
            ),
            Chart(
                title="CPU",
                says="Cores used by each process.",
                queries={"{{job}} {{instance}}": "rate(process_cpu_seconds_total{@}[$__rate_interval])"},
            ),
            Chart(
                title="Memory",
                says="Resident memory of each process.",
                queries={"{{job}} {{instance}}": "process_resident_memory_bytes{@}"},
                unit="bytes",
            ),
        ),
    },
)

DECISIONS = Board(
    uid="churn-saver-decisions",
    title="Churn-Saver: decisions and money",
    says="Whom it contacts, with what, what that reserves, and what came of it.",
    rows={
        "Decisions": (
            Chart(
                title="Decisions, by mode",
                says="New decisions a second; answers given again are not among them.",
                queries={"{{mode}}": "sum by (mode) (rate(retain_decisions_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
            ),
            Chart(
                title="Baseline, by reason",
                says="Why the scorecard decided and not the policy. Empty while the policy decides everything.",
                queries={
                    "{{baseline_reason}}": "sum by (baseline_reason) "
                    '(rate(retain_decisions_total{@,mode="baseline"}[$__rate_interval]))'
                },
                unit="ops",
                stacked=True,
            ),
            Chart(
                title="Decisions, by arm",
                says="The experiment's arms; a holdout is never contacted.",
                queries={"{{arm}}": "sum by (arm) (rate(retain_decisions_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
            ),
            Chart(
                title="What the ledger said",
                says="`booked` and `none` are as decided; anything else is the hard rule that refused, or an outage.",
                queries={"{{booking}}": "sum by (booking) (rate(retain_decisions_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
            ),
            Chart(
                title="Time to answer, p95, by source of the message",
                says="`none` are decisions not to contact.",
                queries={"{{source}}": quantile(0.95, "retain_request_seconds_bucket{@}", "source")},
                unit="s",
                limit=0.5,
            ),
            Chart(
                title="Answers given again",
                says="Replays of a request, and standing decisions of a customer who was decided today.",
                queries={"{{kind}}": "sum by (kind) (rate(retain_repeats_total{@}[$__rate_interval]))"},
                unit="ops",
            ),
        ),
        "Contacts": (
            Chart(
                title="Share of the decisions that contact",
                says="After shield and ledger.",
                queries={
                    "contacted": 'sum(rate(retain_decisions_total{@,contact="true"}[$__rate_interval]))'
                    " / sum(rate(retain_decisions_total{@}[$__rate_interval]))"
                },
                unit="percentunit",
            ),
            Chart(
                title="Contacts, by offer",
                says="Booked contacts a second.",
                queries={"{{offer}}": "sum by (offer) (rate(retain_contacts_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
            ),
            Chart(
                title="Contacts, by channel",
                says="Booked contacts a second; the channel is the first of the customer's that they consented to.",
                queries={"{{channel}}": "sum by (channel) (rate(retain_contacts_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
            ),
        ),
        "Money": (
            Chart(
                title="Budget used",
                says="Share of each campaign's budget that is reserved.",
                queries={
                    "{{campaign}}": "max by (campaign) (campaign_reserved_cents{@})"
                    " / max by (campaign) (campaign_budget_cents{@})"
                },
                kind="stat",
                unit="percentunit",
                limit=0.9,
            ),
            Chart(
                title="Budget left",
                says="What each campaign may still reserve.",
                queries={
                    "{{campaign}}": "(max by (campaign) (campaign_budget_cents{@})"
                    " - max by (campaign) (campaign_reserved_cents{@})) / 100"
                },
                kind="stat",
                unit="currencyUSD",
            ),
            Chart(
                title="Reserved an hour, by offer",
                says="As if every offer were accepted.",
                queries={
                    "{{offer}}": "sum by (offer) (rate(retain_reserved_cents_total{@}[$__rate_interval])) * 3600 / 100"
                },
                unit="currencyUSD",
                stacked=True,
            ),
        ),
        "Outcomes": (
            Chart(
                title="Outcomes, by kind",
                says="As callers report them, each once.",
                queries={"{{outcome}}": "sum by (outcome) (rate(outcomes_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
            ),
            Chart(
                title="For one contact, over a day",
                says="Outcomes reported over contacts booked, both of the last day; some will answer later.",
                queries={
                    "{{outcome}}": "sum by (outcome) (increase(outcomes_total{@}[1d]))"
                    " / ignoring (outcome) group_left () sum(increase(retain_contacts_total{@}[1d]))"
                },
                unit="percentunit",
            ),
            Chart(
                title="Releases, by answer",
                says="What callers were told right before sending: `send`, or why not.",
                queries={"{{answer}}": "sum by (answer) (rate(releases_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
            ),
        ),
    },
)

SAFETY = Board(
    uid="churn-saver-safety",
    title="Churn-Saver: safety",
    says="What the shield reviews, what it finds, and what is sent without it.",
    rows={
        "Reviews": (
            Chart(
                title="Reviews, by stage and verdict",
                says="`draft`: with slots, for the bank or live. `filled`: what would be sent.",
                queries={
                    "{{stage}} {{verdict}}": "sum by (stage, verdict) (rate(shield_reviews_total{@}[$__rate_interval]))"
                },
                unit="ops",
                stacked=True,
            ),
            Chart(
                title="Filled texts that are blocked",
                says="They passed as drafts or were approved by a person. Stopped, not sent. The promise is 0.1 %.",
                queries={
                    "blocked": 'sum(rate(shield_reviews_total{@,stage="filled",verdict="block"}[$__rate_interval]))'
                    ' / sum(rate(shield_reviews_total{@,stage="filled"}[$__rate_interval]))'
                },
                unit="percentunit",
                limit=0.001,
            ),
            Chart(
                title="Findings, by rule",
                says="Reasons not to send, of drafts and filled texts. `internal_error`: a rule broke.",
                queries={"{{rule}}": "sum by (rule) (rate(shield_findings_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
            ),
        ),
        "What is sent": (
            Chart(
                title="Contacts, by verdict",
                says="`not_reviewed`: the shield was away, and the approved text went out without a name.",
                queries={"{{verdict}}": "sum by (verdict) (rate(retain_contacts_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
            ),
            Chart(
                title="Contacts given up",
                says="Not even the approved text passed.",
                queries={"given up": "sum(rate(retain_messages_blocked_total{@}[$__rate_interval]))"},
                unit="ops",
            ),
            Chart(
                title="Contacts, by source",
                says="Bank, model, or the approved text.",
                queries={"{{source}}": "sum by (source) (rate(retain_contacts_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
            ),
        ),
        "Time": (
            Chart(
                title="Classifier",
                says="Time for one text; the promise is a p95 of 25 ms.",
                queries=quantiles("shield_classifier_seconds_bucket{@}"),
                unit="s",
                limit=0.025,
            ),
            Chart(
                title="Review",
                says="Time of a whole review, as the shield measures it.",
                queries=quantiles('rpc_request_seconds_bucket{@,method="/churnsaver.shield.v1.ShieldService/Review"}'),
                unit="s",
            ),
            Chart(
                title="Texts of the model that were not kept, by reason",
                says="Before and at their review.",
                queries={"{{reason}}": "sum by (reason) (increase(generator_candidates_rejected_total{@}[1h]))"},
            ),
        ),
    },
)

MODELS = Board(
    uid="churn-saver-models",
    title="Churn-Saver: models and bank",
    says="Which checkpoints serve, whether new ones arrive, and how full the bank of messages is.",
    rows={
        "Checkpoints": (
            Chart(
                title="What serves",
                says="By kind, version and replica; more than one version of a kind for long is an alert.",
                queries={"": "max by (kind, version, job, instance) (model_info{@})"},
                kind="table",
                width=24,
            ),
            Chart(
                title="Swapped in the last hour",
                says="Checkpoints that replaced another while serving, all replicas together.",
                queries={"{{kind}}": "sum by (kind) (increase(checkpoint_swaps_total{@}[1h]))"},
                width=6,
            ),
            Chart(
                title="Champions refused now",
                says="Replicas that go on with the checkpoint before.",
                queries={"{{kind}}": "sum by (kind) (champion_refused{@})"},
                limit=1,
                width=6,
            ),
            Chart(
                title="Registry last seen",
                says="How long ago the registry answered, the worst replica.",
                queries={"{{kind}}": "time() - min by (kind) (registry_seen_timestamp_seconds{@})"},
                unit="s",
                limit=300,
                width=6,
            ),
            Chart(
                title="Refused in the last hour",
                says="Checkpoints, or states of the registry; the log line `checkpoint.refused` has the reason.",
                queries={"{{kind}}": "sum by (kind) (increase(checkpoints_refused_total{@}[1h]))"},
                width=6,
            ),
        ),
        "Generator": (
            Chart(
                title="Bank's coverage",
                says="Share of the briefs that have a message that may be given out, the worst replica.",
                queries={"": "min(generator_bank_briefs{@} / generator_bank_briefs_wanted{@})"},
                kind="stat",
                unit="percentunit",
                limit=0.8,
                bad="below",
                width=6,
            ),
            Chart(
                title="Last filling of the bank",
                says="From the start until no brief could get its first message any more.",
                queries={"{{instance}}": "generator_bank_fill_seconds{@}"},
                kind="stat",
                unit="s",
                width=6,
            ),
            Chart(
                title="Requests that wait for the model",
                says="Those being written included; autoscaling can follow it.",
                queries={"{{instance}}": "generator_queue_depth{@}"},
                limit=8,
                width=12,
            ),
            Chart(
                title="Writes that came to nothing",
                says="By reason; `busy` and `late` had too little time, the others are the engine's faults.",
                queries={"{{reason}}": "sum by (reason) (rate(generator_engine_failures_total{@}[$__rate_interval]))"},
                unit="ops",
                width=12,
            ),
            Chart(
                title="vLLM server",
                says="Texts that it writes and that wait in it; nothing is shown with the embedded engine.",
                queries={
                    "writing {{instance}}": "generator_engine_running{@}",
                    "waiting {{instance}}": "generator_engine_waiting{@}",
                },
                limit=8,
                width=6,
            ),
            Chart(
                title="vLLM's KV cache in use",
                says="Where it is full, texts wait. The server's own share of memory is the chart's to set.",
                queries={"{{instance}}": "generator_engine_kv_cache_use{@}"},
                unit="percentunit",
                width=6,
            ),
            Chart(
                title="Messages, by source",
                says="What the generator gave out. The gateway falls back on the approved text where it is too late.",
                queries={"{{source}}": "sum by (source) (rate(generator_messages_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
                width=12,
            ),
            Chart(
                title="Briefs in the bank",
                says="With a message, by replica.",
                queries={
                    "{{instance}}": "generator_bank_briefs{@}",
                    "wanted": "max(generator_bank_briefs_wanted{@})",
                },
                width=12,
            ),
            Chart(
                title="Messages retired in the last day",
                says="By people, or for more opt-outs than their siblings; `churn-saver bank list` says which.",
                queries={"{{why}}": "sum by (why) (increase(generator_bank_retired_total{@}[1d]))"},
                width=8,
            ),
            Chart(
                title="A former bank serves",
                says="1 while a new model's bank is too empty to take over, or its messages wait for approval.",
                queries={"{{instance}}": "generator_bank_swap_pending{@}"},
                width=8,
            ),
            Chart(
                title="Calls to Redis that the bank went without",
                says="It serves from memory meanwhile; `full` is a Redis out of memory.",
                queries={
                    "{{reason}}": "sum by (reason) (rate(generator_bank_store_failures_total{@}[$__rate_interval]))"
                },
                unit="ops",
                width=8,
            ),
        ),
    },
)

LEDGER = Board(
    uid="churn-saver-ledger",
    title="Churn-Saver: kill switch, ledger, outbox",
    says="Whether people can stop it, and whether nothing that it decided can be lost.",
    rows={
        "Kill switch": (
            Chart(
                title="On",
                says="1 while a gateway answers with the baseline: switched on, forced, or unknown.",
                queries={"": "max(kill_switch_on{@})"},
                kind="stat",
                limit=1,
            ),
            Chart(
                title="Age of its state",
                says="How long ago each gateway last read it from Redis; turning it reaches nobody who cannot read it.",
                queries={"{{instance}}": "kill_switch_age_seconds{@}"},
                unit="s",
                limit=10,
            ),
            Chart(
                title="Decisions under it",
                says="Share of the new decisions that the switch turned into the baseline's.",
                queries={
                    "under the switch": "(sum(rate(retain_decisions_total{@,baseline_reason=~"
                    '"kill_switch|force_baseline|kill_state_unknown"}[$__rate_interval])) or vector(0))'
                    " / sum(rate(retain_decisions_total{@}[$__rate_interval]))"
                },
                unit="percentunit",
            ),
        ),
        "Ledger": (
            Chart(
                title="Decisions without the ledger",
                says="Redis was away: nobody is contacted, and the record waits on the gateway's disk.",
                queries={
                    "journaled": 'sum(rate(retain_decisions_total{@,booking="journaled"}[$__rate_interval]))'
                    " or vector(0)"
                },
                unit="ops",
            ),
            Chart(
                title="Records that wait on a disk",
                says="They are sent on when Redis is back.",
                queries={"{{instance}}": "journal_waiting_records{@}"},
                limit=1,
            ),
            Chart(
                title="What should never happen, in the last hour",
                says="Failed writes to the disk, commands that Redis refuses for what they say, unexpected errors.",
                queries={
                    "not written: {{file}}": "sum by (file) (increase(journal_write_failures_total{@}[1h]))",
                    "refused commands": "sum(increase(ledger_commands_refused_total{@}[1h]))",
                    "failed: {{task}}": "sum by (task) (increase(background_failures_total{@}[1h]))",
                },
                limit=1,
            ),
        ),
        "Outbox": (
            Chart(
                title="Records that wait to be published",
                says="Decisions and outcomes in Redis on their way to Pub/Sub.",
                queries={"waiting": "max(outbox_waiting_records{@})"},
            ),
            Chart(
                title="The oldest of them",
                says="How long it has waited.",
                queries={"oldest": "max(outbox_oldest_seconds{@})"},
                unit="s",
                limit=300,
            ),
            Chart(
                title="Published, by topic",
                says="Records a second.",
                queries={"{{topic}}": "sum by (topic) (rate(outbox_published_total{@}[$__rate_interval]))"},
                unit="ops",
                stacked=True,
            ),
        ),
    },
)

BOARDS = (OVERVIEW, DECISIONS, SAFETY, MODELS, LEDGER)


def build(board: Board) -> str:
    """The dashboard as JSON."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.says)
        .tags([TAG])
        .readonly()
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(dashboard.DashboardLink(TAG).type(models.DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name, query in (
        ("job", "label_values(churn_saver_build_info, job)"),
        ("instance", 'label_values(churn_saver_build_info{job=~"$job"}, instance)'),
    ):
        built.with_variable(_choice(name, query))
    numbers = iter(range(1, 1000))
    for title, charts in board.rows.items():
        built.with_row(dashboard.Row(title).id(next(numbers)))
        for chart in charts:
            built.with_panel(_panel(chart).id(next(numbers)))
    return json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _choice(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .query(query)
        .datasource(DATASOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(chart: Chart) -> timeseries.Panel | stat.Panel | table.Panel:
    panel: timeseries.Panel | stat.Panel | table.Panel
    if chart.kind == "stat":
        panel = (
            stat.Panel()
            .height(5 if chart.width < 6 else GRAPH_HEIGHT)
            .color_mode(common_models.BigValueColorMode.VALUE)
        )
        panel.graph_mode(common_models.BigValueGraphMode.AREA)
        panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    elif chart.kind == "table":
        # The values are all 1; what is told stands in the labels.
        hidden = {"excludeByName": {"Time": True, "Value": True}}
        panel = table.Panel().height(6).with_transformation(models.DataTransformerConfig("organize", options=hidden))
    else:
        panel = _graph(chart)
    panel.title(chart.title).description(chart.says).datasource(DATASOURCE).span(chart.width).unit(chart.unit)
    panel.thresholds(_thresholds(chart))
    for target in _targets(chart):
        panel.with_target(target)
    return panel


def _graph(chart: Chart) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(common_models.LegendDisplayMode.LIST).show_legend(True)
    panel = (
        timeseries.Panel()
        .height(GRAPH_HEIGHT)
        .min(0)
        .fill_opacity(20 if chart.stacked else 5)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(legend.placement(common_models.LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    )
    if chart.stacked:
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    if chart.limit is not None:
        style = common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(style)
    return panel


def _thresholds(chart: Chart) -> dashboard.ThresholdsConfig:
    below, above = (GREEN, RED) if chart.bad == "above" else (RED, GREEN)
    steps = [models.Threshold(value=None, color=GREEN if chart.limit is None else below)]
    if chart.limit is not None:
        steps.append(models.Threshold(value=chart.limit, color=above))
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _targets(chart: Chart) -> Iterator[prometheus.Dataquery]:
    for ref, (legend, expr) in zip("ABC", chart.queries.items(), strict=False):
        query = prometheus.Dataquery().ref_id(ref).expr(expr.replace("@", CHOSEN)).datasource(DATASOURCE)
        query.legend_format(legend or "__auto")
        if chart.kind == "table":
            query.instant().format(prometheus_models.PromQueryFormat.TABLE)
        else:
            query.range()
        yield query


def main() -> None:
    """Writes the dashboards, or compares."""
    wanted = {FOLDER / f"{board.uid.removeprefix(TAG + '-')}.json": build(board) for board in BOARDS}
    if "--check" not in sys.argv:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for path, document in wanted.items():
            path.write_text(document, encoding="utf-8")
    elif wanted != {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}:
        sys.exit(f"{FOLDER}: is not what tools/generate_dashboards.py says; run it")


if __name__ == "__main__":
    main()
