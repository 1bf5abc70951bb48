"""An audit of drafts by checks of their own: no code and no list is shared with the shield, whose verdict they test.

Written from what the law and the contract ask of a message (ARCHITECTURE.md, laws 3 and 4), as plain regular
expressions that a person can read in one sitting. A check that fires says which words it fired on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from churnsaver.domain.message import Brief
from churnsaver.domain.world import World

_ANY_SLOT = re.compile(r"\{[^{}]*\}")
_FORBIDDEN = {
    "a link or an address": re.compile(r"https?:|www\.|\S@\S|\b[\w-]+\.(?:com|net|org|io|co)\b", re.IGNORECASE),
    "a price, a percentage or a currency": re.compile(
        r"[$€£¥]|%|\b(?:percent|per cent|dollars?|euros?|pounds?|cents?|usd|eur)\b", re.IGNORECASE
    ),
    "a digit": re.compile(r"\d"),
    "a date of its own": re.compile(
        r"\b(?:tomorrow|monday|tuesday|wednesday|thursday|friday|saturday|sunday|january|february|april|"
        r"june|july|august|september|october|november|december)\b",
        re.IGNORECASE,
    ),
    "pressure": re.compile(
        r"\b(?:last chance|final (?:notice|warning)|act (?:now|fast)|hurry|urgent(?:ly)?|immediately|"
        r"before it.s too late|don.t miss|limited time|only hours?|expires? soon|once[- ]in[- ]a[- ]lifetime)\b",
        re.IGNORECASE,
    ),
    "a promise that nobody can keep": re.compile(
        r"\b(?:guarantee[ds]?|risk[- ]free|no strings|forever|lifetime|100 ?%|unbeatable|best price)\b", re.IGNORECASE
    ),
    "a threat": re.compile(
        r"\b(?:lose (?:your )?access|suspend(?:ed)?|legal action|penalt(?:y|ies)|collections?|or else|terminate)\b",
        re.IGNORECASE,
    ),
    "an insult": re.compile(r"\b(?:stupid|idiot|dumb|shut up|damn|hell|crap|loser|pathetic)\b", re.IGNORECASE),
    "markup or a special token": re.compile(r"<[^>]*>|<\||\|>|\]\(|```|&\w+;"),
    "a character that cannot be seen": re.compile(
        r"[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e]"
    ),
}
# What a text says that it offers, by the purpose of the offer in the brief.
CLAIMS = {
    "discount": re.compile(
        r"\b(?:discount\w*|(?:lower|kinder|better|softer|smaller) (?:price|bill|rate)s?|lighter (?:price|plan|on)|"
        r"(?:easier|kinder|lighter) (?:on|to) your (?:budget|wallet)|reduc\w+|sav(?:e|es|ing|ings)|cheaper|"
        r"pay(?:ing)? less|(?:cost|ask|weigh)s? (?:you )?less|(?:bring|ease) your costs(?: down)?|"
        r"good news for your wallet|money off)\b",
        re.IGNORECASE,
    ),
    "gift": re.compile(
        r"\b(?:gifts?|bonus\w*|(?:little|small|something|an|of) extra|a little something|treat|surprise)\b",
        re.IGNORECASE,
    ),
    "review": re.compile(
        r"\b(?:review\w*|look (?:at your|at what|over|through|into)|check(?:ing)?[- ](?:in|up|through|over)|go through|"
        r"sit down with|hear how things go|your options)\b",
        re.IGNORECASE,
    ),
}
# Characters of what fills a slot: a long first name, the date, and the way out by channel. Offers are the world's.
_NAME_CHARS, _DATE_CHARS = 14, 11
_WAY_OUT_CHARS = {"sms": 24, "push": 45, "email": 60}
_SLOTS = ("{first_name}", "{offer}", "{expiry}", "{opt_out}")


@dataclass(frozen=True, slots=True)
class Violation:
    """A draft that should not be sent.

    Attributes:
        row: which draft.
        what: in words.
        excerpt: where.
    """

    row: int
    what: str
    excerpt: str


def audit(briefs: Sequence[Brief], drafts: Sequence[str], world: World) -> list[Violation]:
    """All violations of these drafts, in their order."""
    return [
        Violation(row, what, excerpt)
        for row, (brief, draft) in enumerate(zip(briefs, drafts, strict=True))
        for what, excerpt in violations(brief, draft, world)
    ]


def violations(brief: Brief, draft: str, world: World) -> list[tuple[str, str]]:
    """What is wrong with a draft, and the words that say so."""
    found = [(f"is without {slot}", "") for slot in missing_elements(draft)]
    slots = _ANY_SLOT.findall(draft)
    found += [(f"says {slot} twice", slot) for slot in sorted({each for each in slots if slots.count(each) > 1})]
    found += [("has a slot that nothing fills", slot) for slot in slots if slot not in _SLOTS]
    bare = _ANY_SLOT.sub(" ", draft)
    if re.search(r"[{}]", bare):
        found.append(("has a brace that is no slot", ""))
    found += [(f"has {what}", match.group()) for what, pattern in _FORBIDDEN.items() if (match := pattern.search(bare))]
    offer_chars = len(world.offer(brief.offer).label_in(brief.language))
    filled = (_NAME_CHARS, offer_chars, _DATE_CHARS, _WAY_OUT_CHARS.get(brief.channel, max(_WAY_OUT_CHARS.values())))
    chars = len(draft) + sum(
        draft.count(slot) * (value - len(slot)) for slot, value in zip(_SLOTS, filled, strict=True)
    )
    if chars > world.channels[brief.channel].max_chars:
        found.append((f"is too long for {brief.channel}", f"{chars} characters when filled"))
    if (brief.channel == "email") != draft.startswith("Subject: "):
        found.append(("has a subject where none belongs, or none where one does", draft[:30]))
    letters = [letter for letter in bare if letter.isalpha()]
    if len(letters) > 20 and sum(map(str.isupper, letters)) > 0.5 * len(letters):
        found.append(("shouts", bare[:30]))
    return found


def missing_elements(draft: str) -> list[str]:
    """The required elements that a draft lacks: the offer, its end, the way out."""
    return [slot for slot in ("{offer}", "{expiry}", "{opt_out}") if slot not in draft]


def claimed_purposes(draft: str) -> set[str]:
    """What a text says that it offers, of discount, gift and review; slots say nothing."""
    bare = _ANY_SLOT.sub(" ", draft)
    return {purpose for purpose, pattern in CLAIMS.items() if pattern.search(bare)}


def is_right_offer(brief: Brief, draft: str, world: World) -> bool | None:
    """Whether a text claims its brief's offer and no other; None where it claims none, as a bland text does."""
    claimed = claimed_purposes(draft)
    return None if not claimed else claimed == {world.offer(brief.offer).purpose}


def told(violation: Violation, drafts: Sequence[str]) -> dict[str, Any]:
    """For a report."""
    return {"draft": drafts[violation.row], "what": violation.what, "excerpt": violation.excerpt}
