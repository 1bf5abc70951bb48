"""Scenarios: what a text answers, and the split of briefs by them.

A scenario is segment × reason × purpose of the offer × tone × channel, which is all that the writer is told. Briefs of
one scenario have the same prompt, so they are split together: held-out figures are of prompts never seen.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import NamedTuple

from churnsaver.domain.message import SEGMENTS, Brief
from churnsaver.domain.world import World
from churnsaver.domain.writing import PURPOSES, REASONS, TONES

LANGUAGE = "en"
PARTS = ("train", "valid", "test")


class Scenario(NamedTuple):
    """What the writer is told."""

    segment: str
    reason: str
    purpose: str
    tone: str
    channel: str

    @property
    def part(self) -> str:
        """`train`, `valid` or `test`: 80/10/10 by hash, whatever the seed."""
        share = int.from_bytes(hashlib.sha256("|".join(self).encode()).digest()[:4]) % 10
        return "valid" if share == 8 else "test" if share == 9 else "train"

    def briefs(self, world: World) -> list[Brief]:
        """One brief for each offer of this purpose."""
        return [
            Brief(
                segment=self.segment,
                offer=offer.id,
                tone=self.tone,
                channel=self.channel,
                language=LANGUAGE,
                reason=self.reason,
            )
            for offer in world.offers
            if offer.purpose == self.purpose
        ]


def scenarios(world: World) -> list[Scenario]:
    """All scenarios that the world's offers and channels allow, in a fixed order."""
    purposes = [purpose for purpose in PURPOSES if any(offer.purpose == purpose for offer in world.offers)]
    return [Scenario(*each) for each in itertools.product(SEGMENTS, REASONS, purposes, TONES, world.channels)]


def scenario_of(brief: Brief, world: World) -> Scenario:
    """The scenario of `brief`; KeyError where the world has no such offer."""
    purpose = world.offer(brief.offer).purpose
    return Scenario(brief.segment, brief.reason, purpose, brief.tone, brief.channel)


def split_of(brief: Brief, world: World) -> str:
    """The part that `brief` belongs to: `train`, `valid` or `test`."""
    return scenario_of(brief, world).part


def briefs(world: World, part: str) -> list[Brief]:
    """All briefs of one part, in a fixed order."""
    return [brief for scenario in scenarios(world) if scenario.part == part for brief in scenario.briefs(world)]
