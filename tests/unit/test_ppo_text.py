"""PPO on texts on a tiny random model: what is computed, and that it learns, repeats and goes on."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from churnsaver.domain.message import Brief
from churnsaver.errors import BadInput, SettingsError
from churnsaver.settings import load_world, parse
from tests.support.text_training import (
    BRIEFS,
    Anything,
    Judge,
    Vowels,
    short_settings,
    tiny_learner,
    tiny_policy,
    vowel_earnings,
)
from trainers.rlhf.examples import WrittenMessage
from trainers.rlhf.kl_control import KlController, KlSettings
from trainers.rlhf.over_optimisation import Check, StopSettings, over_optimised
from trainers.rlhf.ppo_text import Learner, minibatch_loss, train_ppo_text, update
from trainers.rlhf.ppo_text_resume import STATE, restore_learner, save_learner
from trainers.rlhf.ppo_text_settings import PpoTextSettings, Preset
from trainers.rlhf.rollout import grounded, roll_out, token_advantages, token_rewards
from trainers.rlhf.text_policy import TextPolicy, Tokens, sample
from trainers.rlhf.text_reward import Earnings, ShieldFilter, length_bands

KL = KlSettings(coefficient=0.6, target=1.0, horizon=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny") / "model"


def moved(policy: TextPolicy, by: float = 0.3) -> TextPolicy:
    """The policy with an adapter that says something."""
    generator = torch.Generator().manual_seed(5)
    for parameter in policy.trainable():
        parameter.data += by * torch.randn(parameter.shape, generator=generator)
    return policy


def trained(folder: Path, settings: PpoTextSettings, iterations: int, **arguments: Any) -> Learner:
    learner, writer = tiny_learner(folder, settings)
    given: dict[str, Any] = {
        "judge": Judge(),
        "seed": 7,
        "preset": Preset(iterations=iterations, drafts=16),
    } | arguments
    train_ppo_text(learner, writer, BRIEFS, BRIEFS, vowel_earnings(settings), settings=settings, **given)
    return learner


def weights(learner: Learner) -> bytes:
    held = [*learner.policy.adapter().values(), *learner.policy.value_head.state_dict().values()]
    return b"".join(tensor.numpy().tobytes() for tensor in held)


# -- the policy ----------------------------------------------------------------------------------------


def test_padding_changes_no_log_probability(folder: Path) -> None:
    """A draft has the same scores alone, and beside longer prompts and drafts."""
    policy = moved(tiny_policy(folder)[0])
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15], [20] * 12]
    drafts = [[30, 31, 32, 33, 34], [40, 41], [50, 51, 52]]
    with torch.no_grad():
        together = policy(Tokens.of(prompts, drafts, policy.pad_id, policy.device))
        for row, (prompt, draft) in enumerate(zip(prompts, drafts, strict=True)):
            alone = policy(Tokens.of([prompt], [draft], policy.pad_id, policy.device))
            for name in ("log_probs", "entropy", "values"):
                padded = getattr(together, name)[row, : len(draft)]
                torch.testing.assert_close(padded, getattr(alone, name)[0], atol=1e-5, rtol=1e-5)


def test_log_probabilities_are_the_models_own(folder: Path) -> None:
    """Against the whole model's logits, computed the plain way."""
    policy = moved(tiny_policy(folder)[0])
    prompt, draft = [5, 6, 7, 8], [30, 31, 32]
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([prompt + draft])).logits[0].log_softmax(-1)
        expected = torch.stack([logits[len(prompt) - 1 + i, token] for i, token in enumerate(draft)])
        found = policy(Tokens.of([prompt], [draft], policy.pad_id, policy.device)).log_probs[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lowest", [0, 1])
def test_what_all_passes_have_in_common_is_computed_once(folder: Path, lowest: int) -> None:
    """Scores from kept states are those from token ids, for policy and reference, whatever rows are taken."""
    policy = moved(tiny_policy(folder, lowest)[0])
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15], [20] * 12]
    tokens = Tokens.of(prompts, [[30, 31, 32, 33, 34], [40, 41], [50, 51, 52]], policy.pad_id, policy.device)
    kept = grounded(policy, tokens, micro_batch=2)
    assert kept.below is not None
    rows = torch.tensor([1, 0])
    for wearing in (nullcontext(), policy.as_reference()):
        with torch.no_grad(), wearing:
            expected, found = policy(tokens.take(rows)), policy(kept.take(rows))
        written = kept.take(rows).draft_mask
        torch.testing.assert_close(found.log_probs[written], expected.log_probs[written], atol=1e-5, rtol=1e-5)
    states = policy.trunk(input_ids=torch.tensor([prompts[0]]), output_hidden_states=True).hidden_states[lowest]
    torch.testing.assert_close(kept.below[0, 9:12], states[0], atol=1e-5, rtol=1e-5)


