"""The grammar that writes approved messages: phrases from `data/corpus.en.yaml`, put together by scenario and channel.

Quality is spread on purpose, as a real team's approved texts spread: most name the reason and what the offer is for,
some are bland and leave the reason out, some say more words than they need. All are safe and complete. A model that
is fine-tuned on them writes with the same spread, which leaves room for what is learned from preferences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

from churnsaver.domain.writing import SUBJECT, SUBJECT_CHANNELS
from churnsaver.settings import read_yaml
from trainers.rlhf.corpus.scenarios import Scenario

# How many texts of a hundred are written in each way.
STYLES = {"full": 60, "bland": 20, "wordy": 20}
MAX_EXCLAMATION_MARKS = 3  # the shield calls more than these shouting
_CHOICE = re.compile(r"\[([^\[\]]*)\]")


@cache
def phrases(name: str) -> dict[str, Any]:
    """The phrases of `data/<name>.en.yaml`; SettingsError where it is not there."""
    return read_yaml(Path(str(resources.files("trainers.rlhf"))) / "data" / f"{name}.en.yaml")


def expand(template: str, rng: Random) -> str:
    """`template` with every `[one|another]` decided; choices may not be nested.

    >>> expand("[Hi|Hi] {first_name}", Random(0))
    'Hi {first_name}'
    """
    return _CHOICE.sub(lambda choice: rng.choice(choice.group(1).split("|")), template)


def join(sentences: Iterable[str]) -> str:
    """Sentences as one line; after a comma or "and", the next begins in lower case."""
    text = ""
    for sentence in filter(None, sentences):
        goes_on = text.endswith((",", " and"))
        text += f" {sentence[:1].lower()}{sentence[1:]}" if goes_on else f" {sentence}"
    return text.strip()


def calm(text: str) -> str:
    """`text` with at most as many exclamation marks as the shield lets pass; the last ones become full stops."""
    head, *rest = text.split("!")
    kept, calmed = rest[:MAX_EXCLAMATION_MARKS], rest[MAX_EXCLAMATION_MARKS:]
    return ".".join(["!".join([head, *kept]), *calmed])


@dataclass(frozen=True, slots=True)
class Draft:
    """A slotted draft, part by part, so that it can be made worse on purpose.

    Attributes:
        subject: of an e-mail; empty for channels without one.
        body: sentences before the offer, some of them clauses that the next one goes on.
        offer: the sentence with the offer and its last day, and what follows it.
        closing: of an e-mail; may be empty.
        opt_out: the slot.
    """

    subject: str
    greeting: str
    body: tuple[str, ...]
    offer: tuple[str, ...]
    closing: str = ""
    opt_out: str = "{opt_out}"

    @property
    def text(self) -> str:
        """The draft as the model writes it: an e-mail in paragraphs under its subject, or one line."""
        if not self.subject:
            return calm(join([self.greeting, join(self.body), join(self.offer), self.opt_out]))
        paragraphs = [self.greeting, join(self.body), join(self.offer), self.closing, self.opt_out]
        return calm("\n\n".join([SUBJECT + self.subject, *filter(None, paragraphs)]))


class Writer:
    """Writes slotted drafts for scenarios.

    Attributes:
        rng: decides which phrases; the same seed writes the same texts.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self._book = phrases("corpus")

    def write(self, scenario: Scenario, style: str | None = None) -> Draft:
        """A draft for `scenario` in one of STYLES, chosen by their shares where none is given."""
        style = style or self.rng.choices(list(STYLES), weights=list(STYLES.values()))[0]
        return self._email(scenario, style) if scenario.channel in SUBJECT_CHANNELS else self._short(scenario, style)

    def say(self, part: str, *path: str) -> str:
        """One way of saying `part`, such as `say("offer", "review", "warm")`."""
        found: Any = self._book[part]
        for step in path:
            found = found[step]
        return expand(self.rng.choice(found), self.rng)

    def _short(self, on: Scenario, style: str) -> Draft:
        """An SMS or a push note."""
        opening = self.say("opening", on.segment, _opening_tone(on))
        concern = self.say("concern", on.reason)
        led = [self.say("lead", on.segment, _opening_tone(on)), concern]
        bridge = self.say("bridge", on.purpose, on.reason)
        if style == "bland":
            body = self.rng.choice([[opening], [self.say("filler")]])
        elif style == "wordy":
            body = [self.say("filler"), *self.rng.choice([[opening], [concern], led])]
        else:
            body = self.rng.choice([led, led, [concern, bridge], [opening, concern]])
        greeting = self.say("greeting", "short", on.tone)
        return Draft("", greeting, tuple(body), (self.say("offer", on.purpose, on.tone),))

    def _email(self, on: Scenario, style: str) -> Draft:
        opening = self.say("opening", on.segment, _opening_tone(on))
        concern = self.say("concern", on.reason)
        bridge = self.say("bridge", on.purpose, on.reason)
        reason = on.reason
        if style == "bland":
            body, reason = self.rng.choice([[opening], [self.say("filler"), opening]]), "general"
        elif style == "wordy":
            body = [self.say("filler"), *self.rng.choice([[opening, concern], [concern], [concern, bridge]])]
        else:
            body = self.rng.choice([[opening, concern, bridge], [concern, bridge], [opening, concern]])
        offer = [self.say("offer", on.purpose, on.tone)]
        if style != "full" or bridge not in body or self.rng.random() < 0.3:
            offer.append(self.say("accept", on.tone))
        closing = self.say("closing", on.tone) if self.rng.random() < 0.7 else ""
        subject = self.say("subject", on.purpose, reason)
        return Draft(subject, self.say("greeting", "email", on.tone), tuple(body), tuple(offer), closing)


def _opening_tone(on: Scenario) -> str:
    """The tone of the first sentence: nobody cheers before an apology."""
    return "warm" if on.reason == "service" and on.tone == "cheerful" else on.tone
