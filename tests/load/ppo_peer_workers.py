"""One training of one library, in a process of its own: a job as JSON on standard input, figures on the last line out.

All play `trainers.env` with the same customers and judge themselves in the same campaign. Clocks are CPU seconds
of one thread, for a busy machine bends wall time, and leave out the judging.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

import numpy as np
import torch

from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.settings import load_section, load_world
from trainers.env.dynamics import Campaign
from trainers.env.params import CONSTRAINTS, load_dynamics, load_soft_limits
from trainers.env.population import synthetic_population
from trainers.env.simulate import campaign_budget_cents, campaign_months, run_campaign

CUSTOMERS = 5_000
JUDGED_CUSTOMERS, JUDGE_SEED = 4_000, 99
GAMMA, GAE_LAMBDA, EPOCHS, HIDDEN = 0.99, 0.7, 4, [64, 64]
Job = dict[str, Any]
Probabilities = Callable[[Any, Any], Any]


class World:
    """The environment that all share, its limits and its customers."""

    def __init__(self) -> None:
        self.world, self.params, self.limits = load_world(), load_dynamics(), load_soft_limits()
        self.population = synthetic_population(self.world, self.params, CUSTOMERS, 42)
        self.judged = synthetic_population(self.world, self.params, JUDGED_CUSTOMERS, 43)
        self.limit = np.array([getattr(self.limits, name) for name in CONSTRAINTS])
        self.months = campaign_months(self.world)

    def judge(self, probabilities: Probabilities) -> dict[str, Any]:
        """What a policy brings in the judges' campaign: net value, and costs as shares of their limits."""
        policy = types.SimpleNamespace(probabilities=probabilities)
        result = run_campaign(self.world, self.params, self.judged, policy, JUDGE_SEED)
        shares = result.costs.mean(axis=0) / self.months / self.limit
        return {
            "value_usd": float(result.gain_usd.mean()),
            "of_limit": dict(zip(CONSTRAINTS, shares.tolist(), strict=True)),
        }


