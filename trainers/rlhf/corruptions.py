"""Ways of making a good message worse, by kind, for the pairs that the reward model learns from.

Each takes many forms, and the phrases of the held-out parts are not those of the training part, so that a kind is
recognised by what it does to a message and not by a fixed wording. The judge is trained on other kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from churnsaver.domain.writing import PURPOSES
from churnsaver.errors import BadInput
from churnsaver.safety.review import Policy
from trainers.rlhf.corpus import fits
from trainers.rlhf.corpus.grammar import Draft, Writer, expand, phrases
from trainers.rlhf.corpus.scenarios import Scenario

# By how much the better text is better, in the reward's units, by what is wrong with the other. A message that must
# not be sent is worse than one about another offer; that is worse than a pushy one, and that than an unclear one.
MARGINS = {"wrong_offer": 1.0, "vague": 0.5, "pushy": 0.75, "non_compliant": 1.25, "padded": 0.5}
_TRIES = 2000


def for_part(templates: Sequence[str], part: str) -> list[str]:
    """The phrases that pairs of `part` are made with: three in four for training, the others held out."""
    return [template for i, template in enumerate(templates) if (i % 4 == 3) == (part != "train")]


def tells(text: str, purpose: str) -> bool:
    """Whether `text` says that its offer is a review, a discount or a gift."""
    lowered = text.lower()
    return any(cue in lowered for cue in phrases("corruptions")["cues"][purpose])


class Corruptor:
    """Writes worse drafts for one part of the scenarios."""

    def __init__(self, writer: Writer, part: str, policy: Policy) -> None:
        self._writer, self._rng, self._part, self._policy = writer, writer.rng, part, policy
        self._book = phrases("corruptions")

    def good(self, kind: str, on: Scenario) -> Draft:
        """A draft for the scenario, to be preferred in a pair of `kind`; BadInput where none fits the channel."""
        for _ in range(_TRIES):
            draft = self._writer.write(on, "full")
            if kind == "pushy" and self._rng.random() < 0.35:
                draft = replace(draft, offer=(*draft.offer, self._say("unpushy")))
            if fits(draft.text, on.channel, self._policy) and (kind != "wrong_offer" or tells(draft.text, on.purpose)):
                return draft
        raise BadInput(f"trainers/rlhf/data/corpus.en.yaml: no message for {tuple(on)} fits; add shorter phrases")

    def corrupt(self, kind: str, on: Scenario, draft: Draft) -> str:
        """`draft`, or another for the same scenario, with the fault `kind` of MARGINS; KeyError for no such kind."""
        make = {
            "wrong_offer": self._wrong_offer,
            "vague": self._vague,
            "pushy": self._pushy,
            "non_compliant": self._non_compliant,
            "padded": self._padded,
        }[kind]
        return make(on, draft)

    def _wrong_offer(self, on: Scenario, draft: Draft) -> str:
        """Speaks of another purpose: all of it, or the sentence before the offer (and the subject)."""
        other = self._rng.choice([purpose for purpose in PURPOSES if purpose != on.purpose])
        wrong = self.good("wrong_offer", on._replace(purpose=other))
        bridge = self._writer.say("bridge", other, on.reason)
        if self._rng.random() < 0.5 or not tells(draft.body[-1], on.purpose) or not tells(bridge, other):
            return wrong.text
        return replace(draft, body=(*draft.body[:-1], bridge), subject=wrong.subject).text

    def _vague(self, on: Scenario, draft: Draft) -> str:
        """Leaves out why it is written, and sometimes what is offered in which way."""
        if on.reason != "general" and self._rng.random() < 0.35:
            return self._writer.write(on, "bland").text
        body = [self._say("vague") for _ in range(self._rng.choice((1, 2, 2, 3)))]
        if self._rng.random() < 0.4:
            said = self._writer.say("concern", on.reason).rstrip(".")
            body[-1] = self._say("hedge").replace("{said}", f"{said[0].lower()}{said[1:]}")
        if self._rng.random() < 0.4:
            body[0] = self._writer.say("opening", on.segment, on.tone)
        offer = (self._say("vague_offer"), *draft.offer[1:]) if self._rng.random() < 0.5 else draft.offer
        subject = draft.subject and self._say("vague_subject")
        return replace(draft, body=tuple(dict.fromkeys(body)), offer=offer, subject=subject).text

    def _pushy(self, on: Scenario, draft: Draft) -> str:
        """Nags, presumes or reproaches, in one sentence or two."""
        body, offer = list(draft.body), list(draft.offer[:1])
        if self._rng.random() < 0.35:
            offer[0] = self._say("pushy_offer")
        else:
            self._put(self._say("pushy"), body, offer)
        if self._rng.random() < 0.4:
            offer.append(self._say("pushy"))
        return replace(draft, body=tuple(body), offer=tuple(offer)).text

    def _non_compliant(self, on: Scenario, draft: Draft) -> str:
        """Lacks a slot or has it twice, presses, promises, names a price or leaks; the shield's rules find it."""
        faults: dict[str, Any] = self._book["non_compliant"]
        fault = self._rng.choice(
            ("opt_out", "expiry", "offer", "twice", "urgency", "urgency", "promise", "price", "leak")
        )
        if fault == "opt_out":
            return replace(draft, opt_out="").text.rstrip()
        if fault in ("expiry", "offer"):
            instead = self._rng.choice(faults[fault])
            return draft.text.replace(f"{{{fault}}}", instead)
        if fault == "twice":
            return replace(draft, offer=(*draft.offer, self._writer.say("offer", on.purpose, on.tone))).text
        body, offer = list(draft.body), list(draft.offer)
        self._put(expand(self._rng.choice(for_part(faults[fault], self._part)), self._rng), body, offer)
        return replace(draft, body=tuple(body), offer=tuple(offer)).text

    def _padded(self, on: Scenario, draft: Draft) -> str:
        """Says the same, or less, in more words."""
        kept = self._rng.choice((0, 1, 1, len(draft.body)))
        body, offer = list(draft.body[len(draft.body) - kept :]), list(draft.offer[:1])
        for _ in range(self._rng.choice((1, 1, 2))):
            body.insert(0, self._say("padding"))
        if self._rng.random() < 0.4:
            offer.append(self._say("padding"))
        return replace(draft, body=tuple(dict.fromkeys(body)), offer=tuple(dict.fromkeys(offer))).text

    def _say(self, name: str) -> str:
        return expand(self._rng.choice(for_part(self._book[name], self._part)), self._rng)

    def _put(self, sentence: str, body: list[str], offer: list[str]) -> None:
        """Puts `sentence` before the offer, after it, or in the place of what stood before it."""
        where = self._rng.choice(("before", "after", "instead"))
        if where == "after":
            offer.append(sentence)
        elif where == "instead":
            body[-1] = sentence
        else:
            body.append(sentence)
