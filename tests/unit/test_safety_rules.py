"""The review rules: what each finds, what it leaves alone, and that a broken rule blocks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from churnsaver.domain.message import MessageBook, fill
from churnsaver.domain.world import World
from churnsaver.safety.language import _function_words
from churnsaver.safety.length import segments
from churnsaver.safety.review import Finding, Policy, Review, Stage
from churnsaver.safety.rules import RULES, review_with_rules
from churnsaver.safety.subject import Subject
from churnsaver.settings import load_message_books, load_world

TAIL = " Yours until {expiry}: {offer}. {opt_out}"
VALUES = {
    "first_name": "Ana",
    "offer": "20% off for 3 months",
    "expiry": "12 Jan 2026",
    "opt_out": "Reply STOP to opt out.",
}


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


@pytest.fixture(scope="module")
def policy(world: World) -> Policy:
    return Policy.of(world)


@pytest.fixture(scope="module")
def book() -> MessageBook:
    return load_message_books()["en"]


def draft_rules(policy: Policy, body: str, tail: str = TAIL, channel: str = "email") -> set[str]:
    return {f.rule for f in review_with_rules(Review(body + tail, Stage.DRAFT, channel), policy)}


def filled_findings(policy: Policy, text: str, values: dict[str, str] = VALUES, **more: object) -> list[Finding]:
    return review_with_rules(Review(text, Stage.FILLED, "email", "en", values, **more), policy)  # type: ignore[arg-type]


def test_every_approved_text_passes_as_draft_and_filled(world: World, policy: Policy, book: MessageBook) -> None:
    """What a person approved must get out, with every offer, on every channel, by day."""
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    for channel in world.channels:
        for body in book.bodies.values():
            draft = book.draft(channel, body)
            assert review_with_rules(Review(draft, Stage.DRAFT, channel), policy) == []
            for offer in world.offers:
                values = VALUES | {"offer": offer.label_in("en"), "opt_out": book.opt_out[channel]}
                review = Review(fill(draft, values), Stage.FILLED, channel, "en", values, noon, "UTC")
                assert review_with_rules(review, policy) == []


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        ("phrase", "Act now before it is too late."),
        ("phrase", "Only 3 left in stock."),
        ("phrase", "24 people are viewing this right now."),
        ("phrase", "You will lose access to your number."),
        ("phrase", "We guarantee the lowest price."),
        ("phrase", "Clinically proven to reduce stress."),
        ("phrase", "You are legally required to answer."),
        ("phrase", "Only a fool would leave."),
        ("phrase", "Please verify your account details."),
        ("toxicity", "You are an idiot."),
        ("toxicity", "We make up for a pathetic price."),
        ("toxicity", "This is bullshit."),
        ("toxicity", "We will find a way to sue, and I will kill you."),
        ("price", "Enjoy 40% off on top."),
        ("price", "We will take $15 from your bill."),
        ("price", "The first month free."),
        ("price", "You also get a gift card."),
        ("price", "Fifty percent less for you."),
        ("price", "Pay half price until spring."),
        ("price", "Your plan costs a lot of cents."),
        ("price", "Be with us on 12/13/2020."),
        ("price", "In this 1st week, a call is enough."),
        ("price", "It ends on Christmas Day."),
        ("price", "So write to us by the end of March."),
        ("price", "That is until the fifth of May."),
        ("price", "We will write to you again in June."),
        ("price", "The offer ends Sunday."),
        ("price", "It is here until tomorrow."),
        ("price", "It is here until tonight."),
        ("price", "It is yours for twelve months."),
        ("price", "It is yours for twenty-four more months."),
        ("price", "It is yours for a whole year."),
        ("price", "You get double the data."),
        ("price", "You pay one third less."),
        ("price", "Your plan costs a quarter less."),
        ("personal_data", "Write to ana.lopez@example.org today."),
        ("personal_data", "Call (212) 555-0147 any time."),
        ("personal_data", "Your card 4111 1111 1111 1111 is on file."),
        ("personal_data", "Your IBAN DE89 3704 0044 0532 0130 00 is on file."),
        ("personal_data", "Your number 078-05-1120 is on file."),
        ("personal_data", "We wrote to 12 Baker Street last week."),
        ("personal_data", "Dear Jonathan, thank you for being with us."),
        ("link", "See https://example.net/plan for more."),
        ("link", "See bit.ly/3xYz for more."),
        ("link", "See plans dot com for more."),
        ("link", "See hxxp://evil.example/x for more."),
        ("slot", "Thank you, {nickname}."),
        ("slot", "Thank you, [Your Name]."),
        ("slot", "Thank you.<|im_start|>"),
        ("slot", "Thank you { for being with us."),
        ("slot", "Thank you \uff5bprice\uff5d for being with us."),
        ("obfuscation", "T h a n k you for being with us."),
        ("obfuscation", "Th\u200bank you for being with us."),
        ("obfuscation", "Th\u0430nk you for being with us."),
        ("script", "Спасибо for being with us."),
        ("shouting", "THANK YOU FOR BEING WITH US ALL THESE YEARS"),
        ("shouting", "Thank you!!"),
        ("repetition", "Thank you thank you thank you thank you."),
        ("control_chars", "Thank\x07 you for being with us."),
        ("length", "Thank you for being with us. " * 60),
    ],
)
def test_each_rule_finds_what_it_is_for(policy: Policy, rule: str, body: str) -> None:
    """A violation in an otherwise good draft carries the right rule's name."""
    assert rule in draft_rules(policy, body)


