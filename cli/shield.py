"""`train shield`, `eval shield` and `shield check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from churnsaver.errors import BadInput
from churnsaver.jsonl import numbered
from cli.apps import eval_app, shield_app, train_app
from cli.common import SEED, CheckpointOutOption, JsonOption, SeedOption, emit, flatten, progress
from cli.registry import PublishOption, champion, tell_trained

if TYPE_CHECKING:
    from churnsaver.safety.review import Review


@train_app.command("shield")
def train(
    *,
    data: Annotated[list[Path], typer.Option("--data", help="CSV of texts; may be given several times.")],
    out: CheckpointOutOption,
    publish: PublishOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Train the shield's toxicity classifier and write a checkpoint.

    A file's columns say how it is labelled: text and toxic (1 or 0); tweet and class (0 hate, 1 offensive,
    2 neither); comment_text and Jigsaw's six columns; text and category (customers' questions, harmless);
    label and text (spam is left out, ham is harmless); Request and Normalized Score (polite ones, harmless).
    Your own customers' questions keep false alarms on them down.
    """
    from trainers.shield.train import TRAINING_STEPS, train_shield

    with progress() as bar:
        task = bar.add_task("training", total=len(data) + TRAINING_STEPS)
        manifest = train_shield(data, out, seed, advance=lambda: bar.advance(task))
    tell_trained(manifest, out, publish=publish, as_json=as_json, title="Shield")


