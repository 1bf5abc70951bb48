"""`python -m churnsaver.rpc.probe HOST:PORT`: exit 0 where a gRPC service says that it serves.

For whatever cannot speak gRPC's health protocol itself: Docker, and kubelets before 1.24.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 2.0


def serves(address: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether the server at `address` answers and is neither starting nor draining."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(0 if serves(sys.argv[1]) else 1)
