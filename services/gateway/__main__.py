"""`python -m services.gateway`."""

from churnsaver.rpc.server import run
from services.gateway.bootstrap import main

run("gateway", main)
