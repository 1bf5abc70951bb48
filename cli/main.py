"""The `churn-saver` command. Exit 0 done, 1 a gate failed, 2 bad input."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import typer

from churnsaver.errors import ChurnSaverError, GateFailed
from cli.apps import app

# Each module adds its commands to the groups of `cli.apps` when it is imported; the heavy libraries are
# imported by the commands themselves, so that --help stays quick.
COMMAND_MODULES = (
    "stack", "retain", "data", "models", "policy", "policy_eval", "uplift", "ope", "experiment", "calibrate",
    "shield", "generator", "generate", "bank", "registry", "launch", "model_eval", "messages", "tuning", "text",
)  # fmt: skip

for module in COMMAND_MODULES:
    if (Path(__file__).parent / f"{module}.py").exists():
        importlib.import_module(f"cli.{module}")


def main() -> None:
    """Entry point: what a person did wrong is one line on standard error, never a stack trace."""
    try:
        app()
    except GateFailed as error:
        typer.echo(f"gate failed: {error}", err=True)
        sys.exit(1)
    except ChurnSaverError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
