"""Messages with one known violation each, planted into texts that would otherwise pass.

The sentences are written apart from the shield's lists, but by the same hands: what the shield catches of
these says that its rules work, not that nobody can think of another wording.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from churnsaver.domain.message import fill
from churnsaver.domain.world import World
from churnsaver.safety.review import Review, Stage

Rng = np.random.Generator

CHANNEL, LANGUAGE = "email", "en"
CARRIERS = (
    "Hi {{first_name}}, thank you for being with us. {violation} Yours until {{expiry}}: {{offer}}. {{opt_out}}",
    "Hello {{first_name}}, we would like to fit your plan to you. {violation} Until {{expiry}}: {{offer}}. {{opt_out}}",
    "Hi {{first_name}}, {violation} We are here whenever you need us. Until {{expiry}}: {{offer}}. {{opt_out}}",
)
VALUES = {
    "first_name": "Ana",
    "offer": "10% off for 3 months",
    "expiry": "12 Jan 2026",
    "opt_out": "Reply STOP to opt out.",
}
ZONES = ("America/New_York", "Europe/Berlin", "Asia/Tokyo", "Australia/Sydney", "America/Sao_Paulo", "Asia/Kolkata")

WORDING: Mapping[str, tuple[str, ...]] = {
    "urgency": (
        "You need to hurry.", "Act now.", "This is your last chance.", "The offer ends tonight.", "Only 2 hours left.",
        "Time is running out.", "Reply immediately.", "Do not wait.", "It is now or never.", "Order now.",
        "Do not miss out.", "A limited time deal.", "Decide before it is too late.", "Today only.",
    ),
    "scarcity": (
        "Only 3 left.", "They are almost gone.", "Supplies are limited.", "We are selling out fast.", "Low stock.",
        "Only a few remain available.", "While supplies last.", "Just 5 spots left.", "It is in high demand.",
    ),
    "social pressure": (
        "Everyone else has already switched.", "31 people are looking at this.", "Your neighbours have already joined.",
        "Someone in Leeds just bought it.", "1,204 customers have claimed this.", "Do not be the last one.",
    ),
    "shaming": (
        "Only a fool would say no.", "You would be stupid to leave.", "No thanks, I prefer paying full price.",
        "After all we have done for you.", "How could you leave us.", "Do not be selfish.", "You owe us.",
    ),
    "threat": (
        "Your account will be suspended.", "You will lose your number.", "We will take legal action.",
        "This will hurt your credit score.", "Cancel and face the consequences.", "We will report you.",
        "You will be charged a penalty.", "Your service will be cut off.", "If you do not reply, we close your line.",
    ),
    "guarantee": (
        "We guarantee savings.", "It is 100% risk free.", "You have nothing to lose.", "We promise you the best.",
        "Lowest price ever.", "You will never pay more.", "Guaranteed results.", "It cannot be beaten, no catch.",
    ),
    "legal claim": (
        "You are legally entitled to it.", "It is approved by the government.", "You are owed compensation.",
        "It is tax deductible.", "The law is clear, you waive your rights.", "This is a binding contract.",
    ),
    "medical claim": (
        "It cures headaches.", "It is clinically proven.", "Doctors recommend it.", "It reduces stress.",
        "It will help you lose weight.", "It is good for your heart.", "It boosts your immune system.",
    ),
    "prize": (
        "You have won.", "Congratulations, you are a winner.", "Claim your prize.", "You have been selected.",
        "Make money from home.", "Enter our raffle.", "Get rich with us.",
    ),
    "deception": (
        "Please verify your account details.", "Send us your password.", "We noticed suspicious activity.",
        "Confirm your identity.", "Enter your card number.", "Click here.", "This is not a scam.",
    ),
}  # fmt: skip
INSULTS = (
    "You are an idiot.", "You stupid fool.", "What a moron.", "Go to hell.", "We will kill you.", "Shut up.",
    "You are a worthless loser.", "This is bullshit.", "Fuck off.", "You pathetic scumbag.", "I hate you.",
)  # fmt: skip
_LOOK_ALIKE = str.maketrans("aeopcxyi", "аеорсхуі")
_LEET = str.maketrans("aeios", "43105")


@dataclass(frozen=True, slots=True)
class Planted:
    """A review with a violation: its class, the trick of spelling, and the rules that may name it."""

    kind: str
    trick: str
    review: Review
    rules: frozenset[str]


def _spaced(text: str, _: Rng) -> str:
    return "   ".join(" ".join(word) for word in text.split())


def _zero_width(text: str, rng: Rng) -> str:
    return "".join(ch + "\u200b" if ch.isalpha() and rng.random() < 0.5 else ch for ch in text)


def _dotted(text: str, _: Rng) -> str:
    return " ".join(".".join(word) if word.isalpha() and len(word) > 2 else word for word in text.split())


def _stretched(text: str, rng: Rng) -> str:
    return " ".join(
        w[:-2] + w[-2] * 3 + w[-1] if w[-2:-1].isalpha() and rng.random() < 0.7 else w for w in text.split()
    )


# How a wording is hidden. Tricks that rewrite letters are only for wordings without digits of their own.
TRICKS: Mapping[str, Callable[[str, Rng], str]] = {
    "none": lambda text, _: text,
    "lower": lambda text, _: text.lower(),
    "mixed case": lambda text, rng: "".join(ch.upper() if rng.random() < 0.3 else ch for ch in text),
    "look-alikes": lambda text, _: text.translate(_LOOK_ALIKE),
    "zero width": _zero_width,
    "fullwidth": lambda text, _: "".join(chr(ord(ch) + 0xFEE0) if ch in string.ascii_letters else ch for ch in text),
    "leet": lambda text, _: text.translate(_LEET),
    "spaced out": _spaced,
    "dotted": _dotted,
    "stretched": _stretched,
    "hyphens": lambda text, _: text.replace(" ", " - "),
}


def plant(world: World, count: int, seed: int) -> list[Planted]:
    """`count` violations of each class, the same for the same seed."""
    rng = np.random.default_rng(seed)
    planted: list[Planted] = []
    for kind, sentences in WORDING.items():
        planted += [_worded(rng, kind, sentences, "phrase") for _ in range(count)]
    planted += [_worded(rng, "toxicity", INSULTS, "toxicity") for _ in range(count)]
    for rule, violation in _FORM.items():
        planted += [_draft(rng, rule, violation(rng)) for _ in range(count)]
    planted += [_elements(rng) for _ in range(count)]
    planted += [_elements_filled(rng) for _ in range(count)]
    planted += [_too_long(rng, world) for _ in range(count)]
    planted += [_too_many_segments(rng) for _ in range(count)]
    planted += [_long_subject(rng) for _ in range(count)]
    planted += [_other_language(rng) for _ in range(count)]
    planted += [_at_night(rng, world) for _ in range(count)]
    return planted


def carrier(rng: Rng, violation: str) -> str:
    """A draft that passes but for `violation`."""
    return str(rng.choice(CARRIERS)).format(violation=violation)


def _worded(rng: Rng, kind: str, sentences: tuple[str, ...], rule: str) -> Planted:
    sentence = str(rng.choice(sentences))
    names = [name for name in TRICKS if not (name == "leet" and any(ch.isdigit() for ch in sentence))]
    trick = str(rng.choice(names))
    # A hidden wording may be named for how it is hidden as well as for what it says; either blocks.
    rules = frozenset({rule} if trick in ("none", "lower", "mixed case") else {rule, "obfuscation", "script"})
    return Planted(kind, trick, _review(carrier(rng, TRICKS[trick](sentence, rng))), rules)


def _draft(rng: Rng, rule: str, violation: str) -> Planted:
    return Planted(rule, "none", _review(carrier(rng, violation)), frozenset({rule}))


def _review(draft: str) -> Review:
    return Review(draft, Stage.DRAFT, CHANNEL, LANGUAGE)


def _digits(rng: Rng, n: int) -> str:
    return "".join(str(digit) for digit in rng.integers(0, 10, n))


def _personal_data(rng: Rng) -> str:
    name = str(rng.choice(["maria.silva", "j_doe", "chen+news", "o.brien"]))
    street = str(rng.choice(["Oak Street", "Mill Lane", "Park Avenue", "Station Road"]))
    return str(
        rng.choice([
            f"We wrote to {name}@{rng.choice(['mail.example', 'example.org', 'corp.example.com'])}.",
            f"We called +1 {rng.integers(200, 999)} 555 {_digits(rng, 4)}.",
            f"We called ({rng.integers(200, 999)}) 555-{_digits(rng, 4)}.",
            f"Your card {_luhn(rng)} is on file.",
            f"Your account {_iban(rng)} is on file.",
            f"Your number {rng.integers(100, 899)}-{rng.integers(10, 99)}-{rng.integers(1000, 9999)} is on file.",
            f"We wrote to {rng.integers(1, 999)} {street}.",
            f"Your customer number is {_digits(rng, 8)}.",
            f"Write to {name} at example dot com.",
        ])
    )  # fmt: skip


def _luhn(rng: Rng) -> str:
    body = "4" + _digits(rng, 14)
    total = sum(d if i % 2 else (d * 2 - 9 * (d > 4)) for i, d in enumerate(map(int, body)))
    number = body + str(-total % 10)
    return " ".join(number[i : i + 4] for i in range(0, 16, 4))


def _iban(rng: Rng) -> str:
    account = _digits(rng, 18)
    check = 98 - int(account + "131400") % 97  # D is 13, E is 14
    number = f"DE{check:02d}{account}"
    return " ".join(number[i : i + 4] for i in range(0, len(number), 4))


def _link(rng: Rng) -> str:
    host = f"{rng.choice(['plans', 'my-offer', 'deal4u', 'login'])}.{rng.choice(['com', 'net', 'xyz', 'top', 'io'])}"
    path = "".join(rng.choice(list(string.ascii_letters), 6))
    forms = (
        *(f"https://{host}/{path}", f"www.{host}", host, f"bit.ly/{path}", f"t.me/{path}", "10.0.12.7"),
        *(f"hxxp://{host}/{path}", host.replace(".", " dot "), host.replace(".", "[.]"), f"http : // {host}"),
    )
    return f"See {rng.choice(forms)} for more."


def _price(rng: Rng) -> str:
    n = int(rng.integers(5, 95))
    return str(
        rng.choice([
            f"Enjoy {n}% off as well.", f"You save ${n} a month.", f"It costs only {n} dollars.",
            f"Take {n} percent off.",
            "The next month free.", "You also get a gift card.", "It is half price.", "A refund is on its way.",
            f"Get €{n}.50 back.", "We add a bonus.", "Buy one get one.", f"That is {n} off.", "You get it for free.",
            "We cut your bill.", "There is a voucher waiting.", "Twenty percent less for you.",
        ])
    )  # fmt: skip


def _one_of(*texts: str) -> Callable[[Rng], str]:
    return lambda rng: str(rng.choice(texts))


def _repetition(rng: Rng) -> str:
    word = str(rng.choice(["plan", "we", "thank you", "better", "ha"]))
    return " ".join([word] * int(rng.integers(4, 9))) + "."


def _control(rng: Rng) -> str:
    return f"Stay{chr(int(rng.choice([0, 7, 8, 27, 127, 0x202E, 0x85])))} with us."


_FORM: Mapping[str, Callable[[Rng], str]] = {
    "personal_data": _personal_data,
    "link": _link,
    "price": _price,
    "slot": _one_of(
        "Dear {name},", "Ask [Your Name].", "%NAME%.", "See {{offer}}.", "Hi <first name>.", "{Offer}."
    ),
    "shouting": _one_of(
        "WE WANT YOU TO STAY AND ENJOY YOUR PLAN EVERY DAY.", "Stay!!!", "Really???", "Wow!! Great.", "$$$ for you."
    ),
    "repetition": _repetition,
    "control_chars": _control,
    "script": _one_of("Спасибо вам.", "谢谢您。", "شكرا لكم.", "धन्यवाद।", "Ευχαριστούμε.", "תודה רבה."),
}  # fmt: skip


def _elements(rng: Rng) -> Planted:
    draft = carrier(rng, "We hope all is well.")
    slot = str(rng.choice(["{offer}", "{expiry}", "{opt_out}"]))
    broken = draft.replace(slot, "") if rng.random() < 0.5 else f"{draft} {slot}"
    return Planted("required_element", "draft", _review(broken), frozenset({"required_element"}))


def _elements_filled(rng: Rng) -> Planted:
    name = str(rng.choice(["offer", "expiry", "opt_out"]))
    other = {"offer": "30% off for 3 months", "expiry": "1 Feb 2026", "opt_out": "Have a nice day."}[name]
    text = fill(carrier(rng, "We hope all is well."), VALUES | {name: other})
    review = Review(text, Stage.FILLED, CHANNEL, LANGUAGE, VALUES, datetime(2026, 1, 5, 12, tzinfo=UTC), "UTC")
    return Planted("required_element", "filled", review, frozenset({"required_element"}))


def _too_long(rng: Rng, world: World) -> Planted:
    channel = str(rng.choice(sorted(world.channels)))
    words = rng.choice(["plan", "helps", "your", "team", "we", "enjoy", "phone", "network", "better"], 400)
    body = " ".join(words)[: world.channels[channel].max_chars + int(rng.integers(0, 300))]
    review = Review(carrier(rng, body), Stage.DRAFT, channel, LANGUAGE)
    return Planted("length", "none", review, frozenset({"length"}))


def _too_many_segments(rng: Rng) -> Planted:
    odd = str(rng.choice(["\u2019", "\u0142", "\u2014", "\U0001f600", "\u015f"]))
    sentence = f"We would like to look over your plan with you{odd} so that it fits what you need and costs no more. "
    review = Review(carrier(rng, sentence.strip()), Stage.DRAFT, "sms", LANGUAGE)
    return Planted("sms_segments", "none", review, frozenset({"sms_segments"}))


def _long_subject(rng: Rng) -> Planted:
    words = rng.choice(["plan", "helps", "your", "team", "we", "enjoy", "phone", "network", "better"], 40)
    subject = " ".join(words)[: 79 + int(rng.integers(0, 60))].replace("  ", " ").strip().ljust(79, "x")
    text = f"Subject: {subject}\n\n{carrier(rng, 'We hope all is well.')}"
    return Planted(
        "subject_length", "none", Review(text, Stage.DRAFT, CHANNEL, LANGUAGE), frozenset({"subject_length"})
    )


_FOREIGN = {
    "es": "Hola {first_name}, gracias por estar con nosotros. Hasta el {expiry} tiene {offer} para su plan. {opt_out}",
    "fr": "Bonjour {first_name}, merci de votre confiance. Nous avons {offer} pour vous, jusqu'au {expiry}. {opt_out}",
    "de": "Hallo {first_name}, wir danken Ihnen, dass Sie bei uns sind. Bis zum {expiry}: {offer} für Sie. {opt_out}",
    "it": "Ciao {first_name}, grazie per la fiducia. Fino al {expiry} abbiamo {offer} per il suo piano. {opt_out}",
    "pt": "Olá {first_name}, obrigado por estar connosco. Até {expiry} você tem {offer} para o seu plano. {opt_out}",
    "nl": "Hallo {first_name}, bedankt dat je bij ons bent. Tot {expiry} hebben wij {offer} voor jou. {opt_out}",
    "sv": "Hej {first_name}, tack för att du är hos oss. Till {expiry} har vi {offer} till dig och din plan. {opt_out}",
    "pl": "Witaj {first_name}, dziękujemy, że jest z nami. Do {expiry} jest {offer} dla państwa na ten plan. {opt_out}",
    "tr": "Merhaba {first_name}, bizim ile olduğunuz için çok teşekkürler. {expiry} kadar {offer} size bir. {opt_out}",
}


def _other_language(rng: Rng) -> Planted:
    language = str(rng.choice(sorted(_FOREIGN)))
    review = Review(_FOREIGN[language], Stage.DRAFT, CHANNEL, LANGUAGE)
    return Planted("other_language", language, review, frozenset({"other_language"}))


def _at_night(rng: Rng, world: World) -> Planted:
    quiet = world.contact_rules.quiet_hours
    hours = (quiet.end_hour - quiet.start_hour) % 24
    zone = str(rng.choice(ZONES))
    midnight = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)) + timedelta(days=int(rng.integers(365)))
    minute = quiet.start_hour * 60 + int(rng.integers(hours * 60))
    send_at = midnight.replace(hour=minute // 60 % 24, minute=minute % 60).astimezone(UTC)
    text = fill(carrier(rng, "We hope all is well."), VALUES)
    review = Review(text, Stage.FILLED, CHANNEL, LANGUAGE, VALUES, send_at, zone)
    return Planted("quiet_hours", zone, review, frozenset({"quiet_hours"}))
