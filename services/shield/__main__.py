"""`python -m services.shield`."""

from __future__ import annotations

from churnsaver.rpc.server import run
from services.shield.bootstrap import main

run("shield", main)
