"""Client channels to the other services."""

from __future__ import annotations

import grpc

CHANNEL_OPTIONS = [
    ("grpc.lb_policy_name", "round_robin"),
    # A service that comes back is found within a second, not within gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Where all known pods of a service are gone, DNS is asked again within a second, not within gRPC's default of 30.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.enable_retries", 0),  # the caller has a fallback and no time for a second try
]


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to `address` that fails at once while the service is down and reconnects quickly."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
