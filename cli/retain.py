"""`retain`: sends customers of a CSV through a running gateway and shows what it decided."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table

from churnsaver.domain.schema import DatasetSchema, Role, Scalar
from churnsaver.domain.scorecard import Scorecard
from churnsaver.errors import BadInput
from churnsaver.settings import load_schema
from cli.apps import app
from cli.common import SEED, JsonOption, SeedOption, emit, progress, stdout
from cli.registry import champion
from cli.stack import gateway_url, read_answer

# A dataset of customers seldom says what they are called, where they live and what they consented to.
# These stand in for it, drawn by the customer's id, so that a demonstration is the same every time.
FIRST_NAMES = ("Ana", "Ben", "Chloé", "Dmitri", "Elif", "Femi", "Grace", "Hiro", "Ines", "Jonas", "Kavya", "Liam")
ZONES = ("America/New_York", "America/Los_Angeles", "Europe/Berlin", "Asia/Tokyo", "Australia/Sydney", "Africa/Lagos")
CHANNELS: tuple[dict[str, dict[str, bool]], ...] = (
    {"sms": {"consent": True}, "email": {"consent": True}},
    {"email": {"consent": True}},
    {"sms": {"consent": False}, "email": {"consent": True}},
    {"push": {"consent": True}, "sms": {"consent": True}},
)


@app.command()
def retain(
    *,
    csv: Annotated[Path, typer.Option("--csv", help="Customers, one a row, following the schema.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many customers to send.")] = 20,
    schema: Annotated[
        Path | None, typer.Option("--schema", help="Their schema; that of the serving risk model if not given.")
    ] = None,
    riskiest: Annotated[
        bool, typer.Option("--riskiest", help="Those likeliest to leave first, not in the file's order.")
    ] = False,
    url: Annotated[str | None, typer.Option("--url", help="Gateway; the local one if not given.")] = None,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Send customers through a running gateway and show decision, offer, message, verdict and latency.

    Where the CSV says nothing of name, zone and channels, they are drawn by the customer's id.
    """
    from trainers.data.customers import read_customers

    dataset = load_schema(schema) if schema else _scorecard().dataset
    customers = read_customers(csv, dataset)
    if riskiest:
        customers.sort(key=_scorecard().risk, reverse=True)
    customers = customers[:limit]
    with httpx.Client(base_url=gateway_url(url), timeout=10.0) as client, progress() as bar:
        rows = bar.track(customers, description="retaining")
        answers = [_send(client, request_body(dataset, row, seed)) for row in rows]
    if as_json:
        emit({"answers": answers}, as_json=True)
        return
    stdout.print(_table(answers))
    contacted = sum(answer["decision"]["contact"] for answer in answers)
    sources = Counter(answer["message"]["source"] for answer in answers if answer["message"])
    stdout.print(f"{contacted} of {len(answers)} contacted; messages from {dict(sources)}")


def request_body(schema: DatasetSchema, row: Mapping[str, Scalar], seed: int) -> dict[str, Any]:
    """A customer's row as the body of `/v1/retain`."""
    id_column = schema.name_of(Role.ID)
    customer_id = str(row[id_column]) if id_column else hashlib.sha256(repr(row).encode()).hexdigest()[:12]
    draw = int.from_bytes(hashlib.sha256(f"{seed}|{customer_id}".encode()).digest()[:8])
    return {
        "request_id": uuid.uuid4().hex,
        "customer": {
            "id": customer_id,
            "first_name": FIRST_NAMES[draw % len(FIRST_NAMES)],
            "locale": "en-US",
            "timezone": ZONES[draw // 97 % len(ZONES)],
            "channels": CHANNELS[draw // 7919 % len(CHANNELS)],
            "attributes": {name: row[name] for name in schema.feature_names},
        },
    }


def _scorecard() -> Scorecard:
    """That of the risk model that serves; it says which attributes the gateway takes, too."""
    return Scorecard.model_validate(champion("risk").read_json("scorecard.json"))


def _send(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    try:
        return read_answer(client.post("/v1/retain", json=body))
    except httpx.HTTPError as error:
        raise BadInput(f"{client.base_url}: the gateway does not answer ({error}); run `churn-saver up`") from None
    except BadInput as error:
        raise BadInput(f"customer {body['customer']['id']}: {error}") from None


def _table(answers: list[dict[str, Any]]) -> Table:
    table = Table("customer", "mode", "risk", "offer", "delay", "channel", "message", "source", "verdict", "ms")
    for answer in answers:
        decision, message = answer["decision"], answer["message"]
        table.add_row(
            answer["customer_id"],
            answer["baseline_reason"] or answer["mode"],
            f"{decision['risk']:.2f}",
            decision["offer"] or "no contact",
            f"{decision['delay_hours']} h" if decision["contact"] else "",
            decision["channel"] or "",
            _said(message) if message else ", ".join(sorted(set(decision["masked"].values()))),
            message["source"] if message else "",
            answer["safety"]["verdict"] if message else "",
            f"{answer['latency_ms']['total']:.1f}",
        )
    return table


def _said(message: dict[str, Any]) -> str:
    """A message on one line, an e-mail's subject before it; a standing answer of an older gateway has none."""
    return " ".join(" ".join(filter(None, (message.get("subject"), message["text"]))).split())
