"""Whether the balancer can listen where docker-compose.yaml says, before minutes of training; reads its JSON."""

import json
import os
import socket
import sys

for port in json.load(sys.stdin)["services"]["balancer"]["ports"]:
    host, number = port["host_ip"], port["published"]
    try:
        socket.create_server((host, int(number))).close()
    except OSError as error:
        sys.exit(f"PORT: nothing can listen at {host}:{number} ({os.strerror(error.errno or 0)}); say PORT=8081")
