"""The story of one decision, from attributes to a drawn action, top to bottom.

Nothing is kept between requests: the same request with the same seed and models gives the same answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from churnsaver.checkpoints.checkpoint import GOLDEN
from churnsaver.domain.actions import Action, ActionSpace
from churnsaver.domain.eligibility import (
    ContactState,
    Reason,
    contact_reservations_cents,
    mask_reasons,
    masked_offers,
)
from churnsaver.domain.money import expected_values_usd
from churnsaver.domain.observation import CustomerFeatures, observe
from churnsaver.domain.schema import Scalar
from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.models.baselines import Policy
from churnsaver.models.trees import RISK
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as pb
from services.decision.models import Models
from services.decision.requests import budget_fraction_left, read_attributes, read_contact

BASELINE_NAMES = {
    pb.POLICY_NAME_PROPENSITY: "propensity",
    pb.POLICY_NAME_UPLIFT_TREES: "uplift_trees",
    pb.POLICY_NAME_THOMPSON_SAMPLING: "thompson_sampling",
}


class Decider:
    """Decides in one world with one set of models.

    Attributes:
        versions: of the checkpoints, by kind.
        schema: what requests' attributes must follow.
    """

    def __init__(self, world: World, models: Models) -> None:
        self._world = world
        self._models = models
        self._actions = ActionSpace(world)
        self.schema = models.risk.schema
        self.versions = {kind: checkpoint.version for kind, checkpoint in models.checkpoints.items()}
        self._sha256 = {kind: checkpoint.sha256 for kind, checkpoint in models.checkpoints.items()}

    def decide(self, request: pb.DecideRequest) -> pb.DecideResponse:
        """Draws a joint action for one customer; BadInput names the field that cannot be used."""
        policy, version, multipliers = self._policy(request.policy)
        attributes = read_attributes(self._models.risk.schema, request)
        customer = self._features(attributes)
        contact = read_contact(self._world, request.contact, float(customer.monthly_usd[0]))

        reasons = mask_reasons(self._world, contact)  # (1, actions)
        fraction_left = np.array([budget_fraction_left(request.contact)])
        observation = observe(self._world, customer, contact, fraction_left)  # (1, features)
        probabilities = policy.probabilities(observation, reasons == Reason.ALLOWED)[0]
        action = self._actions[draw(probabilities, request.seed)]

        return pb.DecideResponse(
            action=action.index,
            contact=action.contact,
            offer=action.offer.id if action.offer else "",
            delay_hours=action.delay_hours,
            propensity=probabilities[action.index],
            risk=customer.risk[0],
            expected_value_usd=self._expected_value_usd(action, customer, contact),
            reserved_cents=contact_reservations_cents(self._world, contact)[0, action.index],
            mask_reasons=reasons[0].tobytes(),
            masked_offers=masked_offers(self._world, reasons[0]),
            observation=observation[0],
            multipliers=multipliers,
            versions=self.versions | {"policy": version},
            sha256=self._sha256,
        )

    @property
    def policies(self) -> list[pb.PolicyName.ValueType]:
        """Every policy that can be asked for."""
        held = (number for number, name in BASELINE_NAMES.items() if name in self._models.baselines)
        return [pb.POLICY_NAME_UNSPECIFIED, *held]

    def _policy(self, name: pb.PolicyName.ValueType) -> tuple[Policy, str, dict[str, float]]:
        """The policy that is asked for, its version and its multipliers; BadInput where it is not held."""
        champion = self.versions["policy"]
        if name == pb.POLICY_NAME_UNSPECIFIED:
            return self._models.policy, champion, self._models.policy.multipliers
        if name not in self.policies:
            known = ", ".join(map(pb.PolicyName.Name, self.policies))
            raise BadInput(f"policy is {name}, which {champion} does not hold; expected one of {known}")
        baseline = BASELINE_NAMES[name]
        return self._models.baselines[baseline], f"baseline-{baseline.replace('_', '-')}@{champion}", {}

    def golden_customers(self) -> list[dict[str, Scalar]]:
        """Attributes of the made-up customers of the risk checkpoint, for trying the models together."""
        return [case["attributes"] for case in self._models.checkpoints[RISK].read_json(GOLDEN)]

    def _features(self, attributes: dict[str, Scalar]) -> CustomerFeatures:
        """What the policy may know of a customer of any dataset: risk, charge, tenure, acceptance."""
        schema = self._models.risk.schema
        risk = self._models.risk.risk([attributes])
        monthly_usd = np.array([schema.monthly_usd(attributes)])
        tenure_months = np.array([schema.tenure_months(attributes)])
        acceptance = self._models.acceptance.acceptance(risk, monthly_usd, tenure_months)
        return CustomerFeatures(risk, monthly_usd, tenure_months, acceptance)

    def _expected_value_usd(self, action: Action, customer: CustomerFeatures, contact: ContactState) -> float:
        """Against doing nothing, so 0 for doing nothing."""
        if action.offer is None:
            return 0.0
        values = expected_values_usd(
            self._world, customer.risk, customer.monthly_usd, customer.acceptance, contact.contact_cost_cents
        )
        return float(values[0, self._world.offers.index(action.offer)])


def draw(probabilities: NDArray[np.float64], seed: int) -> int:
    """One action by inverting the cumulative `probabilities` (actions,) at a uniform number from PCG64.

    An action with probability zero is never drawn.
    """
    uniform = np.random.Generator(np.random.PCG64(seed)).random()
    cumulative = np.cumsum(probabilities)
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    # A product that rounds up to the whole would point past the last action that can be drawn.
    return min(index, int(np.flatnonzero(probabilities)[-1]))
