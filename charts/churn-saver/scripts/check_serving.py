"""`helm test`: the gateway is ready, and every service behind it says which checkpoints it serves. Books nothing."""

import json
import os
import sys
import urllib.request


def get(path: str) -> dict[str, dict[str, object]]:
    with urllib.request.urlopen(os.environ["GATEWAY"] + path, timeout=10) as answer:
        found: dict[str, dict[str, object]] = json.load(answer)
        return found


print(json.dumps(get("/readyz")))
serving = get("/v1/models")
print(json.dumps(serving))
silent = [name for name in ("gateway", "decision", "generator", "shield") if not serving.get(name)]
if silent:
    sys.exit(f"no checkpoint serves in: {', '.join(silent)}; see the logs of their pods")