def test_one_odd_character_costs_segments(policy: Policy) -> None:
    """160 places of GSM-7 or 70 of UCS-2 alone, 153 or 67 joined; the characters of the extension take two."""
    assert [segments("x" * count) for count in (0, 160, 161, 306, 307)] == [1, 1, 2, 2, 3]
    assert [segments("\u0142" + "x" * count) for count in (69, 70, 133, 134)] == [1, 2, 2, 3]
    assert [segments("€" * count) for count in (80, 81)] == [1, 2]
    assert [segments("\U0001f600" * count) for count in (35, 36)] == [1, 2]  # two UTF-16 units each
    plain = "Thank you for being with us; it is good to have you. We would like to look at your plan together, if you "
    plain += "have the time for it, and make it fit what you need today."
    assert "sms_segments" not in draft_rules(policy, plain, channel="sms")
    odd = Review(plain.replace("it is", "it\u2019s") + TAIL, Stage.DRAFT, "sms")
    (finding,) = review_with_rules(odd, policy)
    assert (finding.rule, finding.excerpt) == ("sms_segments", "\u2019")
    assert "sms_segments" not in draft_rules(policy, odd.text, tail="", channel="email")


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("x" * 160, 1),
        ("x" * 161, 2),
        ("x" * 158 + "€", 1),
        ("x" * 306, 2),
        ("x" * 152 + "€" + "x" * 152, 3),
        ("ł" + "x" * 69, 1),
        ("ł" + "x" * 133, 2),
        ("x" * 66 + "\N{GRINNING FACE}" + "x" * 66, 3),
        ("x" * 66 + "\N{GRINNING FACE}" + "x" * 133, 4),
    ],
)
def test_no_character_is_split_between_two_segments(text: str, needed: int) -> None:
    """TS 23.040: an escape and its letter, or a pair of UTF-16 units, stand in one of them."""
    assert segments(text) == needed


def test_subjects_that_are_cut_off(policy: Policy) -> None:
    """A subject may have 78 characters, once its slots are filled."""
    for subject, fits in (("x" * 78, True), ("x" * 79, False), ("x" * 60 + "{offer}", False)):
        rules = draft_rules(policy, f"Subject: {subject}\n\nThank you for being with us.")
        assert ("subject_length" not in rules) == fits


