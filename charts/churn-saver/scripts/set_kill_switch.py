"""Sets the kill switch after an install, where it never had a state (law 5: unknown means baseline).

A state that was lost with Redis stays lost: it may have been an emergency stop, so a person says what holds now.
"""

import json
import os
import urllib.request
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError

URL = os.environ["GATEWAY"] + "/v1/kill-switch"


def call(body: dict[str, str] | None = None) -> dict[str, Any]:
    request = urllib.request.Request(URL, json.dumps(body).encode() if body else None, method="PUT" if body else "GET")
    request.add_header("content-type", "application/json")
    request.add_header("if-none-match", "*")
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


try:
    print(f"set: {call({'state': os.environ['STATE'], 'reason': os.environ['REASON']})}")
except HTTPError as error:
    if error.code != HTTPStatus.PRECONDITION_FAILED:
        raise
    known = call()
    print(f"left as it is: {known}")
    if known["state"] == "unknown":
        print("its state was lost, so customers get the baseline or nothing; a person sets it: PUT /v1/kill-switch")
