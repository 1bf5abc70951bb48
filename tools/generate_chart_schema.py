"""Writes `settings` of the chart's values.schema.json: whatever the services read has its place in the chart.

`--check` writes nothing and exits 1 where a setting came, went or changed since.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from churnsaver.settings import ServeSettings

SCHEMA = Path(__file__).resolve().parent.parent / "charts" / "churn-saver" / "values.schema.json"

# What the chart sets itself, because it makes the pods: folders, addresses, secrets.
CHARTS_OWN = {
    "FORCE_BASELINE",
    "addresses",
    "decision.host",
    "gateway.host",
    "generator.engine",
    "generator.host",
    "generator.vllm.adapters",
    "generator.vllm.quantization",
    "generator.vllm.url",
    "models",
    "pseudonym_key",
    "redis.url",
    "registry.signing_key",
    "registry.trusted_keys",
    "shield.host",
    "state_dir",
}
# Defaults stand in serve.yaml; names and words are the code's business.
LEFT_OUT = {"$defs", "title", "description", "default", "required"}


def settings_schema() -> dict[str, Any]:
    """JSON schema of the settings that values may turn, none of them required."""
    schema = ServeSettings.model_json_schema()
    return _plain(schema, schema["$defs"])


def _plain(node: dict[str, Any], defs: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`node` without references, without words, and without what the chart sets itself."""
    node = defs[node["$ref"].removeprefix("#/$defs/")] if "$ref" in node else node
    plain = {key: value for key, value in node.items() if key not in LEFT_OUT}
    if "properties" in node:
        turned = {name: each for name, each in node["properties"].items() if prefix + name not in CHARTS_OWN}
        plain["additionalProperties"] = False
        plain["properties"] = {name: _plain(each, defs, f"{prefix}{name}.") for name, each in turned.items()}
    return plain


def main() -> None:
    """Writes the schema, or compares."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["settings"] = settings_schema()
    wanted = json.dumps(schema, indent=2) + "\n"
    if "--check" not in sys.argv:
        SCHEMA.write_text(wanted, encoding="utf-8")
    elif SCHEMA.read_text(encoding="utf-8") != wanted:
        sys.exit(f"{SCHEMA}: does not say what services read; run python tools/generate_chart_schema.py")


if __name__ == "__main__":
    main()
