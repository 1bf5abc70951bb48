"""PPO on texts, from top to bottom.

Ziegler et al. 2019 and Ouyang et al. 2022 ("InstructGPT") with the details that matter (Huang et al. 2024, "The N+
Implementation Details of RLHF with PPO", https://arxiv.org/abs/2403.17031): per-token KL penalty in the reward, what
the draft earned at its last token alone, rewards whitened without their mean, advantages standardised, GAE without
discount, clipped policy and value loss, no dropout, Adam with ε = 1e-5, learning rate annealed to 0, clipped
gradients, prompts padded on the left. The policy is a LoRA adapter, and the reference the same base with the adapter
that it began as; the value head stands on the policy's own trunk, so its loss has a small weight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from churnsaver.domain.message import Brief
from churnsaver.errors import BadInput
from trainers.rlhf.kl_control import KlController
from trainers.rlhf.over_optimisation import Check, StopSettings, over_optimised
from trainers.rlhf.ppo_text_settings import PpoTextSettings, Preset
from trainers.rlhf.rollout import Rollout, Writer, by_length, roll_out
from trainers.rlhf.text_policy import TextPolicy
from trainers.rlhf.text_reward import Earnings
from trainers.rlhf.win_rate import Scorer


@dataclass(frozen=True, slots=True)
class Updated:
    """What an update did: means over its minibatches."""

    policy_loss: float
    value_loss: float
    clip_fraction: float
    approx_kl: float
    grad_norm: float


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration measured on its own drafts, before its update.

    Attributes:
        reward: mean of what drafts earned, the KL penalty aside; the proxy.
        conservative, disagreement: of the ensemble, see `text_reward.Earned`.
        passed, ended: shares of drafts.
        kl, kl_k3: from the reference in nats a text, by two estimators.
        kl_coefficient: the price of a nat.
        entropy: mean in nats a token.
        tokens: mean length.
        explained_variance: share of the returns' variance that the value head foresaw, at most 1.
        policy_loss, value_loss, clip_fraction, approx_kl, grad_norm: see `Updated`.
    """

    number: int
    reward: float
    conservative: float
    disagreement: float
    passed: float
    ended: float
    kl: float
    kl_k3: float
    kl_coefficient: float
    entropy: float
    tokens: float
    explained_variance: float
    policy_loss: float
    value_loss: float
    clip_fraction: float
    approx_kl: float
    grad_norm: float


@dataclass(slots=True)
class Learner:
    """All that training changes, and so all that a resumed run must have back.

    Attributes:
        rng: draws briefs and minibatches.
        generator: draws tokens.
        history: of iterations.
        checks: looks at held-out briefs.
        snapshots: the adapter at each of the last looks, newest last.
        stopped: whether it was over-optimising; `policy` then is as it was before.
        seconds: that training took so far.
        peak_memory_gb: the most that it held so far, in 10⁹ bytes.
    """

    policy: TextPolicy
    optimizer: torch.optim.Adam
    controller: KlController
    rng: np.random.Generator
    generator: torch.Generator
    history: list[Iteration] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    snapshots: list[dict[str, Tensor]] = field(default_factory=list)
    stopped: bool = False
    seconds: float = 0.0
    peak_memory_gb: float = 0.0


def new_learner(policy: TextPolicy, settings: PpoTextSettings, seed: int) -> Learner:
    """A learner that has learned nothing yet."""
    torch.set_num_threads(settings.threads)
    adapter = [parameter for name, parameter in policy.named_parameters() if parameter.requires_grad and "lora" in name]
    groups = [
        {"params": adapter, "lr": settings.learning_rate, "initial_lr": settings.learning_rate},
        {
            "params": list(policy.value_head.parameters()),
            "lr": settings.value_learning_rate,
            "initial_lr": settings.value_learning_rate,
        },
    ]
    return Learner(
        policy=policy,
        optimizer=torch.optim.Adam(groups, eps=1e-5),
        controller=KlController(settings.kl),
        rng=np.random.default_rng(seed),
        generator=torch.Generator(device=policy.device).manual_seed(seed),
    )


def train_ppo_text(
    learner: Learner,
    writer: Writer,
    briefs: Sequence[Brief],
    held_out: Sequence[Brief],
    earnings: Earnings,
    judge: Scorer,
    settings: PpoTextSettings,
    preset: Preset,
    seed: int,
    on_iteration: Callable[[Learner], None] = lambda _: None,
) -> None:
    """Trains the learner to the end of the preset, or until it over-optimises.

    Args:
        writer: writes with the learner's policy.
        briefs: to write for in training.
        held_out: looked at only, to tell over-optimisation.
        on_iteration: called after each iteration, whose figures are the last of the learner's history.

    Raises:
        BadInput: a loss is no number.
    """
    # Briefs come in the order of their scenarios; the first of them would be of some segments only.
    order = np.random.default_rng(seed).permutation(len(held_out))
    looked_at = [held_out[i] for i in np.resize(order, settings.stop.briefs).tolist()]
    if not learner.history:
        look(learner, writer, looked_at, earnings, judge, settings.stop, seed)
    for number in range(len(learner.history) + 1, preset.iterations + 1):
        if learner.stopped:
            break
        begun = time.monotonic()
        remaining = 1.0 - (number - 1) / preset.iterations
        for group in learner.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * remaining
        drawn = [briefs[i] for i in learner.rng.choice(len(briefs), preset.drafts, replace=len(briefs) < preset.drafts)]
        coefficient = learner.controller.coefficient
        rollout = roll_out(
            writer, drawn, earnings, coefficient, settings.gae_lambda, settings.micro_batch, learner.generator
        )
        learner.controller.update(float(rollout.kl().mean()), len(drawn))
        updated = update(learner, rollout, settings)
        learner.history.append(_iteration(number, rollout, updated, coefficient))
        if number % settings.stop.every == 0 or number == preset.iterations:  # what is kept was looked at
            look(learner, writer, looked_at, earnings, judge, settings.stop, seed)
        learner.seconds += time.monotonic() - begun
        on_iteration(learner)


