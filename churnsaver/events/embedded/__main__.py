"""`python -m churnsaver.events.embedded [HOST:PORT]`: an address that is given here may be reached by others."""

from __future__ import annotations

import sys

from churnsaver.events.embedded.server import main
from churnsaver.rpc.server import run

run("pubsub", lambda: main(*sys.argv[1:]))
