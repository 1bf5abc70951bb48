"""`churn-saver calibrate`: the environment's parameters from data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.apps import app
from cli.common import SEED, JsonOption, SeedOption, progress, stdout

if TYPE_CHECKING:
    from trainers.calibrate.run import Calibration


@app.command()
def calibrate(
    *,
    data: Annotated[Path, typer.Option("--data", help="Folder with the public data sets, under their own names.")],
    out: Annotated[Path | None, typer.Option("--out", help="JSON file to write the estimates to.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Replace the values in env.yaml; comments stay.")] = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Estimate the simulator's parameters from bank_marketing, hillstrom, starbucks, coupon_acceptance and
    completejourney, each with a 95 % interval.

    Whatever no file identifies stays as env.yaml has it, and is said to be an assumption there.
    """
    from churnsaver.errors import BadInput
    from churnsaver.settings import configs_dir, load_world
    from trainers.calibrate.run import DATA_SETS, calibrate
    from trainers.calibrate.write import write_estimates
    from trainers.env.params import load_dynamics, value_at

    params = load_dynamics()
    with progress() as bar:
        task = bar.add_task("estimating", total=len(DATA_SETS))
        found = calibrate(data, load_world(), params, seed, lambda: bar.advance(task))
    rows = [{"in_env_yaml": value_at(params, e.parameter)} | e.as_dict() for e in found.estimates]
    result = {"estimates": rows, "missing": found.missing, "written": write}
    try:
        if write:
            write_estimates(configs_dir() / "env.yaml", found.estimates)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise BadInput(f"{error.filename}: cannot be written ({error.strerror})") from None
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _show(rows, found, written=write)


def _show(rows: list[dict[str, Any]], found: Calibration, *, written: bool) -> None:
    from rich.table import Table

    table = Table(title="Calibration", title_justify="left")
    for column in ("parameter", "env.yaml", "estimate", "95 % interval", "file", "used"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        interval = f"{row['low']:g} to {row['high']:g}"
        numbers = f"{row['in_env_yaml']:g}", f"{row['value']:g}", interval
        table.add_row(row["parameter"], *numbers, row["file"], "yes" if row["used"] else "no")
    stdout.print(table)
    for row in rows:
        stdout.print(f"{row['parameter']} ({row['file']}): {row['estimator']}. {row['note']}.", highlight=False)
    for name, parameters in found.missing.items():
        stdout.print(f"{name} is missing: {', '.join(parameters)} stay as env.yaml has them.", highlight=False)
    if written:
        stdout.print("env.yaml now holds the estimates that are used.", highlight=False)
