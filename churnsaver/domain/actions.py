"""The joint action space: do not contact, or contact with one offer after one delay.

One categorical over these triples (law 1): index 0 is "do not contact"; contact actions follow,
offers outer and delays inner, so action `1 + offer × n_delays + delay`.
"""

from __future__ import annotations

from dataclasses import dataclass

from churnsaver.domain.world import Offer, World

NO_CONTACT = 0


@dataclass(frozen=True, slots=True)
class Action:
    """One decision about one customer; `offer` is None exactly when nobody is contacted."""

    index: int
    offer: Offer | None
    delay_hours: int

    @property
    def contact(self) -> bool:
        return self.offer is not None

    @property
    def label(self) -> str:
        return f"{self.offer.id}+{self.delay_hours}h" if self.offer else "no_contact"


class ActionSpace:
    """All joint actions of a world, in the order that policies, masks and records share."""

    def __init__(self, world: World) -> None:
        self.offers = world.offers
        self.delays_hours = world.delays_hours
        pairs = [(offer, delay) for offer in self.offers for delay in self.delays_hours]
        self.actions: tuple[Action, ...] = (
            Action(NO_CONTACT, None, 0),
            *(Action(i, offer, delay) for i, (offer, delay) in enumerate(pairs, start=1)),
        )

    def __len__(self) -> int:
        return len(self.actions)

    def __getitem__(self, index: int) -> Action:
        return self.actions[index]

    def index_of(self, offer_id: str, delay_hours: int) -> int:
        """Index of a contact action; ValueError where the world has no such offer or delay."""
        offer_ids = [offer.id for offer in self.offers]
        offer, delay = offer_ids.index(offer_id), self.delays_hours.index(delay_hours)
        return 1 + offer * len(self.delays_hours) + delay

    @property
    def labels(self) -> list[str]:
        return [action.label for action in self.actions]
