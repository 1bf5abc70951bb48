"""A person compares two messages in the terminal; what they prefer is appended to a file that `train rm` reads."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pydantic import AliasChoices, Field

from churnsaver.domain.message import Brief, MessageBook, fill
from churnsaver.domain.world import Frozen, World
from churnsaver.domain.writing import conversation
from churnsaver.errors import BadInput
from churnsaver.jsonl import mended
from trainers.rlhf.checks import check_brief, check_text, compared, read_preferences, words
from trainers.rlhf.examples import TIE, Preference, Text, numbered_jsonl

KIND = "reviewers"
PROMPT = "better: 1, 2, t tie, s skip (asked again next time), q quit > "
ANSWERS = {"1": "1", "2": "2", "t": "t", "tie": "t", "s": "s", "skip": "s", "q": "q", "quit": "q"}
_EXAMPLE_NAME, _EXAMPLE_DATE = "Ana", "24 Dec 2026"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two texts for one brief, in the order in which they are shown."""

    brief: Brief
    first: str
    second: str

    @property
    def key(self) -> tuple[str, ...]:
        """The same in either order and with other whitespace."""
        return compared(self.brief, self.first, self.second)


class Candidate(Frozen):
    """A text to compare: a line of what `generate --out` writes, or `brief` and `text` alone."""

    brief: Brief
    text: Text = Field(validation_alias=AliasChoices("text", "draft"))
    language: str = ""
    source: str = ""
    message_id: str = ""

    @property
    def written_for(self) -> Brief:
        """The brief, in the language of the text: another one where the brief's has no approved texts."""
        return self.brief.model_copy(update={"language": self.language}) if self.language else self.brief


def comparisons_of_pairs(path: Path, world: World, seed: int) -> list[Comparison]:
    """The pairs of a preferences file, each in an order that the seed decides and that does not give them away.

    Public pairs (headlines, polite requests) were written for no brief, and nobody is asked about them.

    Raises:
        BadInput: a line cannot be used, or no pair has a brief.
    """
    pairs = read_preferences(path, world, public=True)
    if not any(pair.brief for pair in pairs):
        raise BadInput(f"{path}: has no pair with a brief; expected the brief that both texts were written for")
    return _mixed([_shown(pair.brief, pair.chosen, pair.rejected, seed) for pair in pairs if pair.brief], seed)


def comparisons_of_messages(path: Path, world: World, seed: int) -> list[Comparison]:
    """Messages of one brief two by two, in an order that the seed decides; a text left over is compared with none.

    Raises:
        BadInput: a line cannot be used, or no brief has two different texts.
    """
    by_brief: defaultdict[str, dict[str, Candidate]] = defaultdict(dict)
    for number, message in numbered_jsonl(path, Candidate):
        where = f"{path}, line {number}"
        check_brief(message.written_for, world, where)
        check_text(message.text, where, "text")
        by_brief[message.written_for.model_dump_json()][words(message.text)] = message
    rng = Random(seed)  # noqa: S311 - it decides what is compared
    found = []
    for messages in by_brief.values():
        shuffled = list(messages.values())
        rng.shuffle(shuffled)
        pairs = zip(shuffled[::2], shuffled[1::2], strict=False)
        found += [_shown(a.written_for, a.text, b.text, seed) for a, b in pairs]
    if not found:
        raise BadInput(f"{path}: has no two different texts for one brief; expected at least one such pair")
    return _mixed(found, seed)


def label(
    comparisons: Sequence[Comparison],
    out: Path,
    world: World,
    book: MessageBook,
    ask: Callable[[str], str | None],
    show: Callable[[str], None],
) -> dict[str, int]:
    """Asks about every comparison that `out`, or the ties beside it, does not hold yet.

    Each answer is written at once, so that whoever quits goes on where they stopped.

    Args:
        ask: given a prompt, a line that the person typed; None where there are no more.
        show: prints for the person.

    Returns:
        Counts: `labelled`, `ties` and `skipped` now, and how many are `left`.
    """
    ties = ties_beside(out)
    done: set[tuple[str, ...]] = set()
    for path in (out, ties):
        with mended(path):
            pairs = read_preferences(path, world, ties=path == ties) if path.exists() and path.stat().st_size else []
            done |= {compared(pair.brief, pair.chosen, pair.rejected) for pair in pairs if pair.brief}
    waiting = list({comparison.key: comparison for comparison in comparisons if comparison.key not in done}.values())
    counts: Counter[str] = Counter()
    for i, comparison in enumerate(waiting, start=1):
        show(_page(comparison, world, book, f"{i} of {len(waiting)}"))
        answer = _answer(ask, show)
        if answer == "q":
            break
        if answer == "s":
            counts["skipped"] += 1
            continue
        chosen, rejected = comparison.first, comparison.second
        if answer == "2":
            chosen, rejected = rejected, chosen
        pair = Preference(brief=comparison.brief, chosen=chosen, rejected=rejected, kind=TIE if answer == "t" else KIND)
        _append(ties if answer == "t" else out, pair)
        counts["ties" if answer == "t" else "labelled"] += 1
    found = {name: counts[name] for name in ("labelled", "ties", "skipped")}
    return found | {"left": len(waiting) - counts["labelled"] - counts["ties"]}


def ties_beside(out: Path) -> Path:
    """Where ties are remembered: nothing is learned from them, and they are not asked again."""
    return out.with_name(f"{out.stem}.ties.jsonl")


def _answer(ask: Callable[[str], str | None], show: Callable[[str], None]) -> str:
    while True:
        line = ask(PROMPT)
        if line is None:
            return "q"
        if (answer := line.strip().lower()) in ANSWERS:
            return ANSWERS[answer]
        show("please answer 1, 2, t, s or q")


def _page(comparison: Comparison, world: World, book: MessageBook, where: str) -> str:
    brief = comparison.brief
    values = {
        "first_name": _EXAMPLE_NAME,
        "offer": world.offer(brief.offer).label_in(brief.language),
        "expiry": _EXAMPLE_DATE,
        "opt_out": book.opt_out[brief.channel],
    }
    told = conversation(brief, world)[-1]["content"]
    texts = [
        f"── {i} ──\n{fill(text, values)}" for i, text in enumerate((comparison.first, comparison.second), start=1)
    ]
    return _harmless("\n\n".join([f"\n[{where}]\n{told}", *texts, ""]))


def _harmless(text: str) -> str:
    """`text` with what a terminal would obey, or nobody could see, spelt out: an escape character as \\x1b."""
    return "".join(
        ch if ch == "\n" or unicodedata.category(ch)[0] != "C" else ch.encode("unicode_escape").decode() for ch in text
    )


def _mixed(comparisons: list[Comparison], seed: int) -> list[Comparison]:
    """In an order that the seed decides, so that whoever quits early has seen briefs of all sorts."""
    return sorted(comparisons, key=lambda comparison: _digest(comparison.key, seed))


def _digest(key: tuple[str, ...], seed: int) -> bytes:
    return hashlib.sha256("\0".join((str(seed), *key)).encode()).digest()


def _shown(brief: Brief, a: str, b: str, seed: int) -> Comparison:
    """By a hash and not by chance, so that a pair is shown in the same order whenever it is asked."""
    first, second = sorted((a, b))
    comparison = Comparison(brief, first, second)
    return Comparison(brief, second, first) if _digest(comparison.key, seed)[-1] % 2 else comparison


def _append(path: Path, pair: Preference) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(pair.model_dump_json() + "\n")
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); choose another --out") from None
