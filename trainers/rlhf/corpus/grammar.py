"""The grammar that writes approved messages: phrases from `data/corpus.en.yaml`, put together by scenario and channel.

Quality is spread on purpose, as a real team's approved texts spread: most name the reason and what the offer is for,
some are bland and leave the reason out, some say more words than they need. All are safe and complete. A model that
is fine-tuned on them writes with the same spread, which leaves room for what is learned from preferences.
"""

from __future__ import annotations

import re
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


def join(sentences: list[str]) -> str:
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


class Writer:
    """Writes slotted drafts for scenarios.

    Attributes:
        rng: decides which phrases; the same seed writes the same texts.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self._book = phrases("corpus")

    def write(self, scenario: Scenario, style: str | None = None) -> str:
        """A draft for `scenario` in one of STYLES, chosen by their shares where none is given."""
        style = style or self.rng.choices(list(STYLES), weights=list(STYLES.values()))[0]
        if scenario.channel in SUBJECT_CHANNELS:
            return calm(self._email(scenario, style))
        return calm(self._short(scenario, style))

    def say(self, part: str, *path: str) -> str:
        """One way of saying `part`, such as `say("offer", "review", "warm")`."""
        found: Any = self._book[part]
        for step in path:
            found = found[step]
        return expand(self.rng.choice(found), self.rng)

    def _short(self, on: Scenario, style: str) -> str:
        """An SMS or a push note: one line."""
        opening = self.say("opening", on.segment, _opening_tone(on))
        concern = self.say("concern", on.reason)
        led = [self.say("lead", on.segment, _opening_tone(on)), concern]
        bridge = self.say("bridge", on.purpose, on.reason)
        if style == "bland":
            middle = self.rng.choice([[opening], [self.say("filler")]])
        elif style == "wordy":
            middle = [self.say("filler"), *self.rng.choice([[opening], [concern], led])]
        else:
            middle = self.rng.choice([led, led, [concern, bridge], [opening, concern]])
        greeting = self.say("greeting", "short", on.tone)
        return join([greeting, join(middle), self.say("offer", on.purpose, on.tone), "{opt_out}"])

    def _email(self, on: Scenario, style: str) -> str:
        """An e-mail: subject, greeting and paragraphs."""
        opening = self.say("opening", on.segment, _opening_tone(on))
        concern = self.say("concern", on.reason)
        bridge = self.say("bridge", on.purpose, on.reason)
        first, reason = [opening, concern], on.reason
        if style == "bland":
            first, bridge, reason = self.rng.choice([[opening], [self.say("filler"), opening]]), "", "general"
        elif style == "wordy":
            first = [self.say("filler"), *self.rng.choice([[opening, concern], [concern]])]
            bridge = self.rng.choice([bridge, ""])
        else:
            first, bridge = self.rng.choice([([opening, concern], bridge), ([concern], bridge), (first, "")])
        offer = [self.say("offer", on.purpose, on.tone)]
        if style != "full" or not bridge or self.rng.random() < 0.3:
            offer.append(self.say("accept", on.tone))
        paragraphs = [
            self.say("greeting", "email", on.tone),
            join([*first, bridge]),
            join(offer),
            self.say("closing", on.tone) if self.rng.random() < 0.7 else "",
            "{opt_out}",
        ]
        subject = self.say("subject", on.purpose, reason)
        return "\n\n".join([SUBJECT + subject, *filter(None, paragraphs)])


def _opening_tone(on: Scenario) -> str:
    """The tone of the first sentence: nobody cheers before an apology."""
    return "warm" if on.reason == "service" and on.tone == "cheerful" else on.tone
