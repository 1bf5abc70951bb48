"""The kill switch (law 5): a state in memory that a request reads without waiting for anything.

Redis pushes changes and is polled besides, so that a lost push costs one poll interval. A key that is
missing or unreadable, and a state that was never read, mean baseline; a Redis outage changes nothing. Who was
to contact nobody does not begin to contact because the key is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from churnsaver.tasks import stop_tasks
from services.gateway import metrics
from services.gateway.contract import BaselineReason, KillSwitchRequest

log = structlog.get_logger()

KEY = "cs:kill-switch"
CHANNEL = "cs:kill-switch:changed"


class KillState(BaseModel):
    """What the key holds: JSON, written whole."""

    model_config = ConfigDict(frozen=True)

    state: Literal["on", "off"]
    scope: Literal["baseline", "no_contact"] = "baseline"
    reason: str = ""
    changed_at: str = ""


class AlreadySet(Exception):
    """The switch has a state, or had one before it became unknown."""


class KillSwitch:
    """The last known state of the switch.

    Attributes:
        state: None while it is unknown: never read, missing or unreadable.
        last_known: the last state that was not unknown, over restarts; None where there was none.

    Args:
        memory: file that remembers `last_known`.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        force_baseline: bool,
        poll_s: float,
        memory: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state: KillState | None = None
        self._memory = memory
        self.last_known: KillState | None = self._remembered()
        self._force_baseline = force_baseline
        self._redis, self._poll_s, self._clock = redis, poll_s, clock
        self._read_at = clock()

    @property
    def baseline_reason(self) -> BaselineReason | None:
        """Why requests get the baseline now; None while the policy serves. A read of memory."""
        if self._force_baseline:
            return BaselineReason.FORCE_BASELINE
        if self.state is None:
            return BaselineReason.KILL_STATE_UNKNOWN
        return BaselineReason.KILL_SWITCH if self.state.state == "on" else None

    @property
    def nobody_contacted(self) -> bool:
        """Whether the switch is on with scope `no_contact`, or was so until its state became unknown."""
        known = self.last_known
        return known is not None and known.state == "on" and known.scope == "no_contact"

    @property
    def age_s(self) -> float:
        """Seconds since the state was last read from Redis."""
        return self._clock() - self._read_at

    async def write(self, request: KillSwitchRequest, *, only_if_unset: bool = False) -> KillState:
        """Sets the switch for every replica.

        Raises:
            RedisError: it could not be made durable.
            AlreadySet: with `only_if_unset`, where the key holds anything or this replica knew a state.
        """
        if only_if_unset and self.last_known is not None:
            raise AlreadySet
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        state = KillState(state=request.state, scope=request.scope, reason=request.reason, changed_at=now)
        if not await self._redis.set(KEY, state.model_dump_json(), nx=only_if_unset):
            await self.refresh()
            raise AlreadySet
        await self._redis.publish(CHANNEL, request.state)
        self._accept(state)
        return state

    async def refresh(self) -> None:
        """Reads the key once; RedisError leaves the last known state as it is."""
        raw = await self._redis.get(KEY)
        try:
            self._accept(KillState.model_validate_json(raw) if raw is not None else None)
        except ValidationError:
            # Somebody wrote nonsense: that is an unknown state, and the safe answer is the baseline.
            self._accept(None)

    async def follow(self) -> None:
        """Keeps the state fresh until cancelled: on every push, and on a timer."""
        push = asyncio.create_task(self._follow_pushes())
        try:
            while True:
                with _survived("kill_switch.poll"):
                    await self.refresh()
                await asyncio.sleep(self._poll_s)
        finally:
            await stop_tasks([push])

    async def _follow_pushes(self) -> None:
        while True:
            with _survived("kill_switch.push"):
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(CHANNEL)
                    async for message in pubsub.listen():
                        if message["type"] == "message":
                            await self.refresh()
            await asyncio.sleep(self._poll_s)

    def _accept(self, state: KillState | None) -> None:
        if state != self.state:
            log.warning("kill_switch.changed", state=state.model_dump() if state else "unknown")
        self.state, self._read_at = state, self._clock()
        if state is not None and state != self.last_known:
            self.last_known = state
            self._remember(state)

    def _remembered(self) -> KillState | None:
        try:
            return KillState.model_validate_json(self._memory.read_bytes())
        except (OSError, ValidationError):
            return None

    def _remember(self, state: KillState) -> None:
        """Redis is who knows; this is for the day when it comes back without its data after everything was down."""
        try:
            beside = self._memory.with_suffix(".new")
            beside.write_text(state.model_dump_json())
            beside.replace(self._memory)
        except OSError as error:
            log.warning("kill_switch.not_remembered", file=str(self._memory), reason=str(error))


@contextlib.contextmanager
def _survived(task: str) -> Iterator[None]:
    """Lets no error end a task without which the switch would not be heard any more."""
    try:
        yield
    except (RedisError, OSError, TimeoutError):
        pass  # Redis is away; the next round tries again
    except Exception:
        metrics.BACKGROUND_FAILURES.labels(task).inc()
        log.exception("kill_switch.failed", task=task)
