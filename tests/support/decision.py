"""Real checkpoints for a decision service: quickly trained models, and a small linear policy as ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from churnsaver.checkpoints import Checkpoint, open_checkpoint, write_checkpoint
from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.domain.schema import Scalar
from churnsaver.domain.world import World
from churnsaver.models.baselines import BASELINES
from churnsaver.models.policy import POLICY_KIND, POLICY_ONNX, POLICY_SPEC, OnnxPolicy, PolicySpec
from churnsaver.rpc.attributes import attribute_values
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as pb
from churnsaver.settings import load_schema, load_world
from services.decision.models import KINDS
from tests.support.baselines import small_bundle
from trainers.data import load_dataset
from trainers.data.simulate import simulate_population
from trainers.env.contact_log import simulate_contact_log
from trainers.env.params import load_dynamics
from trainers.models.accept import train_accept
from trainers.models.boost import BoostSettings
from trainers.models.risk import train_risk

TINY = BoostSettings(depths=(2,), max_rounds=40, patience=5)
SCHEMAS = Path("configs/schemas")
# A customer of schema `default` who is no real one.
CUSTOMER: dict[str, Scalar] = {
    "contract": "month_to_month",
    "plan": "plus",
    "payment": "card",
    "tenure_months": 3.0,
    "monthly_usd": 50.0,
    "usage_gb": 20.0,
    "usage_trend": -0.4,
    "support_calls_90d": 3.0,
    "late_payments_12m": 0.0,
    "app_days_30d": 12.0,
    "satisfaction": None,
}


def write_checkpoints(folder: Path) -> Path:
    """Risk, acceptance and policy checkpoints for the world of `configs/env.yaml` under `folder`."""
    world = load_world()
    population = simulate_population(1500, 42)
    customers_csv, contacts_csv = folder / "customers.csv", folder / "contacts.csv"
    population.customers.write_csv(customers_csv)
    frame = population.customers
    simulate_contact_log(
        world,
        load_dynamics(),
        population.remembered_risk(42),
        frame["monthly_usd"].to_numpy(),
        frame["tenure_months"].cast(float).to_numpy(),
        3000,
        42,
    ).write_csv(contacts_csv)
    customers = load_dataset(customers_csv, load_schema(SCHEMAS / "default.yaml"))
    contacts = load_dataset(contacts_csv, load_schema(SCHEMAS / "contacts.yaml"))
    train_risk(customers, world, folder / "risk", TINY, 42)
    train_accept(contacts, world, folder / "acceptance", TINY, 42)
    write_policy(world, folder / "policy")
    return folder


def open_all(folder: Path) -> dict[str, Checkpoint]:
    """The checkpoints that `write_checkpoints` wrote, by kind."""
    return {kind: open_checkpoint(folder / kind, kind) for kind in KINDS}


def write_policy(world: World, out: Path) -> None:
    """A policy whose logits are linear in the observation, with seeded weights."""
    labels, names = tuple(ActionSpace(world).labels), tuple(observation_names(world))
    weights = np.random.default_rng(7).normal(size=(len(names), len(labels))).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["observation", "weights"], ["logits"])],
        "linear_policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["n", len(names)])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(labels)])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model_bytes: bytes = model.SerializeToString()
    onnx.checker.check_model(model)
    spec = PolicySpec(action_labels=labels, observation_names=names, multipliers={"spend_usd": 0.5}, limits={})
    observation = np.linspace(-1.0, 1.0, len(names), dtype=np.float32)[None, :]
    allowed = np.arange(len(labels))[None, :] % 3 != 1
    case = {
        "observation": observation[0].tolist(),
        "allowed": allowed[0].tolist(),
        "probabilities": OnnxPolicy(model_bytes, spec).probabilities(observation, allowed)[0].tolist(),
    }
    files = {
        POLICY_ONNX: model_bytes,
        POLICY_SPEC: spec.model_dump_json().encode(),
        "golden.json": json.dumps({"cases": [case]}).encode(),
        BASELINES: small_bundle(world),
    }
    write_checkpoint(out, POLICY_KIND, files, seed=42, metrics={})


def decide_request(
    seed: int = 42, policy: pb.PolicyName.ValueType = pb.POLICY_NAME_UNSPECIFIED, **attributes: Scalar
) -> pb.DecideRequest:
    """CUSTOMER, rested, on a weekday morning; `attributes` replace theirs."""
    return pb.DecideRequest(
        attributes=attribute_values({**CUSTOMER, **attributes}),
        contact=pb.ContactState(
            consent=True,
            hours_since_contact=[400.0],
            local_hour_at_send=[10.0, 16.0, 22.0, 10.0],
            contact_cost_cents=5,
            budget_left_cents=2_500_000,
            budget_cents=5_000_000,
        ),
        seed=seed,
        policy=policy,
    )
