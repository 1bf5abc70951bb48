"""What must hold of briefs and texts that a team brings along, so that nothing unusable is trained on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from churnsaver.domain.message import SLOT_PATTERN, SLOTS, Brief, slots_in
from churnsaver.domain.world import World
from churnsaver.domain.writing import CUSTOMERS, REASONS, SUBJECT_CHANNELS, TONES, form_fault
from churnsaver.errors import BadInput
from churnsaver.safety.lexicon import lexicon
from churnsaver.safety.review import Policy, Review, Stage
from churnsaver.safety.rules import review_with_rules
from trainers.rlhf.corpus import Scenario, scenario_of
from trainers.rlhf.examples import TIE, Preference, WrittenMessage, numbered_jsonl

_BRACE = re.compile(r"[{}][^{}\s]{0,20}")


def read_approved(path: Path, world: World) -> list[WrittenMessage]:
    """A team's own approved messages, one JSON object a line: `brief` and `text`.

    Raises:
        BadInput: the file is empty, or a line is no such message, repeats one or is blocked by the shield's rules:
            file, line and field are named.
    """
    policy, messages = Policy.of(world), []
    seen: dict[tuple[str, str], int] = {}
    for number, message in numbered_jsonl(path, WrittenMessage):
        where = f"{path}, line {number}"
        check_brief(message.brief, world, where)
        check_text(message.text, where, "text")
        if form_fault(message.text, message.brief.channel):
            expected = "a text that begins with one 'Subject: …' and a blank line"
            if message.brief.channel not in SUBJECT_CHANNELS:
                expected = "a text without 'Subject: ', which only e-mails have"
            raise BadInput(f"{where}: text: is no {message.brief.channel} that is ever sent; expected {expected}")
        key = (message.brief.model_dump_json(), words(message.text))
        if key in seen:
            raise BadInput(f"{where}: text: is the same as in line {seen[key]}, for the same brief; keep one of them")
        review = Review(message.text, Stage.DRAFT, message.brief.channel, message.brief.language)
        if findings := review_with_rules(review, policy):
            first = findings[0]
            found = f" ({first.excerpt!r})" if first.excerpt else ""
            raise BadInput(f"{where}: text: the shield would block it by its rule {first.rule}: {first.message}{found}")
        seen[key] = number
        messages.append(message)
    return messages


def read_preferences(
    path: Path,
    world: World,
    *,
    public: bool = False,
    ties: bool = False,
    seen: dict[tuple[str, ...], str] | None = None,
) -> list[Preference]:
    """Pairs of two texts, one JSON object a line: `chosen`, `rejected` and the `brief` of both.

    Args:
        public: whether a pair may have no brief, as public ones have none (headlines, polite requests). Such a pair
            may come twice: two headlines in two tests are two observations.
        ties: whether neither text may be the better one.
        seen: where pairs of other files stand, as `compared` names them; this file's are added.

    Raises:
        BadInput: the file is empty, or a line is no such pair: file, line and field are named.
    """
    pairs = []
    seen = {} if seen is None else seen
    for number, pair in numbered_jsonl(path, Preference):
        where = f"{path}, line {number}"
        if pair.brief is not None:
            check_brief(pair.brief, world, where)
        elif not public:
            raise BadInput(f"{where}: brief: is missing; expected the brief that both texts were written for")
        for field, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            check_text(text, where, field, slotted=pair.brief is not None)
        if pair.kind == TIE and not ties:
            raise BadInput(f"{where}: kind: is {TIE}, and neither text is better; leave ties out")
        if words(pair.chosen) == words(pair.rejected):
            raise BadInput(f"{where}: rejected: is the same text as chosen; leave the line out where neither is better")
        if pair.brief is not None:
            key = compared(pair.brief, pair.chosen, pair.rejected)
            if key in seen:
                raise BadInput(f"{where}: compares the same two texts as {seen[key]}; keep one of them")
            seen[key] = where
        pairs.append(pair)
    return pairs


def compared(brief: Brief, *texts: str) -> tuple[str, ...]:
    """What makes a comparison of two texts for a brief another one: neither their order nor whitespace."""
    return (brief.model_dump_json(), *sorted(map(words, texts)))


def words(text: str) -> str:
    """What makes texts different ones: neither whitespace nor characters that nobody sees."""
    return " ".join("".join(ch for ch in text if unicodedata.category(ch) != "Cf").split())


def check_apart(parts: Mapping[str, Iterable[Brief]], data: Path, world: World) -> None:
    """BadInput where a scenario stands in two parts of a folder: figures on held-out texts would flatter."""
    seen: dict[Scenario, str] = {}
    for part, briefs in parts.items():
        for brief in briefs:
            scenario = scenario_of(brief, world)
            if seen.setdefault(scenario, part) != part:
                raise BadInput(
                    f"{data}: the scenario {'/'.join(scenario)} stands in {seen[scenario]}.jsonl and in {part}.jsonl, "
                    "so that what is held out is not; let `churn-saver data` write the folder"
                )


def check_brief(brief: Brief, world: World, where: str) -> None:
    """BadInput names the field of `brief` that this world or its writer does not know."""
    known = {
        "offer": [offer.id for offer in world.offers],
        "channel": list(world.channels),
        "segment": list(CUSTOMERS),
        "reason": list(REASONS),
        "tone": list(TONES),
    }
    for field, values in known.items():
        if (value := getattr(brief, field)) not in values:
            raise BadInput(f"{where}: brief.{field}: is {value!r}; expected one of {', '.join(values)}")
    if lexicon(brief.language) is None:
        raise BadInput(
            f"{where}: brief.language: is {brief.language!r}, for which the shield has no phrases, so that it "
            "stops every text; expected a language with lists in churnsaver/safety/data, such as en"
        )


def check_text(text: str, where: str, field: str, *, slotted: bool = True) -> None:
    """BadInput where `text` says nothing, or has a slot that nothing fills (braces of public texts are no slots)."""
    if not words(text):
        raise BadInput(f"{where}: {field}: is empty; expected a slotted text")
    if not slotted:
        return
    if unknown := [name for name in slots_in(text) if name not in SLOTS]:
        raise BadInput(f"{where}: {field}: has the unknown slot {{{unknown[0]}}}; the slots are {', '.join(SLOTS)}")
    if (brace := _BRACE.search(SLOT_PATTERN.sub("", text))) is not None:
        raise BadInput(
            f"{where}: {field}: has a brace that belongs to no slot, at {brace.group()!r}; the slots are "
            f"{', '.join(f'{{{name}}}' for name in SLOTS)}, written so"
        )