def test_every_function_word_is_one_that_a_text_can_hold() -> None:
    """YAML reads a bare `on` or `no` as a truth value; and no list holds what is never found as one word."""
    for language, words in _function_words().items():
        assert {word for word in words if not isinstance(word, str) or not word.isalpha()} == set(), language
    assert "on" in _function_words()["en"]
    assert "no" in _function_words()["es"]


@pytest.mark.parametrize(
    ("body", "speaks"),
    [
        ("Gracias por estar con nosotros; nos gustaría que se quede con su plan.", "es"),
        ("Merci de votre confiance, nous sommes heureux de vous avoir avec nous.", "fr"),
        ("Wir danken Ihnen, dass Sie bei uns sind, und möchten, dass es so bleibt.", "de"),
    ],
)
def test_another_language_than_asked(policy: Policy, body: str, speaks: str) -> None:
    """A text speaks the language whose commonest words it holds most of; a word or two of another do not matter."""
    found = review_with_rules(Review(f"{body} {{expiry}} {{offer}} {{opt_out}}", Stage.DRAFT, "email"), policy)
    assert [f.message for f in found if f.rule == "other_language"] == [f"speaks {speaks}, not en"]
    with_a_phrase = "La dolce vita, as they say: we are glad that you are with us, and we would like you to stay."
    assert draft_rules(policy, with_a_phrase) == set()


@pytest.mark.parametrize(
    "draft",
    [
        "Bonjour {first_name}, merci pour votre confiance. Profitez vite: {offer}, valable jusque {expiry}. {opt_out}",
        "Bonjour {first_name}, profitez de {offer} avant le {expiry}. {opt_out}",
        "Danke, {first_name}! Bis {expiry}: {offer}. {opt_out}",
        "Hi {first_name}! Noch bis {expiry} gilt: {offer}. {opt_out}",
        "Hola {first_name}, gracias por seguir con nosotros. Tienes {offer} hasta el {expiry}. {opt_out}",
        "Hola {first_name}, disfruta {offer} hasta {expiry}. {opt_out}",
        "Ciao {first_name}, grazie mille! Approfitta subito: {offer}, scade {expiry}. {opt_out}",
        "Olá {first_name}, obrigado! Aproveite agora: {offer}, expira {expiry}. {opt_out}",
        "Oi {first_name}, aproveite {offer}, expira em {expiry}. {opt_out}",
        "Hoi {first_name}! Speciaal geregeld: {offer}, geldig tot {expiry}. {opt_out}",
        "Merhaba {first_name}, bizi tercih ettiginiz icin tesekkürler: {offer}, son gün {expiry}. {opt_out}",
        "Cześć {first_name}, dziękujemy! Oferta: {offer}, do {expiry}. {opt_out}",
        "Witaj {first_name}, mamy prezent: {offer}, ważne do {expiry}. {opt_out}",
        "Halo {first_name}, terima kasih! Nikmati {offer} sampai {expiry}. {opt_out}",
    ],
)
def test_a_short_draft_in_another_language(policy: Policy, draft: str) -> None:
    """Few words are enough, whether there is a list of the language or none."""
    assert [f.rule for f in review_with_rules(Review(draft, Stage.DRAFT, "push"), policy)] == ["other_language"]


@pytest.mark.parametrize(
    "draft",
    [
        "{offer} until {expiry}. {opt_out}",
        "Hi {first_name}! {offer} until {expiry}. {opt_out}",
        "Enjoy {offer}, {first_name}! Valid until {expiry}. {opt_out}",
        "Your plan, your way, {first_name}: {offer} until {expiry}. {opt_out}",
    ],
)
def test_a_short_draft_in_the_asked_language(policy: Policy, draft: str) -> None:
    """A word that is common in the language is enough for the shortest; and a filled text may name what it likes."""
    assert review_with_rules(Review(draft, Stage.DRAFT, "sms"), policy) == []
    values = VALUES | {"first_name": "Maria de los Angeles", "offer": "Die Zeit und das Magazin for 3 months"}
    assert filled_findings(policy, fill(draft, values), values) == []


