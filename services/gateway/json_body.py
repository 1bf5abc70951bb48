"""Request bodies: read strictly, and which field holds a value that JSON or the gateway cannot carry.

orjson refuses what Python's own reader lets through and no later step could store or send on: NaN, infinities,
halves of surrogate pairs and bytes that are not UTF-8. An integer over 64 bits comes as a float.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from churnsaver.domain.schema import FieldError

_SURROGATE = re.compile(r"[\ud800-\udfff]")


class JsonRequest(Request):
    """A request whose body is read with orjson, whose errors are `json.JSONDecodeError`s too."""

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """A route that is handed `JsonRequest`s."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json


def unusable_value(text: str) -> FieldError | None:
    """The first value or key of a refused body that is to blame, by field; None where it is no JSON at all."""
    try:
        # parse_int: Python reads no integer of more than 4,300 digits.
        return next(_unusable((), json.loads(text, parse_int=float)), None)
    except (ValueError, RecursionError):
        return None


def _unusable(path: tuple[str, ...], value: Any) -> Iterator[FieldError]:
    if isinstance(value, str) and _SURROGATE.search(value):
        yield _error(path, "holds half of a surrogate pair; expected Unicode text")
    elif isinstance(value, float) and not math.isfinite(value):
        yield _error(path, "is no number of 64 bits; expected a finite number")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _unusable((*path, str(i)), item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if _SURROGATE.search(key):
                yield _error((*path, key), "is a name with half of a surrogate pair; expected Unicode text")
            yield from _unusable((*path, key), item)


def _error(path: tuple[str, ...], message: str) -> FieldError:
    field = ".".join(path) or "body"
    return FieldError(field=field.encode("ascii", "backslashreplace").decode(), message=message)