def test_rows_of_a_batch_are_trimmed_without_change() -> None:
    tokens = Tokens.of([[1], [2, 3, 4]], [[5, 6], [7]], 0, "cpu")
    part = tokens.take(torch.tensor([0]))
    assert part.prompts.tolist() == [[1]]
    assert part.drafts.tolist() == [[5, 6]]
    assert part.prompt_mask.all()
    assert tokens.draft_mask.tolist() == [[True, True], [True, False]]


def test_the_reference_stays_what_the_policy_began_as(folder: Path) -> None:
    policy, _ = tiny_policy(folder)
    tokens = Tokens.of([[5, 6, 7]], [[30, 31, 32]], policy.pad_id, policy.device)
    with torch.no_grad():
        before = policy(tokens).log_probs
        moved(policy)
        with policy.as_reference():
            reference = policy(tokens).log_probs
            assert not [name for name, one in policy.named_parameters() if one.requires_grad and "lora" in name]
        after = policy(tokens).log_probs
    assert torch.equal(reference, before)
    assert not torch.allclose(after, before)
    assert all("reference" not in name for name, one in policy.named_parameters() if one.requires_grad)


def test_sampling_draws_from_the_policy_and_stops_at_the_end(folder: Path) -> None:
    """Frequencies of the first token follow its probabilities; nothing is written after an end or beyond the limit."""
    policy, _ = tiny_policy(folder)
    prompt, n = [5, 6, 7, 8], 400
    with torch.no_grad():
        states = policy.trunk(input_ids=torch.tensor([prompt])).last_hidden_state[:, -1]
        probabilities = policy.head(states).softmax(-1)[0]
    likely = int(probabilities.argmax())
    policy.end_id = likely  # so that ends come
    limits = [3 + i % 4 for i in range(n)]
    drafts = sample(policy, [prompt] * n, limits, torch.Generator().manual_seed(1))
    share = sum(draft[0] == likely for draft in drafts) / n
    expected = float(probabilities[likely])
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    for draft, limit in zip(drafts, limits, strict=True):
        assert likely not in draft[:-1]
        assert draft[-1] == likely or len(draft) == limit
    assert len({len(draft) for draft in drafts if draft[-1] == likely}) > 1  # rows left the batch at several steps


def test_sampling_with_a_cache_follows_the_full_model(folder: Path) -> None:
    """At a temperature of almost 0 (a loud head), what is written is what the full forward pass likes best."""
    policy, _ = tiny_policy(folder)
    policy.head.weight.data *= 300.0
    policy.end_id = -1
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [20, 21]]
    drafts = sample(policy, prompts, [6, 3, 5], torch.Generator().manual_seed(1))
    for prompt, draft in zip(prompts, drafts, strict=True):
        written = list(prompt)
        for token in draft:
            with torch.no_grad():
                state = policy.trunk(input_ids=torch.tensor([written])).last_hidden_state[0, -1]
            assert int(policy.head(state).argmax()) == token
            written.append(token)


def test_a_pad_token_that_ends_texts_is_refused(folder: Path) -> None:
    policy, _ = tiny_policy(folder)
    with pytest.raises(ValueError, match="pads with its end of text"):
        TextPolicy(policy.model, pad_id=2, end_id=2)


# -- what tokens are owed ------------------------------------------------------------------------------


def test_the_score_comes_at_the_last_token_and_the_price_at_each() -> None:
    log_probs, reference = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.5, 2.5, 0.0]])
    mask = torch.tensor([[True, True, False]])
    rewards = token_rewards(log_probs, reference, torch.tensor([3.0]), mask, 0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 3.05, 0.0]]))


