"""Errors as RFC 9457 `application/problem+json`: which field, what was expected, how to mend it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from churnsaver.domain.schema import FieldError
from services.gateway.json_body import unusable_value

log = structlog.get_logger()

JSON, MEDIA_TYPE = "application/json", "application/problem+json"
_JSON_TYPE = re.compile(r"application/([\w.+-]+\+)?json\b", re.IGNORECASE)
TYPE_PREFIX = "urn:churn-saver:problem:"


class Problem(Exception):
    """An error that a caller can act upon. `slug` ends the problem's `type`."""

    def __init__(
        self,
        status: HTTPStatus,
        slug: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail = status, slug, detail
        self.errors, self.retry_after_s = list(errors), retry_after_s

    def response(self) -> Response:
        body: dict[str, Any] = {
            "type": TYPE_PREFIX + self.slug,
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = [error.model_dump() for error in self.errors]
        headers = {"retry-after": str(self.retry_after_s)} if self.retry_after_s else None
        return Response(orjson.dumps(body), int(self.status), headers, MEDIA_TYPE)


def invalid(errors: Sequence[FieldError]) -> Problem:
    """422 for values that do not follow the contract or the dataset schema."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", f"{first.field} {first.message}{more}", errors)


def unavailable(detail: str) -> Problem:
    """503 for what must be durable and cannot be now."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "ledger-unavailable", detail, retry_after_s=1)


def install(app: FastAPI) -> None:
    """Makes every error of `app` a problem."""

    @app.exception_handler(Problem)
    async def _problem(_: Request, problem: Problem) -> Response:
        return problem.response()

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        sent_as = request.headers.get("content-type", JSON)
        whole_body_is_wrong = any(item["loc"] == ("body",) for item in error.errors())
        if whole_body_is_wrong and not _JSON_TYPE.match(sent_as):
            return _not_sent_as_json(sent_as).response()
        return _from_validation(error).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        slug = status.phrase.lower().replace(" ", "-")
        response = Problem(status, slug, f"{request.method} {request.url.path}: {status.description}").response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def _last_resort(request: Request, error: Exception) -> Response:
        # The route and not the path, which may hold a customer's id.
        route = getattr(request.scope.get("route"), "path", None)
        log.error("gateway.request_failed", method=request.method, route=route, exc_info=error)
        return Problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "internal-error",
            "the gateway failed on this request and logged why; report it if it happens again",
        ).response()


def _not_sent_as_json(sent_as: str) -> Problem:
    """415, because a browser sends other types across sites without asking first."""
    detail = f"the body was sent as {sent_as}; send it with content-type: {JSON}"
    return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)


def _from_validation(error: RequestValidationError) -> Problem:
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        if fault := unusable_value(error.body):
            return invalid([fault])
        item = found[0]
        where = item["loc"][-1]
        what = item.get("ctx", {}).get("error", item["msg"])
        return Problem(
            HTTPStatus.BAD_REQUEST, "malformed-json", f"the body is not valid JSON at character {where}: {what}"
        )
    # The same field may fail against each member of a union; a caller needs to hear of it once.
    errors = {_field(item["loc"]): _message(item) for item in found}
    return invalid([FieldError(field=field, message=message) for field, message in errors.items()])


def _field(location: Sequence[Any]) -> str:
    steps = [str(step) for step in location if step != "body"]
    # pydantic appends the union's member, which no caller has written.
    while len(steps) > 1 and steps[-1] in {"bool", "float", "int", "str", "constrained-str"}:
        steps.pop()
    return ".".join(steps) or "body"


def _message(item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        return "is missing; add it"
    if item["type"] == "extra_forbidden":
        return "is not a field of this request; remove it or correct its name"
    return message[0].lower() + message[1:]
