"""`python -m churnsaver.events.embedded`."""

from __future__ import annotations

from churnsaver.events.embedded.server import main
from churnsaver.rpc.server import run

run("pubsub", main)
