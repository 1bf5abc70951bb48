"""What all commands share: the options `--seed` and `--json`, output, progress."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from churnsaver.settings import DEFAULT_SEED

# People read tables on standard output; progress and logs go to standard error, so that --json stays clean.
# A pipe has no width of its own; a table of messages needs more than the 80 columns that are assumed then.
# What people and customers' files say is shown as it is: no markup, no emoji codes.
stdout = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)
stderr = Console(stderr=True, markup=False, emoji=False)


def _replaceable(out: Path) -> Path:
    """Refused before hours of training, and not only when the checkpoint is written."""
    from churnsaver.checkpoints import require_replaceable

    require_replaceable(out)
    return out


SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of everything random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write to; made where it does not exist.")]
CheckpointOutOption = Annotated[
    Path,
    typer.Option("--out", callback=_replaceable, help="Folder of the checkpoint; an older one there is replaced."),
]
SEED: int = DEFAULT_SEED


def command_line() -> str:
    """What was typed, without the machine's folders."""
    return shlex.join(["churn-saver", *sys.argv[1:]])


def emit(result: Mapping[str, Any], *, as_json: bool, title: str = "") -> None:
    """Prints `result` as one JSON object, or as a table of its scalar values for a person."""
    if as_json:
        typer.echo(json.dumps(result, default=str))
        return
    table = Table(title=title or None, show_header=False, title_justify="left")
    for name, value in result.items():
        if not isinstance(value, Mapping | list):
            table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    stdout.print(table)


def flatten(result: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by dots, for a person's table."""
    flat: dict[str, Any] = {}
    for name, value in result.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def progress() -> Progress:
    """A progress bar on standard error; it draws nothing where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
    )
