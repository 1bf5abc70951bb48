"""What the language model is tuned on: written messages and preferences, as JSONL that a team can bring along."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from churnsaver.domain.message import Brief
from churnsaver.domain.world import Frozen
from churnsaver.errors import BadInput
from churnsaver.jsonl import read_lines
from churnsaver.settings import explain

Text = Annotated[str, Field(min_length=1)]
TIE = "tie"  # the kind of two texts of which neither is better
# Rewards are log-odds: beyond, one text would always be preferred. A weight says how often a pair is drawn.
MOST_MARGIN, MOST_WEIGHT = 20.0, 1e6


class WrittenMessage(Frozen):
    """A brief and an approved message for it: a slotted draft, for an e-mail with its subject."""

    brief: Brief
    text: Text


class Preference(Frozen):
    """Two texts for one brief, of which people prefer `chosen`.

    Attributes:
        brief: None where the texts were written for none of ours (headlines, polite requests).
        margin: by how much it is better, in the reward's units; 0 asks only for the order.
        kind: what tells the two apart, for figures by kind.
        weight: of the pair in the loss.
    """

    brief: Brief | None = None
    chosen: Text
    rejected: Text
    margin: Annotated[float, Field(ge=0, le=MOST_MARGIN)] = 0.0
    kind: str = "reviewers"
    weight: Annotated[float, Field(gt=0, le=MOST_WEIGHT)] = 1.0


Line = TypeVar("Line", bound=Frozen)


def read_jsonl(path: Path, kind: type[Line]) -> list[Line]:
    """Every line of a JSONL file as a `kind`; empty lines are passed over. BadInput as `numbered_jsonl`."""
    return [line for _, line in numbered_jsonl(path, kind)]


def numbered_jsonl(path: Path, kind: type[Line]) -> list[tuple[int, Line]]:
    """Every line of a JSONL file as a `kind`, with its number from 1; empty lines are passed over.

    Raises:
        BadInput: the file cannot be read, is empty, or a line is no such object: the line and the field are named.
    """
    found = []
    for number, line in read_lines(path):
        try:
            found.append((number, kind.model_validate_json(line)))
        except ValidationError as error:
            raise BadInput(f"{path}, line {number}: {explain(error)}") from None
    if not found:
        raise BadInput(f"{path}: holds no lines; expected one JSON object a line")
    return found


def sha256_of(lines: Iterable[Frozen]) -> str:
    """Of the objects as they would stand in a file, so that a training knows its data again."""
    return hashlib.sha256("".join(line.model_dump_json() for line in lines).encode()).hexdigest()


def write_jsonl(path: Path, lines: Iterable[Frozen]) -> None:
    """Writes one JSON object a line, whole or not at all; BadInput where it cannot be written."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text("".join(line.model_dump_json() + "\n" for line in lines), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); choose another --out") from None