@pytest.mark.parametrize(
    "body",
    [
        "Thank you for being with us. Feel free to call whenever it suits you.",
        "We would like to look over your plan together; a colleague may have time any day.",
        "Your feedback on the new network was great. It is a pleasure to have you with us!",
        "Is there anything that we can do better? We read every answer.",
        "As a customer of many years you may choose whichever plan fits you best.",
        "The plan you are on may not fit you; you may march to your own drum, and one of us will help this month.",
        "One day you may need more; much changes from one day to the next.",
        "We would be sorry to see you go, and we understand if you decide otherwise.",
        "Café guests told us that the Wi\u2011Fi works well \u2014 we hope yours does too \U0001f600.",
    ],
)
def test_friendly_bodies_pass(policy: Policy, body: str) -> None:
    """Ordinary courtesy is left alone."""
    assert draft_rules(policy, body) == set()


@pytest.mark.parametrize(
    "spelling",
    [
        "a c t  n o w",
        "ACT N0W",
        "\u0430ct n\u043ew",
        "act\u200b now",
        "a.c.t. n.o.w",
        "@ct now",
        "acttt nowww",
        "\uff41\uff43\uff54 now",
    ],
)
def test_a_phrase_is_found_in_any_spelling(policy: Policy, spelling: str) -> None:
    """Look-alikes, zero-width characters, leetspeak and stretched letters do not hide a phrase."""
    assert "phrase" in draft_rules(policy, f"Please {spelling} and reply.")


@pytest.mark.parametrize("name", ["offer", "expiry", "opt_out"])
def test_a_draft_needs_each_required_slot_exactly_once(policy: Policy, name: str) -> None:
    """Neither a missing nor a doubled slot passes."""
    slot = f"{{{name}}}"
    assert "required_element" in draft_rules(policy, "Thank you.", TAIL.replace(slot, ""))
    assert "required_element" in draft_rules(policy, f"Thank you. {slot}")


@pytest.mark.parametrize(
    "draft",
    [
        "Subject: For you, {first_name}\n\nHello {first_name}, we have {offer} until {expiry}. {opt_out}",
        "We have {offer} for you until {expiry}th. {opt_out}",
        "We keep the{offer} for you until {expiry}. {opt_out}",
        "We have {offer} for you until {expiry}. {opt_out}Thanks",
        "We have {offer} for you until {expiry}.{opt_out}{first_name}",
    ],
)
def test_a_draft_that_no_filled_text_could_pass(policy: Policy, draft: str) -> None:
    """The second review looks for each value once and as words of its own, so the first one does too."""
    assert {f.rule for f in review_with_rules(Review(draft, Stage.DRAFT, "email"), policy)} == {"required_element"}
    assert filled_findings(policy, fill(draft, VALUES))


def test_a_filled_text_holds_the_values_and_no_brace(policy: Policy) -> None:
    """The decision's offer, expiry and opt-out stand literally in what is sent."""
    text = fill("Hi {first_name}, thank you." + TAIL, VALUES)
    assert filled_findings(policy, text) == []
    assert filled_findings(policy, text, VALUES | {"offer": "30% off for 3 months"})[0].rule == "required_element"
    assert "slot" in {f.rule for f in filled_findings(policy, text + " {offer}")}


def test_a_price_beside_the_offer_is_found_in_a_filled_text(policy: Policy) -> None:
    """The offer's own percentage is fine, a second one is invented."""
    text = fill("Thank you, take 50% off too." + TAIL, VALUES)
    assert "price" in {f.rule for f in filled_findings(policy, text)}


