"""`python -m services.decision`."""

from __future__ import annotations

from churnsaver.rpc.server import run
from services.decision.bootstrap import main

run("decision", main)