def test_advantages_are_those_of_the_definition() -> None:
    """Sums of λ-discounted errors, by two loops; with λ = 1 the return is the sum of what follows."""
    rng = np.random.default_rng(0)
    rewards, values = (torch.tensor(rng.normal(size=(2, 4)), dtype=torch.float32) for _ in range(2))
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    rewards = rewards * mask
    for gae_lambda in (0.9, 1.0):
        advantages, returns = token_advantages(rewards, values, mask, gae_lambda)
        for row, length in ((0, 4), (1, 2)):
            following = [*values[row, 1:length].tolist(), 0.0]
            errors = [float(rewards[row, t]) + following[t] - float(values[row, t]) for t in range(length)]
            expected = [sum(gae_lambda ** (u - t) * errors[u] for u in range(t, length)) for t in range(length)]
            assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-5)
            assert (advantages[row, length:] == 0).all()
            if gae_lambda == 1.0:
                assert float(returns[row, 0]) == pytest.approx(float(rewards[row, :length].sum()), abs=1e-5)


def test_the_reward_is_conservative_and_the_rules_are_no_preference() -> None:
    """Mean less k standard deviations, words outside the band, no end; what the rules stop earns the floor."""

    class Scores:
        def scores(self, briefs: Any, drafts: Any) -> Any:
            return np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 2.0], [9.0, 9.0], [-99.0, -99.0]])

    class NotTheFourth:
        def passes(self, brief: Brief, draft: str) -> bool:
            return draft != "forbidden words"

    settings = short_settings().reward.model_copy(
        update={"disagreement": 0.5, "word": 0.25, "no_end": 1.0, "floor": -5.0}
    )
    bands = {BRIEFS[0].channel: (2.0, 3.0)}
    drafts = ["two words", "one two three four five", "two words", "forbidden words", "two words"]
    earned = Earnings(Scores(), NotTheFourth(), bands, settings).of(
        [BRIEFS[0]] * 5, drafts, [True, True, False, True, True]
    )
    assert earned.reward.tolist() == [1.5, 1.5, 1.0, -5.0, -5.0]
    assert earned.passed.tolist() == [True, True, True, False, True]


def test_a_score_that_is_no_number_stops_training() -> None:
    class Broken:
        def scores(self, briefs: Any, drafts: Any) -> Any:
            return np.full((len(drafts), 2), np.nan)

    with pytest.raises(BadInput, match="no number"):
        Earnings(Broken(), Anything(), {}, short_settings().reward).of(BRIEFS[:1], ["a"], [True])


def test_the_filter_is_the_shields_rules() -> None:
    rules, brief = ShieldFilter.of(load_world()), BRIEFS[1]
    good = "Hi {first_name}, we would like to offer you {offer}, until {expiry}. {opt_out}"
    assert rules.passes(brief, good)
    assert not rules.passes(brief, good.replace("{opt_out}", ""))
    assert not rules.passes(brief, good + " Only $5!")


def test_the_length_band_is_of_the_approved_texts() -> None:
    approved = [WrittenMessage(brief=BRIEFS[0], text="word " * n) for n in range(1, 102)]
    assert length_bands(approved, short_settings().reward) == {BRIEFS[0].channel: pytest.approx((6.0, 96.0))}


# -- the update ----------------------------------------------------------------------------------------


def test_the_ratio_is_one_before_the_first_step(folder: Path) -> None:
    """The update computes the log-probabilities that the rollout did, whatever a minibatch is padded to."""
    settings = short_settings(epochs=1, minibatches=1, micro_batch=4)
    learner, writer = tiny_learner(folder, settings)
    moved(learner.policy)
    rollout = roll_out(writer, BRIEFS, vowel_earnings(settings), 0.1, 0.95, 5, learner.generator)
    _, (policy_loss, _, clipped, approx_kl) = minibatch_loss(learner.policy, rollout, torch.arange(12), settings)
    assert clipped == 0
    assert approx_kl == pytest.approx(0.0, abs=1e-6)
    assert policy_loss == pytest.approx(-float(rollout.advantages.sum()), abs=1e-3)
    assert float(rollout.kl().abs().max()) > 0.01  # moved, so the reference says otherwise


