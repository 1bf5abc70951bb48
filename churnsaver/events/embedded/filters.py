"""Subscription filters: which messages a subscription wants, by their attributes.

    expression = term {"AND" term} | term {"OR" term}
    term       = ("NOT" | "-") term | "(" expression ")" | has | equals | prefix
    has        = "attributes" ":" key
    equals     = "attributes" "." key ("=" | "!=") string
    prefix     = "hasPrefix" "(" "attributes" "." key "," string ")"

As in the service, AND and OR are not mixed without parentheses and a filter has at most 256 bytes
(https://cloud.google.com/pubsub/docs/subscription-message-filter).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

Filter = Callable[[Mapping[str, str]], bool]

MAX_BYTES = 256
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|!=|[()=:.,-]|\w[\w-]*)')


def parse_filter(text: str) -> Filter:
    """Returns a function of a message's attributes; ValueError says where `text` is no filter."""
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"the filter has more than {MAX_BYTES} bytes")
    return _Parser(text).parse()


class _Parser:
    """Reads a filter from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text.rstrip(), 0
        self._token = ""
        self._advance()

    def parse(self) -> Filter:
        wanted = self._expression()
        if self._token:
            raise self._unexpected("AND, OR or the end")
        return wanted

    def _expression(self) -> Filter:
        terms = [self._term()]
        operator = self._token
        while self._token in ("AND", "OR"):
            if self._token != operator:
                raise ValueError("AND and OR need parentheses between them")
            self._advance()
            terms.append(self._term())
        if len(terms) == 1:
            return terms[0]
        combine = all if operator == "AND" else any
        return lambda attributes: combine(term(attributes) for term in terms)

    def _term(self) -> Filter:
        if self._skip("NOT") or self._skip("-"):
            negated = self._term()
            return lambda attributes: not negated(attributes)
        if self._skip("("):
            inner = self._expression()
            self._expect(")")
            return inner
        if self._skip("hasPrefix"):
            return self._prefix()
        self._expect("attributes")
        if self._skip(":"):
            present = self._key()
            return lambda attributes: present in attributes
        return self._equals()

    def _prefix(self) -> Filter:
        for token in ("(", "attributes", "."):
            self._expect(token)
        key = self._key()
        self._expect(",")
        prefix = self._string()
        self._expect(")")
        return lambda attributes: attributes.get(key, "").startswith(prefix)

    def _equals(self) -> Filter:
        self._expect(".")
        key = self._key()
        differs = self._skip("!=")
        if not differs:
            self._expect("=")
        value = self._string()
        return lambda attributes: (attributes.get(key) == value) is not differs

    def _key(self) -> str:
        if self._token.startswith('"'):
            return self._string()
        if not re.fullmatch(r"\w[\w-]*", self._token):
            raise self._unexpected("an attribute's key")
        key = self._token
        self._advance()
        return key

    def _string(self) -> str:
        try:
            value = json.loads(self._token)
        except ValueError:
            value = None
        if not isinstance(value, str):
            raise self._unexpected("a string in double quotes")
        self._advance()
        return value

    def _skip(self, token: str) -> bool:
        if self._token != token:
            return False
        self._advance()
        return True

    def _expect(self, token: str) -> None:
        if not self._skip(token):
            raise self._unexpected(token)

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None and self._at < len(self._text):
            raise ValueError(f"the filter cannot be read from character {self._at + 1} on: {self._text!r}")
        self._token = found.group(1) if found else ""
        self._at = found.end() if found else self._at

    def _unexpected(self, expected: str) -> ValueError:
        got = repr(self._token) if self._token else "the end"
        return ValueError(f"expected {expected}, got {got} before character {self._at + 1} of {self._text!r}")