def look(
    learner: Learner,
    writer: Writer,
    briefs: Sequence[Brief],
    earnings: Earnings,
    judge: Scorer,
    settings: StopSettings,
    seed: int,
) -> None:
    """Writes for held-out briefs, with the same luck each time; goes back and stops where it over-optimised."""
    drafts = writer.write(briefs, torch.Generator(device=learner.policy.device).manual_seed(seed))
    judged = judge.score(drafts.briefs, drafts.texts)
    learner.checks.append(
        Check(
            iteration=len(learner.history),
            proxy=float(earnings.of(drafts.briefs, drafts.texts, drafts.ended).reward.mean()),
            judge=float(judged.mean()),
            judge_error=float(judged.std(ddof=1) / np.sqrt(len(judged))),
        )
    )
    learner.snapshots = [*learner.snapshots, learner.policy.adapter()][-settings.window :]
    if over_optimised(learner.checks, settings):
        learner.stopped = True
        learner.policy.put_adapter(learner.snapshots[settings.window // 2 - 1])  # the last before the fall


def update(learner: Learner, rollout: Rollout, settings: PpoTextSettings) -> Updated:
    """Some epochs of clipped updates on one rollout, by minibatches of whole drafts."""
    parameters = learner.policy.trainable()
    lengths = rollout.drafts.lengths
    figures: list[list[float]] = []
    for _ in range(settings.epochs):
        for rows in np.array_split(learner.rng.permutation(len(lengths)), settings.minibatches):
            tokens = float(rollout.mask[torch.from_numpy(rows)].sum())
            learner.optimizer.zero_grad()
            sums = np.zeros(4)
            for part in by_length(rows, lengths, settings.micro_batch):
                loss, measured = minibatch_loss(learner.policy, rollout, part, settings)
                (loss / tokens).backward()  # type: ignore[no-untyped-call]
                sums += measured
            norm = float(nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm))
            if not np.isfinite(norm):
                raise BadInput(
                    "ppo_text.yaml: training diverged (a gradient is no number); lower learning_rate, or raise "
                    "kl.coefficient"
                )
            learner.optimizer.step()
            figures.append([*(sums / tokens), norm])
    return Updated(*np.mean(figures, axis=0).tolist())


def minibatch_loss(
    policy: TextPolicy, rollout: Rollout, rows: Tensor, settings: PpoTextSettings
) -> tuple[Tensor, list[float]]:
    """The loss of some drafts, summed over their tokens, and sums of policy and value loss, clipped, approximate KL."""
    tokens = rollout.drafts.tokens.take(rows)
    scores, mask = policy(tokens), tokens.draft_mask
    width = mask.shape[1]
    advantages, returns = rollout.advantages[rows, :width], rollout.returns[rows, :width]
    old_log_probs, old_values = rollout.log_probs[rows, :width], rollout.values[rows, :width]

    log_ratio = (scores.log_probs - old_log_probs) * mask
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - settings.clip_epsilon, 1.0 + settings.clip_epsilon)
    policy_loss = -(torch.min(ratio * advantages, clipped * advantages) * mask).sum()

    moved = old_values + (scores.values - old_values).clamp(-settings.value_clip, settings.value_clip)
    errors = torch.max((scores.values - returns).square(), (moved - returns).square())
    value_loss = 0.5 * (errors * mask).sum()

    with torch.no_grad():
        outside = (((ratio - 1.0).abs() > settings.clip_epsilon) * mask).sum()
        approx_kl = (((ratio - 1.0) - log_ratio) * mask).sum()
        measured = [float(each) for each in (policy_loss, value_loss, outside, approx_kl)]
    return policy_loss + settings.value_coefficient * value_loss, measured


def _iteration(number: int, rollout: Rollout, updated: Updated, coefficient: float) -> Iteration:
    mask, earned = rollout.mask, rollout.earned
    unexplained = (rollout.returns - rollout.values)[mask].var(correction=0)
    variance = rollout.returns[mask].var(correction=0).clamp(min=1e-12)
    return Iteration(
        number=number,
        reward=float(earned.reward.mean()),
        conservative=float(earned.conservative.mean()),
        disagreement=float(earned.disagreement.mean()),
        passed=float(earned.passed.mean()),
        ended=float(np.mean(rollout.drafts.ended)),
        kl=float(rollout.kl().mean()),
        kl_k3=float(rollout.kl_k3().mean()),
        kl_coefficient=coefficient,
        entropy=float(rollout.entropy[mask].mean()),
        tokens=float(np.mean(rollout.drafts.lengths)),
        explained_variance=1.0 - float(unexplained / variance),
        **asdict(updated),
    )
