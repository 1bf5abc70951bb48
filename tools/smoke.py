"""Retains one made-up customer through a running gateway, asks again, and forgets them.

    python3 tools/smoke.py http://127.0.0.1:8080 [examples/retain.json]

Nobody is contacted: a message leaves only when a caller asks for its release. Python's standard library is enough.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any, NoReturn

READY_S = 60.0


def call(method: str, url: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and body of an answer; status 0 where nobody answers."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, body_of(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, body_of(error.read())
    except (OSError, http.client.HTTPException) as error:
        return 0, {"detail": str(error)}


def body_of(data: bytes) -> dict[str, Any]:
    """The JSON of an answer; load balancers say what they have to say in other forms."""
    try:
        return {**json.loads(data or b"{}")}
    except (ValueError, TypeError):
        return {"detail": data.decode(errors="replace")[:200]}


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


def refuse(fault: str) -> NoReturn:
    """Ends because of what it was given, which is not the gateway's fault: 2, as in all our tools."""
    print(fault, file=sys.stderr)
    sys.exit(2)


def gateway_of(text: str) -> str:
    """The gateway's address."""
    try:
        url = urllib.parse.urlsplit(text)
        known = url.scheme in {"http", "https"} and url.hostname and url.port != 0
    except ValueError:  # a port or a host that cannot be
        known = False
    return text.rstrip("/") if known else refuse(f"URL: {text!r} is no address; give http://HOST:PORT of the gateway")


def customer_of(path: Path) -> dict[str, Any]:
    """A request that retains a customer."""
    mend = "give a request such as examples/retain.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        refuse(f"CUSTOMER.json: {path} cannot be read ({error}); {mend}")
    if not isinstance(found, dict) or not isinstance(found.get("customer"), dict):
        refuse(f"CUSTOMER.json: {path} has no `customer`; {mend}")
    return found


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        refuse("usage: smoke.py URL [CUSTOMER.json]")
    customer = customer_of(Path(sys.argv[2] if len(sys.argv) == 3 else "examples/retain.json"))
    print(json.dumps(smoke(gateway_of(sys.argv[1]), customer)))
