"""Retains one made-up customer through a running gateway, asks again, and forgets them.

    python3 tools/smoke.py http://127.0.0.1:8080 [examples/retain.json]

Nobody is contacted: a message leaves only when a caller asks for its release. Python's standard library is enough.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

READY_S = 60.0


def call(method: str, url: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and body of an answer; status 0 where nobody answers."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")
    except OSError as error:
        return 0, {"detail": str(error)}


def expect(what: str, status: int, answer: dict[str, Any], wanted: tuple[int, ...] = (200,)) -> dict[str, Any]:
    """The answer; ends where its status is another one."""
    if status not in wanted:
        sys.exit(f"{what}: answered {status or 'nothing'}: {answer.get('detail', answer)}")
    print(f"{what}: {status}")
    return answer


def smoke(url: str, example: dict[str, Any]) -> dict[str, Any]:
    """The answer about the customer; ends with the first thing that is not as it should be."""
    until = time.monotonic() + READY_S
    while (ready := call("GET", f"{url}/readyz"))[0] != 200 and time.monotonic() < until:
        time.sleep(1)
    expect("ready", *ready)
    serving = expect("models", *call("GET", f"{url}/v1/models"))
    if silent := [name for name in ("gateway", "decision", "generator", "shield") if not serving.get(name)]:
        sys.exit(f"models: nothing serves in {', '.join(silent)}; see the logs of their pods")
    name = f"smoke-{uuid.uuid4()}"
    asked = {**example, "request_id": name, "customer": {**example["customer"], "id": name}}
    first = expect("retain", *call("POST", f"{url}/v1/retain", asked))
    try:
        if expect("asked again", *call("POST", f"{url}/v1/retain", asked)) != first:
            sys.exit("asked again: another answer than the first; the ledger forgets")
        if first["baseline_reason"] != "ledger_unavailable":
            expect("record", *call("GET", f"{url}/v1/decisions/{first['decision_id']}"))
    finally:
        expect("forgotten", *call("DELETE", f"{url}/v1/customers/{name}"), wanted=(200, 204))
    return first


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit("usage: smoke.py URL [CUSTOMER.json]")
    customer = Path(sys.argv[2] if len(sys.argv) == 3 else "examples/retain.json")
    print(json.dumps(smoke(sys.argv[1].rstrip("/"), json.loads(customer.read_text(encoding="utf-8")))))
