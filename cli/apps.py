"""The command groups that modules of this package add their commands to."""

from __future__ import annotations

import typer

HELP = """Decide whom to contact, write the message, prove it safe, and see what it earned.

Begin with `make up`, which trains what `churn-saver up` serves. Then, for example:

churn-saver retain --csv customers.csv --limit 20 --riskiest

churn-saver kill on --reason "wrong prices"

churn-saver train risk --data customers.csv --out models/risk --publish

Settings are configs/*.yaml; CHURN_SAVER_GATEWAY__PORT=8081 sets gateway.port.

Exit codes: 0 done, 1 a gate failed, 2 bad input.
"""

app = typer.Typer(name="churn-saver", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False)
data_app = typer.Typer(no_args_is_help=True, help="Simulate, validate and split data.")
train_app = typer.Typer(no_args_is_help=True, help="Train a model and write a checkpoint.")
eval_app = typer.Typer(no_args_is_help=True, help="Measure a checkpoint on data it was not trained on.")
shield_app = typer.Typer(no_args_is_help=True, help="Review messages.")
bank_app = typer.Typer(
    no_args_is_help=True, help="The messages written ahead: look at them, approve them, retire them."
)
kill_app = typer.Typer(no_args_is_help=True, help="Flip every gateway to the baseline, or back.")

for group, name in (
    (data_app, "data"),
    (train_app, "train"),
    (eval_app, "eval"),
    (shield_app, "shield"),
    (bank_app, "bank"),
    (kill_app, "kill"),
):
    app.add_typer(group, name=name)