class Clock:
    """CPU and wall seconds of the work, without what is measured inside `paused`."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    @property
    def cpu_s(self) -> float:
        return time.process_time() - self._cpu

    @property
    def wall_s(self) -> float:
        return time.perf_counter() - self._wall

    @contextmanager
    def paused(self) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self._cpu += time.process_time() - cpu
        self._wall += time.perf_counter() - wall


class Recorder:
    """Laps of iterations and, every so often, what the policy is worth by then; ends the training in time."""

    def __init__(self, job: Job, world: World) -> None:
        self.clock, self._job, self._world = Clock(), job, world
        self.laps: list[tuple[float, float]] = []
        self.curve: list[dict[str, Any]] = []

    def lap(self, probabilities: Callable[[], Probabilities]) -> bool:
        """After an iteration; whether to go on."""
        self.laps.append((self.clock.cpu_s, self.clock.wall_s))
        every = self._job.get("judge_every")
        if every and len(self.laps) % every == 0:
            with self.clock.paused():
                judged = self._world.judge(probabilities())
            self.curve.append({"cpu_s": self.clock.cpu_s, "wall_s": self.clock.wall_s, **judged})
        return self.clock.cpu_s < self._job.get("cpu_s", np.inf) and len(self.laps) < self._job.get("iterations", 10**9)

    def figures(self) -> dict[str, Any]:
        # The first lap pays for imports and allocations.
        cpu_s, wall_s = np.median(np.diff(self.laps, axis=0), axis=0) if len(self.laps) > 1 else (np.nan, np.nan)
        samples = self._job["envs"] * self._job["steps"]
        return {
            "samples_per_cpu_s": samples / cpu_s,
            "samples_per_wall_s": samples / wall_s,
            "iterations": len(self.laps),
            "curve": self.curve,
        }


class Enough(Exception):
    """The training has run as long as it may."""


def ours(job: Job) -> dict[str, Any]:
    """`trainers.agents.ppo_policy`; "matched" learns from every row in as large batches as SB3."""
    from trainers.agents.networks import Critic
    from trainers.agents.ppo_policy import Learner, new_learner, train_ppo
    from trainers.agents.settings import PpoSettings, Preset
    from trainers.agents.settle import ActorPolicy

    shared, settings = World(), load_section("ppo", PpoSettings)
    if job.get("matched"):
        settings = settings.model_copy(update={"idle_share": 1.0, "target_kl": 1e9, "epochs": EPOCHS})
        assert list(settings.hidden_sizes) == HIDDEN
        settings = settings.model_copy(update={"minibatches": job["envs"] * job["steps"] // job["batch"]})
    preset = Preset(customers=job["envs"], iterations=job["planned"])
    arguments = (shared.world, shared.params, shared.limits, shared.population, settings, preset, job["seed"])
    learner = new_learner(*arguments)
    if job.get("same_network"):  # SB3 has no cost critics: ours shrink to next to nothing
        learner.network.cost_critic = Critic(len(observation_names(shared.world)), (1,), len(CONSTRAINTS))
        adam = torch.optim.Adam(learner.network.parameters(), eps=1e-5, fused=True)
        learner = dataclasses.replace(learner, optimizer=adam)
    recorder = Recorder(job, shared)

    def on_iteration(learner: Learner) -> None:
        if not recorder.lap(lambda: ActorPolicy(learner.network.with_actor(learner.averaged).actor).probabilities):
            raise Enough

    with suppress(Enough):
        train_ppo(*arguments, on_iteration, learner)
    return recorder.figures()


def sb3(job: Job) -> dict[str, Any]:  # noqa: C901 - its classes need the library
    """Stable-Baselines3's PPO, which has neither masks nor constraints: refused actions contact nobody, costs are
    penalties at fixed prices."""
    import stable_baselines3 as sb
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

    from trainers.env.vector_env import RetentionVectorEnv

    shared = World()

    class Customers(VecEnv):
        """`RetentionVectorEnv` as SB3 wants it: all customers end, and begin anew, together."""

        def __init__(self) -> None:
            self.campaigns = RetentionVectorEnv(shared.world, shared.params, shared.population, job["envs"])
            super().__init__(job["envs"], self.campaigns.single_observation_space, self.campaigns.single_action_space)
            self._next_seed: int | None = job["seed"]
            self._prices = job.get("price_usd", 0.0) / (shared.limit * shared.months)

        def reset(self) -> Any:
            observation, _ = self.campaigns.reset(seed=self._next_seed)
            self._next_seed, self._step = None, 0
            return observation

        def step_async(self, actions: Any) -> None:
            self._actions = actions

        def step_wait(self) -> Any:
            observation, reward, _, _, info = self.campaigns.step(self._actions)
            reward = reward - info["expected_costs"] @ self._prices
            self._step += 1
            ended = self._step == job["steps"]
            infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
            if ended:
                for row, one in enumerate(infos):
                    one["terminal_observation"] = observation[row]
                observation = self.reset()
            return observation, reward.astype(np.float32), np.full(self.num_envs, ended), infos

        def close(self) -> None: ...

        def get_attr(self, attr_name: str, indices: Any = None) -> Any:
            return [getattr(self, attr_name, None)] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any: ...

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> Any:
            return [False] * self.num_envs

    environment: Any = Customers()
    if normalised := job.get("normalised", False):
        environment = VecNormalize(environment, gamma=GAMMA)
    rate = job.get("learning_rate", 3e-3)
    model = sb.PPO(
        "MlpPolicy",
        environment,
        n_steps=job["steps"],
        batch_size=job["batch"],
        n_epochs=EPOCHS,
        gamma=GAMMA,
        gae_lambda=GAE_LAMBDA,
        learning_rate=lambda remaining: rate * remaining,
        ent_coef=job.get("entropy", 0.02),
        policy_kwargs={"net_arch": {"pi": HIDDEN, "vf": HIDDEN}},
        device="cpu",
        seed=job["seed"],
    )
    with torch.no_grad():  # the same start as ours: 1 in 10 is contacted
        model.policy.action_net.bias[0] = np.log(9.0 * (environment.action_space.n - 1))
    recorder = Recorder(job, shared)

    def probabilities(observation: Any, _: Any) -> Any:
        seen = environment.normalize_obs(observation) if normalised else observation
        with torch.no_grad():
            return model.policy.get_distribution(torch.from_numpy(seen)).distribution.probs.numpy().astype(float)

    class Laps(BaseCallback):
        began = False

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if self.began and not recorder.lap(lambda: probabilities):
                raise Enough
            self.began = True

    with suppress(Enough):
        model.learn(job["planned"] * job["envs"] * job["steps"], Laps())
    return recorder.figures()


def omnisafe(job: Job) -> dict[str, Any]:
    """OmniSafe's PPOLag. It knows continuous actions and one cost only, so the policy is a Gaussian utility for each
    joint action, of which the best allowed is taken, and the constraint is the one that the job names."""
    # Its physics tasks are imported with it and need MuJoCo of 2023; none of them is played here.
    sys.modules.setdefault("safety_gymnasium", types.ModuleType("safety_gymnasium"))
    import gymnasium
    import omnisafe as omni
    from omnisafe.envs.core import CMDP, env_register

    shared = World()
    n_actions, n_features = len(ActionSpace(shared.world)), len(observation_names(shared.world))
    # With standard normal utilities of 20 contacts, this much for none lets about 1 in 10 be contacted.
    ahead, constrained = 3.3, CONSTRAINTS.index(job["constraint"])
    recorder = Recorder(job, shared)
    totals: list[Any] = []

    def choose(utilities: Any, allowed: Any) -> Any:
        utilities = utilities.copy()
        utilities[:, 0] += ahead
        return np.where(allowed, utilities, -np.inf).argmax(axis=1)

    @env_register
    class Customers(CMDP):
        need_time_limit_wrapper = False
        need_auto_reset_wrapper = False
        _support_envs = ("ChurnSaver-v0",)

        def __init__(self, env_id: str, num_envs: int = 1, **_: Any) -> None:
            super().__init__(env_id)
            self._num_envs = num_envs
            self._action_space = gymnasium.spaces.Box(-10.0, 10.0, (n_actions,), np.float32)
            self._observation_space = gymnasium.spaces.Box(-10.0, 10.0, (n_features,), np.float32)
            self.set_seed(job["seed"])

        def set_seed(self, seed: int) -> None:
            self._rng = np.random.default_rng(seed)

        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            rows = self._rng.integers(CUSTOMERS, size=self._num_envs)
            budget = campaign_budget_cents(shared.world, self._num_envs)
            self._campaign = Campaign(
                shared.world, shared.params, shared.population.take(rows), budget, int(self._rng.integers(2**62))
            )
            totals.append(np.zeros(1 + len(CONSTRAINTS)))
            return torch.from_numpy(self._campaign.situation.observation), {}

        def step(self, action: Any) -> Any:
            campaign = self._campaign
            outcome = campaign.step(choose(action.detach().numpy(), campaign.situation.allowed))
            totals[-1] += [outcome.reward_usd.mean(), *outcome.costs.mean(axis=0)]
            observation = torch.from_numpy(campaign.situation.observation)
            ended = torch.full((self._num_envs,), campaign.finished)
            cost = outcome.expected_costs[:, constrained] / (shared.limit[constrained] * shared.months)
            if campaign.finished:
                going_on = recorder.lap(lambda: lambda *_: None)
                observation, _ = self.reset()
                if not going_on:
                    raise Enough
            reward, price = (torch.from_numpy(x.astype(np.float32)) for x in (outcome.reward_usd, cost))
            return observation, reward, price, ended, torch.zeros_like(ended), {}

        def render(self) -> Any: ...

        def close(self) -> None: ...

    samples = job["envs"] * job["steps"]
    with tempfile.TemporaryDirectory() as logs:
        settings = {
            "seed": job["seed"],
            "train_cfgs": {
                "total_steps": samples * job["planned"],
                "vector_env_nums": job["envs"],
                "torch_threads": 1,
            },
            "algo_cfgs": {
                "steps_per_epoch": samples,
                "update_iters": EPOCHS,
                "batch_size": job["batch"],
                "gamma": GAMMA,
                "cost_gamma": GAMMA,
                "lam": GAE_LAMBDA,
                "lam_c": GAE_LAMBDA,
                "entropy_coef": 0.0,
            },
            "model_cfgs": {"actor": {"lr": job["learning_rate"]}, "critic": {"lr": job["learning_rate"]}},
            "lagrange_cfgs": {"cost_limit": 0.95, "lambda_lr": job["lambda_lr"]},
            "logger_cfgs": {"use_wandb": False, "use_tensorboard": False, "log_dir": logs},
        }
        with suppress(Enough):
            omni.Agent("PPOLag", "ChurnSaver-v0", custom_cfgs=settings).learn()
    value, *costs = np.mean(totals[-6:-1], axis=0)
    shares = np.array(costs) / shared.months / shared.limit
    return recorder.figures() | {
        "last_campaigns": {"value_usd": value, "of_limit": dict(zip(CONSTRAINTS, shares.tolist(), strict=True))}
    }


def main() -> None:
    """Runs the job of standard input."""
    job = json.load(sys.stdin)
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # what torch imports late is on nobody's clock
    with redirect_stdout(sys.stderr):
        figures = {"ours": ours, "sb3": sb3, "omnisafe": omnisafe}[job["library"]](job)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
