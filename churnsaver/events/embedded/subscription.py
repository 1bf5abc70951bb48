"""What one subscription knows of its messages: which wait, which are leased to whom and until when.

Time comes in as a clock and nothing goes out: whoever calls has to journal and to wake pullers.
"""

from __future__ import annotations

import heapq
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from churnsaver.events.embedded.filters import parse_filter
from churnsaver.events.embedded.wire import Message, ReceivedMessage

Clock = Callable[[], float]  # seconds since the epoch; never goes back

DEFAULT_RETRY_S = (10.0, 600.0)  # of a retry policy that leaves its bounds out, as in the service
PUSH_RETRY_S = (0.1, 60.0)
MAX_BYTES_AT_ONCE = 10 << 20


@dataclass(slots=True, eq=False)
class Delivery:
    """One message on its way to one subscription.

    Attributes:
        number: the message's id, which grows with every message that was published.
        attempts: how often it was handed out since the server started.
        ack_id: of the present lease; empty while it is not leased.
        due: when the lease ends, or the wait before the next attempt.
    """

    number: int
    message: Message
    attempts: int = 0
    ack_id: str = ""
    due: float = 0.0


class Subscription:
    """Messages of one subscription; ValueError where the filter in `config` is none.

    Attributes:
        config: the resource as clients see it.
        pending: what is not acknowledged, by number, oldest first.
        retained: messages that were acknowledged and may be sought again, by number.
        last_used: when somebody last pulled or acknowledged.
    """

    def __init__(self, config: Message, clock: Clock) -> None:
        self._clock = clock
        self.pending: dict[int, Delivery] = {}
        self.retained: dict[int, Message] = {}
        self.last_used = clock()
        self._ready: deque[Delivery] = deque()
        self._leased: dict[str, Delivery] = {}
        self._timers: list[tuple[float, int]] = []
        # Deliveries of one ordering key; only the first of them is ready, leased or backing off.
        self._by_key: dict[str, deque[Delivery]] = {}
        self.configure(config)

    def configure(self, config: Message) -> None:
        """Takes a new configuration."""
        try:
            self._matches = parse_filter(config.filter) if config.filter else None
        except ValueError as error:
            raise ValueError(f"{config.name} has a filter that cannot be read: {error}") from None
        self.config = config

    # -- messages come in --------------------------------------------------------------------------

    def offer(self, number: int, message: Message) -> None:
        """Adds a message unless the filter turns it away."""
        if self._matches and not self._matches(message.attributes):
            return
        delivery = self.pending[number] = Delivery(number, message)
        if self.config.enable_message_ordering and message.ordering_key:
            queue = self._by_key.setdefault(message.ordering_key, deque())
            queue.append(delivery)
            if len(queue) > 1:
                return
        self._ready.append(delivery)

    def reset(self, pending: dict[int, Message], retained: dict[int, Message]) -> None:
        """Replaces all messages; every lease ends."""
        for emptied in (self.pending, self._ready, self._leased, self._timers, self._by_key):
            emptied.clear()
        self.retained = retained
        for number in sorted(pending):
            self.offer(number, pending[number])

    # -- and go out --------------------------------------------------------------------------------

    def take(self, count: int, lease_s: float) -> list[Delivery]:
        """Leases up to `count` messages, oldest first, and stops after 10 MiB of data."""
        self.last_used = self._clock()
        taken: list[Delivery] = []
        size = 0
        while self._ready and len(taken) < count and size < MAX_BYTES_AT_ONCE:
            delivery = self._ready.popleft()
            if self.pending.get(delivery.number) is not delivery:
                continue  # acknowledged or expired while it waited
            delivery.attempts += 1
            delivery.ack_id = f"{delivery.number}-{secrets.token_hex(8)}"
            self._leased[delivery.ack_id] = delivery
            self._wait(delivery, lease_s)
            taken.append(delivery)
            size += len(delivery.message.data)
        return taken

    def received(self, delivery: Delivery) -> Message:
        """A leased message as it goes over the wire."""
        received = ReceivedMessage(ack_id=delivery.ack_id, message=delivery.message)
        if self.config.HasField("dead_letter_policy"):
            received.delivery_attempt = delivery.attempts
        return received

    def leased(self, ack_ids: Iterable[str]) -> tuple[list[Delivery], list[str]]:
        """The deliveries under `ack_ids`, and those ids whose lease is over."""
        self.last_used = self._clock()
        found, stale = [], []
        for ack_id in ack_ids:
            if delivery := self._leased.get(ack_id):
                found.append(delivery)
            else:
                stale.append(ack_id)
        return found, stale

    def is_leased(self, ack_id: str) -> bool:
        """Whether the message is still out under this id."""
        return ack_id in self._leased

    def extend(self, delivery: Delivery, lease_s: float) -> None:
        """Lets a lease end `lease_s` from now."""
        self._wait(delivery, lease_s)

    def finish(self, number: int) -> None:
        """Lets go of an acknowledged message, and of the next one with its ordering key."""
        if (delivery := self._forget(number)) and self.config.retain_acked_messages:
            self.retained[number] = delivery.message

    def give_back(self, delivery: Delivery) -> None:
        """Ends a lease without an acknowledgement: the message waits its back-off, then is ready again."""
        self._end_lease(delivery)
        if delay_s := self._retry_delay_s(delivery.attempts):
            self._wait(delivery, delay_s)
        else:
            self._ready.append(delivery)

    def is_exhausted(self, delivery: Delivery) -> bool:
        """Whether a message was handed out as often as the dead-letter policy allows."""
        policy = self.config.dead_letter_policy
        return bool(policy.dead_letter_topic) and delivery.attempts >= (policy.max_delivery_attempts or 5)

    def lapse(self) -> tuple[list[Delivery], bool]:
        """Deliveries whose lease is over, to be given back; and whether others are ready after a back-off."""
        now, lapsed, woken = self._clock(), [], False
        while self._timers and self._timers[0][0] <= now:
            due, number = heapq.heappop(self._timers)
            delivery = self.pending.get(number)
            if delivery is None or delivery.due != due:
                continue  # a timer from before the lease was extended or ended
            if delivery.ack_id:
                lapsed.append(delivery)
            else:
                delivery.due, woken = 0.0, True
                self._ready.append(delivery)
        return lapsed, woken

    def expire(self) -> None:
        """Forgets messages older than the retention, acknowledged or not."""
        oldest_s = self._clock() - self.config.message_retention_duration.seconds
        for number, delivery in list(self.pending.items()):
            if delivery.message.publish_time.seconds < oldest_s:
                self._forget(number)
        self.retained = {n: m for n, m in self.retained.items() if m.publish_time.seconds >= oldest_s}

    def _wait(self, delivery: Delivery, seconds: float) -> None:
        delivery.due = self._clock() + seconds
        heapq.heappush(self._timers, (delivery.due, delivery.number))

    def _end_lease(self, delivery: Delivery) -> None:
        self._leased.pop(delivery.ack_id, None)
        delivery.ack_id, delivery.due = "", 0.0

    def _forget(self, number: int) -> Delivery | None:
        delivery = self.pending.pop(number, None)
        if delivery is None:
            return None
        self._end_lease(delivery)
        queue = self._by_key.get(delivery.message.ordering_key)
        if queue and queue[0] is delivery:
            queue.popleft()
            if queue:
                self._ready.append(queue[0])
            else:
                del self._by_key[delivery.message.ordering_key]
        elif queue:
            queue.remove(delivery)
        return delivery

    def _retry_delay_s(self, attempts: int) -> float:
        least_s, most_s = 0.0, 0.0
        if self.config.HasField("retry_policy"):
            policy = self.config.retry_policy
            least_s, most_s = DEFAULT_RETRY_S
            if policy.HasField("minimum_backoff"):
                least_s = policy.minimum_backoff.ToNanoseconds() / 1e9
            if policy.HasField("maximum_backoff"):
                most_s = policy.maximum_backoff.ToNanoseconds() / 1e9
        elif self.config.push_config.push_endpoint:
            least_s, most_s = PUSH_RETRY_S
        return float(min(most_s, least_s * 2 ** min(attempts - 1, 30)))
