"""Logs and metrics, the same in every process."""

from __future__ import annotations

import logging
import sys

import structlog
from prometheus_client import Counter, Gauge, Histogram

# From a bank hit (1 ms) past the deadline (500 ms).
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 2.5)

RPC_REQUESTS = Counter("rpc_requests_total", "RPCs answered, by method and status code.", ["method", "code"])
RPC_SECONDS = Histogram("rpc_request_seconds", "Time to answer an RPC.", ["method"], buckets=LATENCY_BUCKETS_S)
CHECKPOINT_SWAPS = Counter("checkpoint_swaps_total", "Checkpoints that replaced another while serving.", ["kind"])
CHECKPOINTS_REFUSED = Counter("checkpoints_refused_total", "Checkpoints, or states of the registry, refused.", ["kind"])
CHAMPION_REFUSED = Gauge(
    "champion_refused", "1 while a champion, or the registry's state, is refused and the one before serves.", ["kind"]
)
REGISTRY_SEEN = Gauge("registry_seen_timestamp_seconds", "When the registry last answered, by kind.", ["kind"])
MODEL_INFO = Gauge("model_info", "1 for the checkpoint of each kind that serves.", ["kind", "version"])
BUILD_INFO = Gauge("churn_saver_build_info", "1, by service and version of the code.", ["service", "version"])


def configure_logging(service: str) -> None:
    """One JSON object a line on standard error, each with the service's name and the time in UTC."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
