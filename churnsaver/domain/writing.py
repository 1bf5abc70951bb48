"""What the language model is told of a brief, and what it hands back.

Trainers and the generator build the same conversation from here, so that a model serves the prompts that it was
trained on. A brief holds no personal data (law 3): the draft has slots where the decision's values go.
"""

from __future__ import annotations

from churnsaver.domain.message import SEGMENTS, Brief
from churnsaver.domain.world import World
from churnsaver.errors import BadInput

SYSTEM = "You write short, honest messages from a company to its customer."
# Why a customer may leave, as far as a message may speak of it.
REASONS = {
    "general": "stay with us",
    "price": "the plan costs a lot",
    "usage": "the plan no longer fits the use",
    "contract": "the contract runs out",
    "service": "something went wrong with the service",
}
TONES = {"warm": "warm", "plain": "plain and to the point", "cheerful": "light and cheerful"}
CUSTOMERS = {
    "new": "has just joined",
    "settled": "has been with us for a while",
    "loyal": "has been with us for years",
}
PURPOSES = {"review": "a review of the plan", "discount": "a lower price", "gift": "a gift"}
SUBJECT = "Subject: "  # how an e-mail's draft begins; a blank line ends the subject
SUBJECT_CHANNELS = frozenset({"email"})
QUOTED = 40  # characters of what a caller sent: an answer has no room for all of it


def check_brief(brief: Brief, world: World) -> None:
    """BadInput names what does not exist of a brief; a language may be any."""
    for name, known in (
        ("segment", SEGMENTS),
        ("offer", [offer.id for offer in world.offers]),
        ("channel", world.channels),
        ("tone", TONES),
        ("reason", REASONS),
    ):
        if (value := getattr(brief, name)) not in known:
            raise BadInput(f"brief.{name} is {value[:QUOTED]!r}; expected one of {', '.join(known)}")


def conversation(brief: Brief, world: World) -> list[dict[str, str]]:
    """The turns up to the model's own, as chat templates take them: role and content.

    The purpose of the offer is told, not its price: that stands in the slot `{offer}`.
    """
    told = {
        "channel": f"{brief.channel}, at most {world.channels[brief.channel].max_chars} characters",
        "language": brief.language,
        "tone": TONES[brief.tone],
        "customer": CUSTOMERS[brief.segment],
        "reason": REASONS[brief.reason],
        "offer": PURPOSES[world.offer(brief.offer).purpose],
    }
    content = "\n".join(f"{name}: {value}" for name, value in told.items())
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def split_subject(text: str) -> tuple[str | None, str]:
    """An e-mail's subject and what follows it; None where the text begins with none.

    >>> split_subject("Subject: For you\\n\\nHello")
    ('For you', 'Hello')
    """
    if not text.startswith(SUBJECT):
        return None, text.strip()
    subject, _, body = text.removeprefix(SUBJECT).partition("\n")
    return subject.strip(), body.strip()


def form_fault(text: str, channel: str) -> str | None:
    """Why a text is no draft for the channel: "empty", or "subject" where there is none, a second or one too many.

    >>> form_fault("Subject: For you", "email")
    'empty'
    """
    subject, body = split_subject(text)
    if not body:
        return "empty"
    return "subject" if bool(subject) != (channel in SUBJECT_CHANNELS) or SUBJECT in body else None