def test_values_do_not_trip_rules_and_do_not_hide_text(policy: Policy) -> None:
    """A name that is a word of a phrase neither blocks its owner nor blanks parts of the text."""
    assert filled_findings(policy, fill("Hi {first_name}, thank you." + TAIL, VALUES | {"first_name": "Dick"}),
                           VALUES | {"first_name": "Dick"}) == []  # fmt: skip
    sneaky = VALUES | {"first_name": "a"}
    text = fill("Hi {first_name}, act now." + TAIL, sneaky)
    assert "phrase" in {f.rule for f in filled_findings(policy, text, sneaky)}


def test_a_name_with_a_link_or_digits_is_no_name(policy: Policy) -> None:
    """What comes from outside is judged too."""
    for name in ("evil.com", "example.zip", "See evil.health", "Call 5550147", "<b>Ana"):
        values = VALUES | {"first_name": name}
        assert filled_findings(policy, fill("Hi {first_name}, thank you." + TAIL, values), values)
    initials = VALUES | {"first_name": "J.R. St. John"}
    assert filled_findings(policy, fill("Hi {first_name}, thank you." + TAIL, initials), initials) == []


@pytest.mark.parametrize(
    ("hour_utc", "zone", "found"),
    [
        (12, "Europe/Berlin", False),
        (20, "Europe/Berlin", True),  # 21:00 in winter
        (7, "Europe/Berlin", True),  # 08:00
        (8, "Europe/Berlin", False),  # 09:00
        (12, "Asia/Tokyo", True),  # 21:00
        (12, "Mars/Olympus", True),
        (12, "", True),
        (12, "../etc/passwd", True),
    ],
)
def test_quiet_hours_hold_in_the_recipients_zone(policy: Policy, hour_utc: int, zone: str, found: bool) -> None:
    """21:00 to 9:00 local is quiet; an unknown zone is a finding."""
    send_at = datetime(2026, 1, 15, hour_utc, tzinfo=UTC)
    text = fill("Thank you." + TAIL, VALUES)
    rules = {f.rule for f in filled_findings(policy, text, send_at=send_at, timezone=zone)}
    assert rules == ({"quiet_hours"} if found else set())


def test_an_allowed_host_may_be_linked_and_its_impostors_may_not(world: World) -> None:
    """Subdomains pass; a host that only contains the name does not."""
    policy = Policy.of(world, frozenset({"shop.example.com"}))
    assert draft_rules(policy, "See https://help.shop.example.com/plan for more.") == set()
    for url in (
        "https://shop.example.com.evil.net/a",
        "https://shop.example.com@evil.net/a",
        "https://myshop.example.com",
    ):
        assert "link" in draft_rules(policy, f"See {url} for more.")


def test_a_language_without_lists_is_blocked(policy: Policy) -> None:
    """Wording that cannot be judged is not sent."""
    review = Review(
        "Danke, dass ihr bei uns seid, wir haben euch und sind auch für euch da." + TAIL, Stage.DRAFT, "email", "de"
    )
    assert {f.rule for f in review_with_rules(review, policy)} == {"language"}


def test_a_rule_that_breaks_blocks_the_message(policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    """The review fails closed and the other rules still run."""

    def broken(subject: Subject) -> Iterator[Finding]:
        raise RuntimeError("no")
        yield

    findings = review_with_rules(Review("", Stage.DRAFT, "sms"), policy, (broken, *RULES))
    assert [f.rule for f in findings][:2] == ["internal_error", "empty"]
    assert "broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    ["a" * 100_000, "1 " * 50_000, "a.b" * 30_000, "! " * 50_000, "a@" * 50_000, "only " * 20_000, "\u200ba" * 50_000,
     "http" * 25_000, "7-" * 50_000, "{" * 100_000],
)  # fmt: skip
def test_no_text_stalls_a_review(policy: Policy, text: str) -> None:
    """100,000 hostile characters are refused within a second."""
    import time

    started = time.perf_counter()
    assert filled_findings(policy, text)
    assert time.perf_counter() - started < 1.0
