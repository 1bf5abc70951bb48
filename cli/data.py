"""`churn-saver data …`: simulate, validate and split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.apps import data_app
from cli.common import SEED, JsonOption, OutOption, SeedOption, emit


@data_app.command()
def simulate(
    out: OutOption,
    customers: Annotated[int, typer.Option("--customers", min=100, help="How many customers to make up.")] = 8000,
    contacts: Annotated[int, typer.Option("--contacts", min=500, help="How many past contacts to make up.")] = 20000,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Makes up a population: customers.csv (schema default) and contacts.csv (schema contacts)."""
    from churnsaver.errors import BadInput
    from churnsaver.settings import load_world
    from trainers.data.simulate import simulate_population
    from trainers.env.contact_log import simulate_contact_log
    from trainers.env.params import load_dynamics

    population = simulate_population(customers, seed)
    frame = population.customers
    log = simulate_contact_log(
        load_world(),
        load_dynamics(),
        population.remembered_risk(seed),
        frame["monthly_usd"].to_numpy(),
        frame["tenure_months"].cast(float).to_numpy(),
        contacts,
        seed,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        frame.write_csv(out / "customers.csv")
        log.write_csv(out / "contacts.csv")
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    result = {
        "customers": customers,
        "churn_rate": float((frame["churned"] == "yes").sum()) / customers,
        "contacts": contacts,
        "acceptance_rate": float(log["accepted"].cast(float).sum()) / contacts,
        "customers_csv": str(out / "customers.csv"),
        "contacts_csv": str(out / "contacts.csv"),
    }
    emit(result, as_json=as_json, title="Simulated")


@data_app.command()
def prepare(
    schema: Annotated[Path, typer.Option("--schema", help="YAML file that says what each column means.")],
    csv: Annotated[Path, typer.Option("--csv", help="The CSV file; gzipped or not.")],
    out: OutOption,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Validates a CSV, splits it 60/20/20 by a hash of the id, writes Parquet and a data card."""
    from trainers.data import load_dataset_as
    from trainers.data.prepare import CARD, write_prepared

    prepared = write_prepared(load_dataset_as(csv, schema, seed), out)
    result = {
        **{f"{part}_rows": rows for part, rows in prepared.rows.items()},
        "sha256": prepared.sha256,
        "card": str(out / CARD),
    }
    emit(result, as_json=as_json, title="Prepared")
