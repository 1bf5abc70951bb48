"""What the bank keeps in Redis, for all replicas and for the next start.

The messages of each version of the bank are a hash by brief, judgements are a hash by message. A stream of news says
which of their fields changed, so that a replica reads only those. Which version serves is one key; who writes holds a
lease. Whatever Redis refuses stays in memory and is stored when it can be.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, RedisError

from churnsaver.message_counts import JUDGEMENTS, MessageCounts, message_counts_key, split_counts
from services.generator import metrics
from services.generator.message import BankMessage, Judgement, Verdict, id_of

log = structlog.get_logger()

SERVED = "cs:bank:served"
NEWS = "cs:bank:news"
KEPT_NEWS = 10_000
# Stores an approval, whatever is there, but for a retirement.
APPROVE = """
local there = redis.call('HGET', KEYS[1], ARGV[1])
local read, judgement = pcall(cjson.decode, there or '')
if read and type(judgement) == 'table' and judgement.verdict == 'retired' then return end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
"""
# A version that no generator has looked at for so long is not coming back: one that serves, and one that was superseded
# or never served. A bad model shows within two days; with one a day and 5 MB each, more would only fill Redis.
KEPT_S, FORMER_KEPT_S = 30 * 24 * 3600, 2 * 24 * 3600
LEASE_MS = 20_000
BATCH = 200  # what Redis does in a few milliseconds, for requests wait meanwhile
OUTAGES = (RedisError, OSError, TimeoutError)
MOST_COUNTED = 2**63 - 1  # Redis counts no further

ENTRIES, MESSAGE, JUDGEMENT = TypeAdapter(list[Any]), TypeAdapter(BankMessage), TypeAdapter(Judgement)


class StoreUnavailable(Exception):
    """Redis does not answer (`away`), or has no room (`full`)."""


@dataclass(frozen=True, slots=True)
class News:
    """What is new in Redis.

    Attributes:
        messages: by brief, of the bank's own version.
        served: the version that serves, where that was said.
        damaged: the briefs and judged messages of which Redis has something that cannot be read.
    """

    messages: dict[str, tuple[BankMessage, ...]] = field(default_factory=dict)
    judgements: tuple[Judgement, ...] = ()
    served: str | None = None
    damaged: frozenset[str] = frozenset()


class Store:
    """One version of the bank in Redis. Every method raises StoreUnavailable, and counts why."""

    def __init__(self, redis: Redis, version: str) -> None:
        self._redis, self.version = redis, version
        self._seen: bytes | None = None  # the last news; None where everything must be read
        self._lease, self._holder = f"cs:bank:lease:{version}", uuid.uuid4().hex

    @property
    def is_read(self) -> bool:
        """Whether what it holds was read, since the start and since the last outage that `news` met."""
        return self._seen is not None

    async def news(self) -> News:
        """What changed since the last call; all there is at the first call, and at the first after an outage."""
        try:
            return await (self._everything() if self._seen is None else self._since(self._seen))
        except OUTAGES as error:
            self._seen = None
            raise _unavailable(error) from None

    async def _everything(self) -> News:
        last: Any = await self._redis.xrevrange(NEWS, count=1)
        messages: Any = await self._redis.hgetall(messages_key(self.version))
        judgements: Any = await self._redis.hgetall(JUDGEMENTS)
        served: Any = await self._redis.get(SERVED)
        self._seen = last[0][0] if last else b"0"
        return _read_news(messages, judgements, _text(served or b""))

    async def _since(self, seen: bytes) -> News:
        found: Any = await self._redis.xrange(NEWS, min=b"(" + seen, count=KEPT_NEWS)
        if not found:
            return News()
        told: dict[bytes, list[bytes]] = {}
        for _, fields in found:
            for what, which in fields.items():
                told.setdefault(what, []).append(which)
        messages: dict[bytes, bytes | None] = {}
        for some in _batches(told.get(self.version.encode(), [])):
            values: Any = await self._redis.hmget(messages_key(self.version), some)
            messages |= zip(some, values, strict=True)
        judgements: dict[bytes, bytes | None] = {}
        for some in _batches(told.get(b"judged", [])):
            values = await self._redis.hmget(JUDGEMENTS, some)
            judgements |= zip(some, values, strict=True)
        self._seen = found[-1][0]
        return _read_news(messages, judgements, _text(told.get(b"served", [b""])[-1]) or None)

    async def messages_of(self, version: str) -> dict[str, tuple[BankMessage, ...]]:
        """The messages of another version, by brief."""
        try:
            stored: Any = await self._redis.hgetall(messages_key(version))
        except OUTAGES as error:
            raise _unavailable(error) from None
        return _read_messages(stored)[0]

    async def keep(self, messages: Mapping[str, Sequence[BankMessage]]) -> None:
        """Stores the messages of some briefs, and tells the other replicas."""
        try:
            for some in _batches(messages):
                async with self._redis.pipeline(transaction=True) as pipe:
                    fields: dict[Any, Any] = {
                        brief: json.dumps([asdict(each) for each in messages[brief]]) for brief in some
                    }
                    pipe.hset(messages_key(self.version), mapping=fields)
                    pipe.expire(messages_key(self.version), KEPT_S)
                    for brief in some:
                        pipe.xadd(NEWS, {self.version: brief}, maxlen=KEPT_NEWS)
                    await pipe.execute()
        except OUTAGES as error:
            raise _unavailable(error) from None

    async def judge(self, judgements: Iterable[Judgement]) -> None:
        """Stores judgements, and tells the other replicas; an approval never takes the place of a retirement."""
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                for judgement in judgements:
                    said = judgement.message_id, json.dumps(asdict(judgement))
                    if judgement.verdict is Verdict.RETIRED:
                        pipe.hset(JUDGEMENTS, *said)
                    else:
                        pipe.eval(APPROVE, 1, JUDGEMENTS, *said)
                    pipe.xadd(NEWS, {"judged": judgement.message_id}, maxlen=KEPT_NEWS)
                await pipe.execute()
        except OUTAGES as error:
            raise _unavailable(error) from None

    async def serve(self) -> None:
        """Says that this version serves now; the one that did is kept for FORMER_KEPT_S."""
        try:
            former: Any = await self._redis.get(SERVED)
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(SERVED, self.version)
                pipe.expire(messages_key(_text(former or b"")), FORMER_KEPT_S)
                pipe.expire(messages_key(self.version), KEPT_S)
                pipe.xadd(NEWS, {"served": self.version}, maxlen=KEPT_NEWS)
                await pipe.execute()
        except OUTAGES as error:
            raise _unavailable(error) from None

    async def lacks(self, briefs: Sequence[str], judged: Sequence[str]) -> tuple[list[str], list[str], bool]:
        """Which of the briefs and judged messages Redis has lost, and whether it knows who serves.

        It also says that this version is still looked at.
        """
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hlen(messages_key(self.version))
                pipe.hlen(JUDGEMENTS)
                pipe.get(SERVED)
                kept_briefs, kept_judgements, served = await pipe.execute()
            serves = served == self.version.encode()
            await self._redis.expire(messages_key(self.version), KEPT_S if serves else FORMER_KEPT_S)
            lost_briefs, lost_judgements = [], []
            if kept_briefs < len(briefs):
                lost_briefs = await self._missing(messages_key(self.version), briefs)
            if kept_judgements < len(judged):
                lost_judgements = await self._missing(JUDGEMENTS, judged)
        except OUTAGES as error:
            raise _unavailable(error) from None
        return lost_briefs, lost_judgements, bool(served)

    async def _missing(self, key: str, names: Sequence[str]) -> list[str]:
        found: Any = await self._redis.hkeys(key)
        there = set(found)
        return [name for name in names if name.encode() not in there]

    async def counts(self, message_ids: Sequence[str]) -> list[MessageCounts]:
        """What is counted of each message; (message_ids,)."""
        found: list[MessageCounts] = []
        try:
            for some in _batches(message_ids):
                async with self._redis.pipeline(transaction=False) as pipe:
                    for message_id in some:
                        pipe.hgetall(message_counts_key(message_id))
                    answers: list[dict[bytes, bytes]] = await pipe.execute()
                found += [
                    split_counts({_text(name): _count(count) for name, count in each.items()}) for each in answers
                ]
        except OUTAGES as error:
            raise _unavailable(error) from None
        return found

    async def hold_lease(self) -> bool:
        """Whether this replica is the one that writes, for LEASE_MS from now."""
        try:
            if await self._redis.set(self._lease, self._holder, nx=True, px=LEASE_MS):
                return True
            # Between the two somebody else may have got it; two who write for a moment only write twice.
            return await self._holds_lease() and bool(await self._redis.pexpire(self._lease, LEASE_MS))
        except OUTAGES as error:
            raise _unavailable(error) from None

    async def give_up_lease(self) -> None:
        """Lets another replica write at once."""
        try:
            if await self._holds_lease():
                await self._redis.delete(self._lease)
        except OUTAGES as error:
            raise _unavailable(error) from None

    async def _holds_lease(self) -> bool:
        return bool(await self._redis.get(self._lease) == self._holder.encode())


def messages_key(version: str) -> str:
    return f"cs:bank:{version}"


def _batches(names: Iterable[Any]) -> Iterable[list[Any]]:
    every = list(dict.fromkeys(names))
    return (every[first : first + BATCH] for first in range(0, len(every), BATCH))


def _read_news(
    messages: Mapping[bytes, bytes | None], judgements: Mapping[bytes, bytes | None], served: str | None
) -> News:
    """What can be read of what is stored, each entry on its own; what cannot is named and passed over."""
    by_brief, damaged = _read_messages(messages)
    judged = []
    for name, raw in judgements.items():
        try:
            judged.append(JUDGEMENT.validate_json(raw or b""))
        except ValidationError:
            log.warning("bank.judgement_unreadable", message_id=_text(name), raw=repr(raw)[:200])
            damaged.append(_text(name))
    return News(by_brief, tuple(judged), served, frozenset(damaged))


def _read_messages(stored: Mapping[bytes, bytes | None]) -> tuple[dict[str, tuple[BankMessage, ...]], list[str]]:
    """By brief what can be read, and the briefs of which something cannot."""
    messages, damaged = {}, []
    for name, raw in stored.items():
        brief = _text(name)
        try:
            entries = ENTRIES.validate_json(raw or b"")
        except ValidationError:
            entries = [None]
        read = {each.message_id: each for entry in entries if (each := _read_message(brief, entry)) is not None}
        messages[brief] = tuple(read.values())
        if len(read) < len(entries):
            log.warning("bank.unreadable", brief=brief)
            damaged.append(brief)
    return messages, damaged


def _read_message(brief: str, entry: object) -> BankMessage | None:
    """None where it is no message, or another brief's, or not the words that it was named for."""
    try:
        message = MESSAGE.validate_python(entry)
    except ValidationError:
        return None
    return message if message.message_id == id_of(brief, message.draft) else None


def _count(raw: bytes) -> int:
    """What is no number, or below nothing, counts as nothing."""
    try:
        return min(max(int(raw), 0), MOST_COUNTED)
    except ValueError:
        return 0


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _unavailable(error: Exception) -> StoreUnavailable:
    # Within a transaction redis-py puts the command before the error's own words.
    full = isinstance(error, OutOfMemoryError) or "OOM" in str(error)
    reason = "full" if full else "away"
    metrics.STORE_FAILURES.labels(reason).inc()
    return StoreUnavailable(reason)
