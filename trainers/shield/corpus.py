"""Labelled texts for the toxicity classifier, from the layouts that public sets come in."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import polars as pl

from churnsaver.errors import SchemaError
from churnsaver.safety.toxicity import clean
from trainers.data.csv_reader import RawCsv, read_csv

# Requests that people found ruder than average may well be rude.
_POLITE_FROM = 0.0


class Part(StrEnum):
    """Which rows are fitted, which choose the operating point, and which only measure."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text.

    Attributes:
        text: as it stands in the file.
        toxic: whether it is.
        source: the file's name, or the name of the templates.
        customer_like: whether it is what customers and services write; false alarms are counted on these.
    """

    text: str
    toxic: bool
    source: str
    customer_like: bool = False

    def part(self, seed: int) -> Part:
        """Its part, 70/15/15 by the hash of what it says, so that repeats of a text never straddle parts."""
        share = zlib.crc32(f"{seed}:{clean(self.text)}".encode()) % 100
        return Part.TRAIN if share < 70 else Part.VALID if share < 85 else Part.TEST


@dataclass(frozen=True, slots=True)
class Layout:
    """One way of labelling texts.

    Attributes:
        columns: the columns that a file of this layout has.
        text: the column of the text.
        toxic: which rows are toxic, an expression on columns of text.
        kept: which rows are used.
        customer_like: see `Example`.
    """

    columns: frozenset[str]
    text: str
    toxic: pl.Expr
    kept: pl.Expr = field(default_factory=lambda: pl.lit(value=True))
    customer_like: bool = False


_JIGSAW = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
# The first layout whose columns a file has is its layout.
LAYOUTS = (
    Layout(frozenset({"class", "tweet"}), "tweet", pl.col("class").ne("2")),
    Layout(frozenset({"comment_text", *_JIGSAW}), "comment_text", pl.any_horizontal(pl.col(_JIGSAW).ne("0"))),
    Layout(frozenset({"text", "toxic"}), "text", pl.col("toxic").eq("1")),
    Layout(
        frozenset({"Request", "Normalized Score"}),
        "Request",
        pl.lit(value=False),
        pl.col("Normalized Score").cast(pl.Float64, strict=False).ge(_POLITE_FROM),
    ),
    Layout(frozenset({"label", "text"}), "text", pl.lit(value=False), pl.col("label").eq("ham")),
    Layout(frozenset({"text", "category"}), "text", pl.lit(value=False), customer_like=True),
)


def read_corpus(
    paths: Sequence[Path], advance: Callable[[], None] = lambda: None
) -> tuple[list[Example], dict[str, str]]:
    """The examples of every file, in order, and each file's sha256 by name.

    Raises:
        SchemaError: a file cannot be read or has none of LAYOUTS' columns.
    """
    examples: list[Example] = []
    hashes: dict[str, str] = {}
    for path in paths:
        raw = read_csv(path)
        examples.extend(_examples(raw))
        hashes[path.name] = raw.sha256
        advance()
    return examples, hashes


def require_both_classes(examples: Iterable[Example], least: int = 100) -> None:
    """SchemaError where there are too few toxic or too few benign texts to learn from."""
    toxic = [example.toxic for example in examples]
    if min(sum(toxic), len(toxic) - sum(toxic)) < least:
        raise SchemaError(
            f"--data: {sum(toxic)} toxic and {len(toxic) - sum(toxic)} benign texts; at least {least} of each are "
            "needed, so name more files"
        )


def _examples(raw: RawCsv) -> Iterable[Example]:
    layout = next((layout for layout in LAYOUTS if layout.columns <= set(raw.cells.columns)), None)
    if layout is None:
        raise SchemaError(
            f"{raw.path}, row 1: columns {raw.cells.columns} hold no labelled texts; expected text and toxic (1 or 0)"
        )
    rows = raw.cells.filter(layout.kept).select(text=pl.col(layout.text), toxic=layout.toxic)
    return (
        Example(text, toxic, raw.path.name, layout.customer_like) for text, toxic in rows.iter_rows() if clean(text)
    )