def test_minibatches_in_parts_have_the_gradient_of_the_whole(folder: Path) -> None:
    found = []
    for micro_batch in (3, 12):
        settings = short_settings(epochs=1, minibatches=1, micro_batch=micro_batch, max_grad_norm=1e9)
        learner, writer = tiny_learner(folder, settings)
        moved(learner.policy)
        rollout = roll_out(writer, BRIEFS, vowel_earnings(settings), 0.1, 0.95, 12, learner.generator)
        found.append(update(learner, rollout, settings))
    assert found[0].grad_norm == pytest.approx(found[1].grad_norm, rel=1e-4)
    assert found[0].grad_norm > 0


def test_a_diverged_training_says_so(folder: Path) -> None:
    settings = short_settings()
    learner, writer = tiny_learner(folder, settings)
    rollout = roll_out(writer, BRIEFS, vowel_earnings(settings), 0.1, 0.95, 12, learner.generator)
    broken = replace(rollout, advantages=rollout.advantages * math.nan)
    with pytest.raises(BadInput, match="lower learning_rate"):
        update(learner, broken, settings)


# -- training ------------------------------------------------------------------------------------------


def test_it_learns_what_pays_and_keeps_its_distance(folder: Path) -> None:
    """The reward rises, and the divergence stays within 20 % of its target once the price has found its level."""
    settings = short_settings(kl=KL, learning_rate=0.01, stop=short_settings().stop.model_copy(update={"every": 100}))
    learner = trained(folder, settings, 36, preset=Preset(iterations=36, drafts=64))
    history = learner.history
    first, last = history[:5], history[16:]
    assert np.mean([each.reward for each in last]) > np.mean([each.reward for each in first]) + 0.15
    assert np.mean([each.kl for each in last]) == pytest.approx(KL.target, rel=0.2)
    assert np.mean([each.kl_k3 for each in last]) == pytest.approx(KL.target, rel=0.3)


def test_a_training_repeats_bitwise_and_goes_on_bitwise(folder: Path, tmp_path: Path) -> None:
    """Twice the same, and the same again after it was cut off: weights, figures, looks and luck."""
    settings, path, follows_from = short_settings(), tmp_path / STATE, {"--seed": "7"}

    class CutOff(Exception):
        pass

    def stop_after_three(learner: Learner) -> None:
        save_learner(path, learner, follows_from)
        if len(learner.history) == 3:
            raise CutOff

    whole = trained(folder, settings, 5)
    with pytest.raises(CutOff):
        trained(folder, settings, 5, on_iteration=stop_after_three)
    learner, writer = tiny_learner(folder, settings)
    restore_learner(path, learner, follows_from)
    assert len(learner.history) == 3
    given = (learner, writer, BRIEFS, BRIEFS, vowel_earnings(settings), Judge(), settings)
    train_ppo_text(*given, Preset(iterations=5, drafts=16), 7)
    again = trained(folder, settings, 5)
    assert weights(learner) == weights(whole) == weights(again)
    assert learner.history == whole.history == again.history
    assert learner.checks == whole.checks
    assert torch.equal(learner.generator.get_state(), whole.generator.get_state())

    with pytest.raises(BadInput, match="differs in --seed"):
        restore_learner(path, learner, {"--seed": "8"})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="truncated or altered"):
        restore_learner(path, learner, follows_from)
    with pytest.raises(BadInput, match="no training to resume"):
        restore_learner(tmp_path / "nothing", learner, follows_from)


def test_a_state_without_what_belongs_to_it_is_refused(folder: Path, tmp_path: Path) -> None:
    """Valid safetensors all of them: without a header, without what it follows from, of another shape."""
    learner, _ = tiny_learner(folder, short_settings())
    path = tmp_path / STATE
    save_learner(path, learner, {})
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    for held, said in (
        (tensors, None),
        (tensors, {name: value for name, value in header.items() if name != "follows_from"}),
        (tensors, header | {"follows_from": "[]"}),
        (tensors, header | {"history": '[{"number": 1}]'}),
        ({"generator": tensors["generator"]}, header),
    ):
        save_file(held, path, said)
        with pytest.raises(BadInput, match="is truncated or altered; leave out --resume to train anew"):
            restore_learner(path, learner, {})


