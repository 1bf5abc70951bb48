"""Which messages a filter lets through, and what is no filter."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from churnsaver.events.embedded.filters import parse_filter

MATCHES = [
    ('attributes.k = "v"', {"k": "v"}, True),
    ('attributes.k="v"', {"k": "w"}, False),
    ('attributes.k = "v"', {}, False),
    ('attributes.k != "v"', {"k": "w"}, True),
    ('attributes.k != "v"', {}, True),
    ("attributes:k", {"k": ""}, True),
    ("NOT attributes:k", {"k": ""}, False),
    ("-attributes:k", {}, True),
    ('attributes:"iana.org/language_tag"', {"iana.org/language_tag": "en"}, True),
    ('hasPrefix(attributes.k, "co")', {"k": "com"}, True),
    ('hasPrefix(attributes.k, "co")', {}, False),
    ('attributes:a AND attributes:b AND NOT attributes.c = "x"', {"a": "", "b": ""}, True),
    ("attributes:a OR attributes:b", {"b": ""}, True),
    ("attributes:a AND (attributes:b OR attributes:c)", {"a": "", "c": ""}, True),
    ("(attributes:a AND attributes:b) OR attributes:c", {"a": ""}, False),
    ('attributes.two-words = "\\u017e \\"q\\""', {"two-words": 'ž "q"'}, True),
]


@pytest.mark.parametrize(("text", "attributes", "expected"), MATCHES)
def test_matches(text: str, attributes: dict[str, str], expected: bool) -> None:
    assert parse_filter(text)(attributes) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour", "expected attributes, got 'colour'"),
        ("attributes.k", "expected =, got the end"),
        ("attributes.k = v", "expected a string in double quotes, got 'v'"),
        ("attributes.k > 3", "cannot be read from character"),
        ("attributes:a AND attributes:b OR attributes:c", "parentheses"),
        ("(attributes:a", r"expected \), got the end"),
        ("attributes:a attributes:b", "expected AND, OR or the end"),
        ('hasPrefix(attributes.k "v")', "expected ,"),
        ("attributes:" + "k" * 256, "more than 256 bytes"),
        ("", "expected attributes, got the end"),
    ],
)
def test_what_is_no_filter(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_filter(text)


@given(st.text(alphabet='ak"\\ ().:=!-NOTANDRhasPrefixttributes,', max_size=256))
def test_any_text_is_a_filter_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_filter(text)({"k": "v"})


@pytest.mark.parametrize("text", ["(" * 120 + "attributes:k" + ")" * 120, "-" * 240 + "attributes:k"])
def test_deep_filters_fit_the_stack(text: str) -> None:
    assert parse_filter(text)({"k": ""}) is True
