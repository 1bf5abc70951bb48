"""Rules on what the words say: pressure, claims, profanity, invented prices."""

from __future__ import annotations

import re
from collections.abc import Iterator

from churnsaver.safety.lexicon import lexicon
from churnsaver.safety.review import Finding
from churnsaver.safety.subject import Subject

_CURRENCY = r"[$£€¥₹]|\b(?:usd|eur|gbp|dollars?|euros?|pounds?|bucks|cents?|quid)\b"
_NUMBER_WORDS = r"ten|fifteen|twenty|twenty[ -]five|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred"
_PRICE = re.compile(
    rf"""
      \d[\d.,]{{0,12}}\s?(?:%|percent|per\s?cent|pct)
    | \b(?:{_NUMBER_WORDS})\s(?:percent|per\scent)
    | (?:[$£€¥₹]|\b(?:usd|eur|gbp)\s?)\s?\d
    | \d[\d.,]{{0,12}}\s?(?:{_CURRENCY})
    | \b(?:{_NUMBER_WORDS}|one|two|five|several)\s(?:dollars?|euros?|pounds?|bucks|cents?)\b
    | \b\d{{1,4}}\s?(?:off|less|cheaper|discount)\b
    | \b(?:half|third|quarter)[\s-](?:price|off)\b
    | \b(?:two|three|2|3|buy\sone|buy\s1)[\s-](?:for|get)[\s-](?:the\sprice|one|two|1|2)\b | \bbogo\b
    | (?<!feel\s)(?<!feel\s\s)(?<![\w-])(?<!\bhassle\s)(?:for\s)?free(?:bie)?s?\b(?!\s(?:to\b|up\b|time\b|from\b))
    | \b(?:discount|rebate|refund|cash\s?back|voucher|coupon|promo\s?code|gift\scard|gift|bonus|giveaway)(?:s|es|ed)?\b
    | \bcredits?\s(?:of|on|to|toward|towards|for)\b | \b(?:account|bill|statement)\scredits?\b
    | \b(?:at\s)?no\s(?:extra\s|additional\s)?(?:cost|charge)\b | \bcomplimentary\b | \bwithout\scharge\b
    | \b(?:lower|reduce|cut|slash|halve|waive|drop)(?:d|ed|s|ing)?\s(?:your|the|our|all)?\s?(?:monthly\s)?
      (?:bill|price|rate|fee|fees|charge|charges|prices|rates|payment|cost|costs)\b
    | \bsav(?:e|es|ing|ings)\s(?:of\s|up\s|you\s|your\s|some\s|a\slot\sof\s|big\s|on\s|even\smore\s)?
      (?:to\s)?(?:money|big|up|\d|your\sbill|on)\b
    | \b(?:first|next|extra|additional)\s(?:\w{{1,8}}\s)?months?\s(?:free|on\sus)\b | \bon\sus\b | \bon\sthe\shouse\b
    """,
    re.VERBOSE,
)

# A draft has no figures at all: those of the offer and the date come in by its slots.
_FIGURE = re.compile(rf"\d|%|\bper\s?cent\b|{_CURRENCY}")
# Nor a date or a length of time in words, nor a part of the price or a multiple of the plan: those would stand against
# offer and expiry.
# "By tonight" hurries for an answer and "from one day to the next" is a saying: neither dates the offer.
_COUNTED = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|eighteen|twenty|thirty|forty|fifty|sixty"
    "|seventy|eighty|ninety|hundred|dozen"
)
_IN_WORDS = re.compile(
    rf"""
      \b(?:january|february|april|june|july|august|september|october|november|december)\b
    | \b(?:in|by|of|until|till|before|since|on)\s(?:march\b|may\b(?!\s(?!and\b|or\b|the\b|we\b|you\b)\w))
    | \b(?:mon|tues|wednes|thurs|fri|satur|sun)days?\b | \b(?:tomorrow|midnight)\b | (?<!\bby\s)\btonight\b
    | \b(?:christmas|xmas|easter|thanksgiving|halloween|hanukkah|ramadan|diwali|new\syear'?s?|valentine'?s?)\b
    | \b(?:boxing|independence|labou?r|memorial|mother'?s|father'?s)\sday\b
    | (?!one\sday\b)\b(?:{_COUNTED})[\s-](?:(?:full|whole|more|extra|calendar)\s)?
      (?:hours?|days?|weeks?|months?|years?|thirds?|half|halves|quarters?)\b
    | \bfor\s(?:a|another)\s(?:(?:full|whole)\s)?(?:day|week|fortnight|month|year)\b
    | \b(?:double|triple|twice)\s(?:(?:the|your|our|as\smuch)\s)?(?:data|speed|minutes|allowance|gigabytes)\b
    | \ba\s(?:third|quarter)\b | \bhalf\s(?:of\s)?(?:the|your|our|what)\b
    """,
    re.VERBOSE,
)


def forbidden_phrases(subject: Subject) -> Iterator[Finding]:
    """`phrase`: pressure, manipulation, threats, guarantees and claims, in any spelling of the words.

    `language`: no list of phrases exists for the language, so its wording cannot be judged.
    """
    language = subject.review.language
    lists = lexicon(language)
    if lists is None:
        yield Finding("language", f"no list of forbidden phrases for language {language!r}; write one or send in en")
        return
    seen: set[str] = set()
    for match in lists.phrases.search(subject.views):
        if match.kind not in seen:
            seen.add(match.kind)
            yield Finding("phrase", f"forbidden wording: {match.kind.replace('_', ' ')}", match.words)


def profane_words(subject: Subject) -> Iterator[Finding]:
    """`toxicity`: profanity, slurs and plain threats of the lexicon, in any spelling."""
    lists = lexicon(subject.review.language)
    if lists and (match := next(lists.profanity.search(subject.views), None)):
        yield Finding("toxicity", "profanity, a slur or a threat", match.words)


def invented_price(subject: Subject) -> Iterator[Finding]:
    """`price`: an amount, a percentage or a gift beside the offer; only the decision may name one (law 3).

    In a draft, any figure, currency and date, in words too: numbers, prices and dates are the decision's.
    """
    if not subject.knows_its_offer:
        return
    draft = subject.views[0] if subject.is_draft else ""
    if found := _FIGURE.search(draft) or _IN_WORDS.search(draft):
        yield Finding("price", "names a figure or a date; numbers, prices and dates come by slots alone", found.group())
        return
    for view in subject.views:
        if found := _PRICE.search(view):
            yield Finding("price", "names a price, discount or gift outside {offer}", found.group().strip())
            return