def test_what_is_kept_was_looked_at(folder: Path) -> None:
    """At the start, every second iteration and after the last."""
    learner = trained(folder, short_settings(), 3)
    assert [check.iteration for check in learner.checks] == [0, 2, 3]
    assert all(torch.equal(one, learner.snapshots[-1][name]) for name, one in learner.policy.adapter().items())


def test_over_optimisation_stops_and_goes_back(folder: Path) -> None:
    """With a judge that dislikes what is paid for: training ends early, with the adapter from before the fall."""
    stop = StopSettings(every=2, briefs=48, window=4, standard_errors=0.0)
    settings = short_settings(learning_rate=0.02, stop=stop)
    learner = trained(folder, settings, 40, judge=Judge(-1.0), preset=Preset(iterations=40, drafts=48))
    assert learner.stopped
    assert len(learner.history) < 40
    kept = learner.snapshots[1]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in learner.policy.adapter().items())
    assert any(not torch.equal(tensor, learner.snapshots[-1][name]) for name, tensor in kept.items())


def looks(*pairs: tuple[float, float]) -> list[Check]:
    return [Check(5 * i, proxy, judge, 0.1) for i, (proxy, judge) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        (looks((0, 2), (1, 2), (2, 1), (3, 1)), True),
        (looks((0, 2), (1, 2), (2, 2.1), (3, 2)), False),  # the judge agrees
        (looks((3, 2), (2, 2), (1, 1), (0, 1)), False),  # both fall: no proxy is gamed
        (looks((0, 2), (1, 2), (2, 1.95), (3, 1.95)), False),  # by less than chance
        (looks((1, 2), (2, 1), (3, 1)), False),  # too few looks
    ],
)
def test_what_over_optimisation_is(checks: list[Check], expected: bool) -> None:
    settings = StopSettings(every=5, briefs=8, window=4, standard_errors=1.0)
    assert over_optimised(checks, settings) is expected


# -- the price of divergence ---------------------------------------------------------------------------


def test_the_controller_finds_the_price_of_its_target() -> None:
    """In a world where KL is 3 / price, from both sides; one odd batch moves it by little."""
    for start in (0.01, 10.0):
        controller = KlController(KlSettings(coefficient=start, target=6.0, horizon=480))
        for _ in range(400):
            controller.update(3.0 / controller.coefficient, 48)
        assert 3.0 / controller.coefficient == pytest.approx(6.0, rel=0.02)
        before = controller.coefficient
        controller.update(1e9, 48)
        assert controller.coefficient < 1.03 * before


def test_a_horizon_shorter_than_the_texts_moves_the_price_by_a_fifth() -> None:
    """Neither beyond all numbers nor to 0, where it would stay."""
    controller = KlController(KlSettings(coefficient=0.15, target=3.0, horizon=0.01))
    controller.update(9.0, 96)
    assert controller.coefficient == pytest.approx(0.15 * math.exp(0.2))
    for _ in range(20):
        controller.update(0.0, 96)
    assert controller.coefficient == pytest.approx(0.15 * math.exp(-0.2 * 19))


@pytest.mark.parametrize("field", ["target", "horizon"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "0", "0e0", "nan", "-3.0e0"])  # YAML reads some as text
def test_a_target_or_horizon_that_would_run_away_is_refused(field: str, value: float | str) -> None:
    document = KL.model_dump() | {field: value}
    with pytest.raises(SettingsError, match=rf"{field}: a (target KL|KL horizon) of {float(value):g} .*expected"):
        parse(KlSettings, document, Path("ppo_text.yaml"))


def test_vowels_are_scored_by_three_members() -> None:
    """The tests' own reward: what they learn is there to be learned."""
    scores = Vowels().scores(BRIEFS[:2], ["aaaa", "zzzz"])
    assert scores.shape == (2, 3)
    assert scores[0].mean() == pytest.approx(10.0)
    assert scores[1].mean() == pytest.approx(0.0)
