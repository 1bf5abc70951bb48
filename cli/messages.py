"""`data messages`, `data preferences` and `label`: what the language model and its reward are tuned on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.apps import app, data_app
from cli.common import SEED, JsonOption, OutOption, SeedOption, command_line, emit, flatten


@data_app.command()
def messages(
    *,
    out: OutOption,
    approved: Annotated[
        Path | None,
        typer.Option("--approved", help="JSONL of your own approved messages, to be split instead of made-up ones."),
    ] = None,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Writes what `train sft` learns from: train.jsonl, valid.jsonl, test.jsonl and a data card.

    A line is {"brief": {"segment", "reason", "offer", "tone", "channel", "language"}, "text"}. A text is a draft with
    {first_name}, and {offer}, {expiry} and {opt_out} once each; an e-mail's begins with "Subject: …" and a blank line.
    Your own messages are refused, with line and field, where the brief is none that configs/env.yaml knows, a slot is
    unknown, a message stands twice or the shield's rules would block it.
    """
    from churnsaver.settings import load_world
    from trainers.rlhf.checks import read_approved
    from trainers.rlhf.corpus import make_corpus
    from trainers.rlhf.corpus.write import approved_source, made_source, split_messages, write_corpus

    world = load_world()
    if approved is None:
        result = write_corpus(make_corpus(seed, world), world, out, made_source(seed))
    else:
        corpus = split_messages(read_approved(approved, world), world, approved)
        result = write_corpus(corpus, world, out, approved_source(approved))
    emit(result if as_json else flatten(result), as_json=as_json, title="Messages")


@data_app.command()
def preferences(
    *,
    out: OutOption,
    public: Annotated[
        Path | None,
        typer.Option("--public", help="Folder with upworthy_headlines.csv.gz and politeness.csv.gz, to add real ones."),
    ] = None,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Writes what `train rm` learns from: train.jsonl, valid.jsonl, test.jsonl and a data card.

    A line is {"brief", "chosen", "rejected", "margin", "kind", "weight"}. Kinds: wrong_offer, vague, pushy,
    non_compliant and padded, made for every scenario; with --public, headline and politeness, which have no brief.
    """
    from trainers.rlhf.corpus import PARTS
    from trainers.rlhf.corpus.write import write_preferences
    from trainers.rlhf.preferences import make_preferences
    from trainers.rlhf.public import read_public

    real = read_public(public, seed, say=lambda text: typer.echo(text, err=True))
    made = make_preferences(seed)
    both = {part: made[part] + real.parts[part] for part in PARTS}
    result = write_preferences(both, out, seed, command_line(), real.noise_ceiling)
    emit(result if as_json else flatten(result), as_json=as_json, title="Preferences")


@app.command()
def label(
    *,
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="JSONL of brief, chosen and rejected, as `data preferences` writes.")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option("--messages", help="JSONL of brief and text, or what `generate --out` wrote; compared by brief."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="JSONL to append to; what it holds is not asked again.")],
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Compare two messages for one brief, in the terminal, and write what you prefer.

    Answer 1 or 2 for the better one, t for a tie, s to skip, q to quit; every answer is written at once, and the same
    command goes on where you stopped. Messages are shown with an example name and date in their slots. `generate`
    writes some to compare where its file has each brief a few times. Which text of a pair was the chosen one is not
    shown. `train rm` reads what you prefer, also in the place of the same pair in its --data; ties are kept beside it
    and nothing is learned from them.
    """
    from churnsaver.errors import BadInput
    from churnsaver.settings import load_message_books, load_world
    from trainers.rlhf.labelling import comparisons_of_messages, comparisons_of_pairs
    from trainers.rlhf.labelling import label as ask_about

    world = load_world()
    if pairs is not None and texts is None:
        comparisons = comparisons_of_pairs(pairs, world, seed)
    elif texts is not None and pairs is None:
        comparisons = comparisons_of_messages(texts, world, seed)
    else:
        raise BadInput("label: expected either --pairs or --messages")

    def ask(prompt: str) -> str | None:
        typer.echo(prompt, err=True, nl=False)
        return sys.stdin.readline() or None

    show = lambda text: typer.echo(text, err=True)  # noqa: E731
    counts = ask_about(comparisons, out, world, load_message_books()["en"], ask, show)
    emit(counts | {"out": str(out)}, as_json=as_json, title="Labelled")
