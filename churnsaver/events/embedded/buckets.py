"""Cloud Storage subscriptions: messages written as lines of files, in folders that stand for buckets.

As in the service (https://cloud.google.com/pubsub/docs/cloudstorage), a file is begun for the first message after
the last one was full or old enough, and a message is acknowledged when its line is on the disk; at least once.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import structlog

from churnsaver.events.embedded.bells import Bells, rung
from churnsaver.events.embedded.broker import Broker
from churnsaver.events.embedded.deliverers import Deliverers
from churnsaver.events.embedded.subscription import Subscription
from churnsaver.events.embedded.wire import Message

log = structlog.get_logger()

BATCH = 1_000
RETRY_S = 5.0
# What a date-time format may hold, as the service names it, and as Python does.
DATETIME_PARTS = {"YYYY": "%Y", "MM": "%m", "DD": "%d", "hh": "%H", "mm": "%M", "ss": "%S"}
DEFAULT_DATETIME = "YYYY-MM-DDThh:mm:ssZ"
DEFAULT_DURATION_S = 300
DEFAULT_MAX_BYTES = 1 << 30


class Buckets(Deliverers):
    """One task for each subscription that writes to a bucket.

    Args:
        folder: holds one folder for each bucket.
    """

    def __init__(self, broker: Broker, bells: Bells, folder: Path) -> None:
        super().__init__(broker, bells)
        self._folder = folder

    def destination(self, subscription: Subscription) -> str:
        """The bucket, with how its files are called."""
        config = subscription.config.cloud_storage_config
        return f"{config.bucket}/{config.filename_prefix}" if config.bucket else ""

    async def deliver_all(self, subscription: Subscription) -> None:
        """Until cancelled: writes lines and acknowledges them."""
        name = subscription.config.name
        files = _Files(self._folder, subscription.config.cloud_storage_config)
        while True:
            bell = self._bells.bell(name)
            taken = subscription.take(BATCH, subscription.config.ack_deadline_seconds)
            if not taken:
                await rung(bell, 60.0)
                continue
            ack_ids = [delivery.ack_id for delivery in taken]
            lines = b"".join(delivery.message.data + b"\n" for delivery in taken)
            try:
                await asyncio.to_thread(files.append, lines)
            except OSError as error:
                log.error("bucket.unwritable", subscription=name, reason=error.strerror)  # noqa: TRY400
                self._broker.modify_leases(subscription, [(ack_id, 0) for ack_id in ack_ids])
                await asyncio.sleep(RETRY_S)
            else:
                self._broker.ack(subscription, ack_ids)


class _Files:
    """The file that is written to now, and when the next one is begun."""

    def __init__(self, folder: Path, config: Message) -> None:
        self._folder, self._config = folder / config.bucket, config
        self._path: Path | None = None
        self._ends_at = 0.0

    def append(self, lines: bytes) -> None:
        """Lines that are on the disk when it returns; OSError where they cannot be."""
        full = self._path is not None and self._path.stat().st_size >= (self._config.max_bytes or DEFAULT_MAX_BYTES)
        if self._path is None or full or time.monotonic() >= self._ends_at:
            self._path = self._folder / self._new_name()
            self._ends_at = time.monotonic() + (self._config.max_duration.seconds or DEFAULT_DURATION_S)
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def _new_name(self) -> str:
        """<prefix><UTC time>_<uuid><suffix>."""
        config = self._config
        template = config.filename_datetime_format or DEFAULT_DATETIME
        for part, code in DATETIME_PARTS.items():
            template = template.replace(part, code)
        at = datetime.now(UTC).strftime(template)
        return f"{config.filename_prefix}{at}_{uuid.uuid4().hex[:12]}{config.filename_suffix}"