@eval_app.command("shield")
def evaluate(
    *,
    data: Annotated[
        list[Path], typer.Option("--data", help="CSV of texts as for `train shield`; may be given several times.")
    ],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Folder; default: the champion, else the bundled one.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.html and report.json.")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 where a target is missed.")] = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Measures the shield: planted violations of every class, false alarms, toxicity, time.

    Of the files, only rows that the checkpoint was not trained on are used; false alarms are counted on
    customers' questions (files with text and category), reviewed as messages with an opt-out added.
    """
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.errors import GateFailed
    from churnsaver.safety.toxicity import KIND, ToxicityModel
    from churnsaver.settings import load_serve_settings, load_world
    from trainers.eval.report import write_report
    from trainers.eval.shield import evaluate_shield
    from trainers.shield.corpus import read_corpus

    settings = load_serve_settings()
    opened = champion(KIND) if checkpoint is None else open_checkpoint(checkpoint, KIND)
    model, threshold = ToxicityModel.from_checkpoint(opened), settings.shield.toxicity_threshold
    with progress() as bar:
        task = bar.add_task("reading", total=len(data))
        examples, _ = read_corpus(data, advance=lambda: bar.advance(task))
        bar.reset(task, description="measuring", total=None)
        result = evaluate_shield(load_world(), model, threshold, opened.manifest.seed, examples, seed)
    result = {"version": opened.version, **result}
    if out is not None:
        write_report(out, f"Shield {opened.version}", result, [])
    emit(result if as_json else flatten(result), as_json=as_json, title="Shield")
    if gate and result["missed"]:
        raise GateFailed("; ".join(result["missed"]))


@shield_app.command("check")
def check(
    *,
    jsonl: Annotated[str, typer.Option("--jsonl", help="File of messages, one JSON object a line; - reads them.")],
    as_json: Annotated[bool, typer.Option("--json", help='Print one object, {"verdicts": […]}, at the end.')] = False,
) -> None:
    """Review messages; prints one verdict a line: {"text", "verdict", "findings", "scores"}.

    A line is a JSON object with `text` and, where you know them, `stage` (draft or filled; without it, a text
    with {slots} is a draft), `channel` (email, the longest, by default), `language` (en), `slots` (the values
    that fill a filled text: offer, expiry, opt_out, first_name), `timezone` (IANA) and `send_at` (ISO 8601 with
    an offset).

    Every text is held against wording, form, personal data, links and the toxicity classifier. A draft needs
    {offer}, {expiry} and {opt_out} once each. A filled text with `slots` needs their values in it, and may name
    no other price or discount; without `slots` neither can be checked, and it only needs words that offer an
    opt-out (reply STOP, unsubscribe, opt out, turn off in settings). Quiet hours are checked where `timezone` or
    `send_at` is given.

    Exit 0 whatever the verdicts are, 2 for a line that cannot be read.
    """
    from churnsaver.safety.review import Policy
    from churnsaver.safety.rules import review_with_rules
    from churnsaver.safety.subject import Subject
    from churnsaver.safety.toxicity import KIND, ToxicityModel
    from churnsaver.settings import load_serve_settings, load_world

    settings = load_serve_settings()
    policy = Policy.of(load_world(), frozenset(settings.shield.allowed_link_hosts))
    toxicity = ToxicityModel.from_checkpoint(champion(KIND))
    verdicts = []
    for where, line in _lines(jsonl):
        review = _read_review(where, line, tuple(policy.max_chars))
        findings = review_with_rules(review, policy)
        own_words = Subject.of(review, policy).own_words
        score, found = toxicity.review(own_words, settings.shield.toxicity_threshold)
        findings += found
        verdict = {
            "text": review.text,
            "verdict": "block" if findings else "pass",
            "findings": [{"rule": f.rule, "message": f.message, "excerpt": f.excerpt} for f in findings],
            "scores": {"toxicity": round(score, 4)},
        }
        if as_json:
            verdicts.append(verdict)
        else:
            typer.echo(json.dumps(verdict, ensure_ascii=False))
    if as_json:
        typer.echo(json.dumps({"verdicts": verdicts}, ensure_ascii=False))


def _lines(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each line's name and object; BadInput names the line that is none."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{source}: cannot be read ({error})") from None
    for number, line in numbered(text):
        where = f"{source}, line {number}"
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{where}: is not valid JSON ({error})") from None
        if not isinstance(document, dict):
            raise BadInput(f"{where}: expected an object with `text`, got {type(document).__name__}")
        yield where, document


def _read_review(where: str, line: Mapping[str, Any], channels: tuple[str, ...]) -> Review:
    """The line as a review; BadInput names the field that cannot be used."""
    from churnsaver.domain.message import slots_in
    from churnsaver.safety.review import Review, Stage

    text = _string(where, line, "text")
    if text is None:
        raise BadInput(f"{where}, field text: is missing; expected the message")
    slots = line.get("slots") or {}
    if not isinstance(slots, dict) or not all(isinstance(value, str) for value in slots.values()):
        raise BadInput(f'{where}, field slots: expected an object of texts, such as {{"offer": "10% off"}}')
    stage = _string(where, line, "stage") or ("draft" if slots_in(text) and not slots else "filled")
    if stage not in list(Stage):
        raise BadInput(f"{where}, field stage: is {stage!r}; expected draft or filled")
    channel = _string(where, line, "channel") or "email"
    if channel not in channels:
        raise BadInput(f"{where}, field channel: is {channel!r}; expected one of {', '.join(channels)}")
    language, timezone = _string(where, line, "language") or "en", _string(where, line, "timezone")
    return Review(text, Stage(stage), channel, language, slots, _send_at(where, line), timezone)


def _string(where: str, line: Mapping[str, Any], field: str) -> str | None:
    value = line.get(field)
    if value is not None and not isinstance(value, str):
        raise BadInput(f"{where}, field {field}: is {value!r}; expected a string")
    return value


def _send_at(where: str, line: Mapping[str, Any]) -> datetime | None:
    written = _string(where, line, "send_at")
    if not written:
        return None
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        raise BadInput(f"{where}, field send_at: is {written!r}; expected ISO 8601 with an offset") from None
    if moment.tzinfo is None:
        raise BadInput(f"{where}, field send_at: has no offset from UTC; write 2026-03-02T12:00:00+00:00")
    return moment
