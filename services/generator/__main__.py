"""`python -m services.generator`."""

from __future__ import annotations

from churnsaver.rpc.server import run
from services.generator.bootstrap import main

run("generator", main)
