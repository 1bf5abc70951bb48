"""Time zones at their worst: customers whose zone changes from day to day, in weeks in which clocks change.

Quiet hours are the recipient's own, so they hang on what is known of the zone. Here a customer's zone is another
one every epoch, out of zones at both ends of the day, with odd offsets, and with clock changes of half an hour,
one and two hours, at night and at midnight, all within the campaign.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np

from churnsaver.domain.eligibility import hour_of_day
from churnsaver.domain.world import HOURS_PER_DAY, World
from trainers.env.response import Floats

# 56 days from here hold the clock changes of Havana and New York (8 March), Berlin and Troll (29 March, two
# hours), Chatham and Lord Howe (5 April, half an hour).
START = datetime(2026, 3, 1, tzinfo=UTC)
ZONES = (
    "America/Havana",
    "America/New_York",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
)
SLOTS_PER_HOUR = 4  # no zone has changed its clock within a quarter of an hour of UTC for decades


@cache
def _offsets_hours(days: int) -> Floats:
    """Offset from UTC of each zone in every quarter of an hour from START, (zones, slots)."""
    moments = [START + timedelta(hours=slot / SLOTS_PER_HOUR) for slot in range(days * HOURS_PER_DAY * SLOTS_PER_HOUR)]
    zones = [ZoneInfo(name) for name in ZONES]
    return np.array([[_offset(moment.astimezone(zone)) for moment in moments] for zone in zones])


def _offset(local: datetime) -> float:
    offset = local.utcoffset()
    assert offset is not None
    return offset.total_seconds() / 3600.0


class ZoneSchedule:
    """Which zone each customer is said to be in, epoch by epoch; the `Clock` of one campaign that starts at START.

    Attributes:
        zone: (epochs + 1, customers), indices into ZONES.
    """

    def __init__(self, world: World, customers: int, seed: int) -> None:
        self._epoch_hours, self._delays_hours = world.epoch_hours, world.delays_hours
        epochs = world.episode_days * HOURS_PER_DAY // world.epoch_hours
        self.zone = np.random.default_rng([seed, 7]).integers(len(ZONES), size=(epochs + 1, customers))
        self._offsets = _offsets_hours(world.episode_days + 3)
        self._sends: dict[int, Floats] = {}

    def __call__(self, epoch: int, sends: Floats) -> Floats:
        self._sends[epoch] = sends
        utc_hours = epoch * self._epoch_hours + sends
        slots = np.floor(utc_hours * SLOTS_PER_HOUR).astype(np.int64)
        offsets = self._offsets[self.zone[epoch][:, None], slots]
        return np.asarray((utc_hours + offsets) % HOURS_PER_DAY, dtype=np.float64)

    def sent(self, epoch: int, customer: int, delay_hours: int) -> tuple[float, float]:
        """When a contact goes out: hours since START, and the hour on the recipient's clock by `zoneinfo` itself."""
        since_epoch = self._sends[epoch][customer, self._delays_hours.index(delay_hours)]
        hours = epoch * self._epoch_hours + float(since_epoch)
        zone = ZoneInfo(ZONES[self.zone[epoch, customer]])
        return hours, hour_of_day((START + timedelta(hours=hours)).astimezone(zone))
