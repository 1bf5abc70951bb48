"""The pilot: a simulated randomised experiment from which the baselines learn what offers do.

Everybody who can be reached is contacted at most once, at the start: with probability `CONTACTED` by one of the
allowed actions, uniformly, else not at all; then all are left alone. So the propensities are known, and what is
measured is the effect of one contact against none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import HOURS_PER_DAY, World
from churnsaver.errors import BadInput
from trainers.env.dynamics import Campaign
from trainers.env.params import DynamicsParams
from trainers.env.population import Population
from trainers.env.simulate import draw_actions

CUSTOMERS = 40_000  # at most; of a small population each is drawn no more than
DRAWS_EACH = 20  # times on average, since the same few customers teach no more
CONTACTED = 0.75
UNLIMITED_CENTS = 10**15


@dataclass(frozen=True, slots=True)
class Pilot:
    """What n randomised customers were, got and did.

    Attributes:
        observation: (n, features) float32, when the contact was decided.
        offer: (n,) the offer's number, -1 for nobody contacted.
        delay_hours, send_hour: (n,) wait, and local hour of the send; of the decision where nobody was contacted.
        propensity: (n,) with which the customer got their action.
        value_usd: (n,) the contact's net value against none: the simulator's shaped reward of that step, which is
            expected over whether the customer accepts, opts out and leaves (see `trainers.env.dynamics`).
        accepted: (n,) bool, as drawn.
        stayed: (n,) bool, still there at the end of the campaign, as drawn.
    """

    observation: NDArray[np.float32]
    offer: NDArray[np.int64]
    delay_hours: NDArray[np.float64]
    send_hour: NDArray[np.float64]
    propensity: NDArray[np.float64]
    value_usd: NDArray[np.float64]
    accepted: NDArray[np.bool_]
    stayed: NDArray[np.bool_]


def run_pilot(world: World, params: DynamicsParams, population: Population, seed: int) -> Pilot:
    """Randomises customers drawn with replacement from those of `population` who can be reached.

    Raises:
        BadInput: nobody can be reached.
    """
    rng = np.random.default_rng([seed, 5])
    reachable = np.flatnonzero(population.consent)
    if not reachable.size:
        raise BadInput("no customer consents to a channel, so no baseline can be fitted; add customers who do")
    customers = min(CUSTOMERS, DRAWS_EACH * len(reachable))
    drawn = population.take(rng.choice(reachable, size=customers))
    campaign = Campaign(world, params, drawn, UNLIMITED_CENTS, int(rng.integers(2**62)))
    seen = campaign.situation
    probabilities = assignment(seen.allowed)
    actions = draw_actions(probabilities, rng.random(customers))
    outcome = campaign.step(actions)
    while not campaign.finished:
        campaign.step(np.full(customers, NO_CONTACT))
    rows = np.flatnonzero(seen.allowed[:, NO_CONTACT + 1 :].any(axis=1))
    offers, delays = _offers_and_delays(world)
    delay_hours = delays[actions[rows]]
    return Pilot(
        observation=seen.observation[rows],
        offer=offers[actions[rows]],
        delay_hours=delay_hours,
        send_hour=(seen.contact.local_hour_at_send[rows, 0] - world.delays_hours[0] + delay_hours) % HOURS_PER_DAY,
        propensity=probabilities[rows, actions[rows]],
        value_usd=outcome.reward_usd[rows],
        accepted=outcome.accepted[rows],
        stayed=campaign.active[rows],
    )


def _offers_and_delays(world: World) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each joint action: the offer's number, -1 for no contact, and the hours waited."""
    actions = ActionSpace(world).actions
    offers = np.array([world.offers.index(action.offer) if action.offer else -1 for action in actions])
    return offers, np.array([float(action.delay_hours) for action in actions])


def assignment(allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The experiment's probability of each action, (n, actions)."""
    contacts = allowed.astype(np.float64)
    contacts[:, NO_CONTACT] = 0.0
    probabilities: NDArray[np.float64] = CONTACTED * contacts / np.maximum(contacts.sum(axis=1, keepdims=True), 1.0)
    probabilities[:, NO_CONTACT] = 1.0 - probabilities.sum(axis=1)
    return probabilities


def columns(world: World, names: tuple[str, ...]) -> list[int]:
    """Where these features stand in an observation."""
    known = observation_names(world)
    return [known.index(name) for name in names]
