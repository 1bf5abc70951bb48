"""Rules on what must not be let out or in: personal data and links."""

from __future__ import annotations

import re
from collections.abc import Iterator

from churnsaver.safety.names import first_name
from churnsaver.safety.normal import plain
from churnsaver.safety.review import Finding
from churnsaver.safety.subject import Subject

_EMAIL = re.compile(
    r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}"
    r"|\b[\w.+-]{2,64}\s?[\[(]\s?at\s?[\])]\s?[\w-]{2,63}"
    r"|\b[\w.+-]{2,64} at [\w-]{2,63}\s?(?:[\[(]\s?dot\s?[\])]| dot )\s?[a-z]{2,6}\b"
)
_DIGIT_RUN = re.compile(r"(?<![\w.])\+?\(?\d(?:[\s().\-/]{0,2}\d){6,21}(?!\w)")
_SSN = re.compile(r"(?<!\d)\d{3}[- ]\d{2}[- ]\d{4}(?!\d)")
_IBAN = re.compile(r"(?<!\w)[a-z]{2}\d{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,3})?(?!\w)")
_DATE = re.compile(r"(?<!\d)(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})(?!\d)")
_ADDRESS = re.compile(
    r"(?<![\w.])\d{1,5}[a-z]?,? (?:[a-z.']{1,20} ){1,3}(?:street|st|avenue|ave|road|rd|lane|ln|drive|boulevard|blvd"
    r"|court|square|terrace|highway|hwy|parkway|pkwy|crescent)(?!\w)"
    r"|\b(?:apt|apartment|suite|flat|p\.? ?o\.? box)\.? ?#?\d{1,5}\b"
)
_IDENTIFIER = re.compile(
    r"\b(?:account|customer|contract|policy|member(?:ship)?|passport|licen[cs]e|ssn|invoice|case|card|reference|client)"
    r"(?: (?:number|no|id|nr))?\.?(?: is)?[ :#]{1,4}[a-z]{0,3}-?\d{4,16}\b"
    r"|\b(?:born (?:on|in)|date of birth|d\.?o\.?b\.?)\b"
)
# "Hi John," where only {first_name} may stand. Words that greet everyone are no names.
_GREETED_NAME = re.compile(
    r"(?:^|[.!?\n]\s{0,3})(?:Hi|Hello|Hey|Dear|Greetings|Good (?:morning|afternoon|evening)),? "
    r"(?!There|Friend|Friends|Customer|Valued|Everyone|All|Team|You|Again|From|And|We|It|I\b|Our|Thank|Neighbo)"
    r"((?:(?:Mr|Mrs|Ms|Dr|Miss)\.? )?[A-Z][a-z]{1,20})"
)

_TLDS = (
    "com|net|org|io|co|ly|me|info|biz|xyz|app|shop|link|click|site|online|store|top|club|vip|live|gl|gg|to|cc|tv|us|uk"
    "|eu|de|fr|es|it|nl|ru|cn|in|ca|au|nz|br|dev|ai|page|buzz|win|icu|tk|ml|ga|cf|gq|pw|ws|mobi|tech|be|ch|at|pl|se|no"
)
_LINK = re.compile(
    rf"(?:\b(?:h(?:tt|xx|\*\*)ps?|ftp)\s?:\s?/{{0,2}}\s?|\b(?:tel|mailto|sms|javascript|data|intent|whatsapp):/{{0,2}})"
    rf"(?P<schemed>[^\s/]{{1,100}})"
    rf"|\bwww\s?\.\s?(?P<www>[^\s/]{{1,100}})"
    rf"|(?<![\w@.])(?P<bare>(?:[\w-]{{1,63}}\.){{1,4}}(?:{_TLDS}))(?![\w.]*\w)"
    rf"|\b(?P<spelled>[\w-]{{2,63}}\s?(?:[\[({{]\s?(?:\.|dot)\s?[\])}}]|\sdot\s)\s?(?:{_TLDS}))\b"
    rf"|(?<![\w.])(?P<spaced>(?:bit|tinyurl|goo|t|ow|is|cutt|rebrand|tiny|shorturl|rb)\s?\.\s?(?:ly|gl|co|gd|com|cc))"
    rf"(?=\s?/|\s|$)"
    rf"|(?<![\w.])(?P<ip>(?:\d{{1,3}}\.){{3}}\d{{1,3}})(?![\w.])"
)
# In a name, any top-level domain: new ones come up, and none has fewer than two letters, so "J.R." is none.
_HOST_IN_A_NAME = re.compile(r"[^\W_]\.[^\W\d_]{2}")


def personal_data(subject: Subject) -> Iterator[Finding]:
    """`personal_data`: e-mail, telephone, card, IBAN, social security, address or customer numbers.

    None may stand in a draft, and none beside the slots' values in a filled text. A draft may not greet
    anyone by a name either.
    """
    text = plain(subject.own_words)
    undated = _DATE.sub(" ", text)
    for kind, found in (
        ("an e-mail address", _EMAIL.search(text)),
        ("a social security number", _SSN.search(undated)),
        ("a bank account number", next((m for m in _IBAN.finditer(text) if _iban_valid(m.group())), None)),
        ("a postal address", _ADDRESS.search(text)),
        ("a number or date that identifies a person", _IDENTIFIER.search(text)),
    ):
        if found:
            yield Finding("personal_data", f"holds {kind}", found.group().strip())
    for digits in _DIGIT_RUN.finditer(undated):
        kind = "a payment card number" if _luhn_valid(digits.group()) else "a telephone or customer number"
        yield Finding("personal_data", f"holds {kind}", digits.group().strip())
        break
    if subject.knows_its_offer and (greeted := _GREETED_NAME.search(subject.own_words)):
        yield Finding("personal_data", "greets someone by a name instead of {first_name}", greeted.group(1))


def links(subject: Subject) -> Iterator[Finding]:
    """`link`: any address or shortener whose host is not allowed, in slots' values too."""
    for found in _LINK.finditer(plain(subject.text)):
        host = next(group for group in found.groups() if group)
        if not _allowed(host, subject.policy.allowed_link_hosts):
            yield Finding("link", "links to a host that is not allowed", found.group().strip())
            return
    name = first_name(subject.review)
    if host := _HOST_IN_A_NAME.search(plain(name)):
        yield Finding("link", "first_name can be read as a link", host.group())


def _allowed(host: str, allowed: frozenset[str]) -> bool:
    # No userinfo and no port: "good.example@evil.example" must not pass as good.example.
    name = host.rstrip(".,;:!?)").removeprefix("www.")
    return any(name == good or name.endswith(f".{good}") for good in allowed)


def _luhn_valid(text: str) -> bool:
    """Luhn's check of 13 to 19 digits (ISO/IEC 7812-1)."""
    digits = [int(ch) for ch in text if ch.isdecimal()]
    if not 13 <= len(digits) <= 19:
        return False
    doubled = [d * 2 - 9 * (d > 4) for d in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban_valid(text: str) -> bool:
    """ISO 13616: the rearranged number, letters as 10 to 35, is 1 modulo 97."""
    code = text.replace(" ", "")
    return int("".join(str(int(ch, 36)) for ch in code[4:] + code[:4])) % 97 == 1
