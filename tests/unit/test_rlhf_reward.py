"""The reward model on a tiny random encoder: it learns, comes back with its head, and scores alike without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from churnsaver.checkpoints import Manifest, open_checkpoint, write_checkpoint
from churnsaver.errors import BadInput, CheckpointError
from churnsaver.reward import PairEncoder, RewardModel, RewardShape
from churnsaver.settings import load_section, load_world
from tests.support.tiny_encoder import tiny_encoder
from tests.support.tiny_model import BRIEF, TEXTS, tiny_model
from trainers.rlhf.encoders import backend, check_positions, open_encoder, prepare_encoder
from trainers.rlhf.examples import Preference
from trainers.rlhf.lora import LoraSettings, new_adapter
from trainers.rlhf.reward_data import Pairs, bootstrap, of_like_length, tokenised
from trainers.rlhf.reward_evaluation import connected, evaluate, plots
from trainers.rlhf.reward_model import HEAD, REWARD_ADAPTERS, RmPreset, RmSettings, _trainer, train_rm
from trainers.rlhf.reward_scores import fitted_temperature, pair_scores, torch_scores
from trainers.rlhf.reward_serving import load_members, prepare_reward

BRIEFS = [BRIEF.model_copy(update={"offer": offer}) for offer in ("discount_10", "check_in", "bonus_pack")]
GOOD = [f"{start}{text}" for text in TEXTS for start in ("", "Hello! ", "Dear customer. ", "Good day. ")]
PAIRS = [
    Preference(brief=brief, chosen=text, rejected=f"Last chance! Act now! {text}", margin=0.5, kind="pushy")
    for brief in BRIEFS
    for text in GOOD
]
PAIRS += [
    Preference(brief=brief, chosen=text, rejected=text.replace("{opt_out}", "Act now!"), kind="non_compliant")
    for brief in BRIEFS
    for text in GOOD
]


@pytest.fixture
def settings() -> RmSettings:
    """rm.yaml for a model of two layers."""
    lora = LoraSettings(rank=4, alpha=8, dropout=0.0, modules=("query", "value"))
    small = {"lora": lora, "batch_size": 8, "learning_rate": 0.02, "save_every": 3}
    return load_section("rm", RmSettings).model_copy(update=small)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_encoder(tmp_path / "encoder")


@pytest.fixture
def train(tmp_path: Path, base: Path, settings: RmSettings) -> Callable[..., Manifest]:
    def train(name: str, pairs: Pairs | None = None, **options: Any) -> Manifest:
        found = pairs or Pairs(train=PAIRS[::2], valid=PAIRS[1::2], test=[])
        preset = RmPreset(pairs=None, epochs=3)
        return train_rm(base, found, load_world(), settings, preset, tmp_path / name, seed=42, command="…", **options)

    return train


def encoder_of(base: Path) -> PairEncoder:
    shape = RewardShape(members=3, max_tokens=192, purposes={o.id: o.purpose for o in load_world().offers})
    return PairEncoder(backend(open_encoder(base).tokenizer), shape)


def test_the_ensemble_learns_comes_back_and_is_served_alike(
    tmp_path: Path, base: Path, train: Callable[..., Manifest]
) -> None:
    manifest = train("rm")
    assert manifest.metrics["accuracy"] > 0.8
    assert manifest.gate is not None
    assert manifest.gate.passed

    # The classic trap: a head that is not saved comes back at random, and scores with it.
    adapters = open_checkpoint(tmp_path / "rm", REWARD_ADAPTERS)
    calibration, golden = adapters.read_json("calibration.json"), adapters.read_json("golden.json")
    encoder, texts = encoder_of(base), [case["text"] for case in golden]
    briefs = [type(BRIEF).model_validate(case["brief"]) for case in golden]
    for number, member in enumerate(load_members(adapters, base)):
        raw = torch_scores(member, encoder, 0, briefs, texts)
        found = (raw - calibration["centre"][number]) / calibration["temperature"][number]
        np.testing.assert_allclose(found, [case["scores"][number] for case in golden], atol=1e-4)

    served = prepare_reward(adapters, base, tmp_path / "served", "none")
    model = RewardModel.load(served)
    scores = model.scores(briefs, texts)
    np.testing.assert_allclose(scores, [case["scores"] for case in golden], atol=1e-3)  # torch against CTranslate2
    assert scores.std(axis=1).min() > 1e-4  # members differ
    alone = np.concatenate([model.scores([brief], [text]) for brief, text in zip(briefs, texts, strict=True)])
    np.testing.assert_allclose(alone, scores, atol=1e-4)  # whatever else is in the batch
    assert model.scores([None], ["Ten things"]).shape == (1, 3)

    before = (tmp_path / "served" / "manifest.json").stat().st_mtime_ns
    prepare_reward(adapters, base, tmp_path / "served", "none")
    assert (tmp_path / "served" / "manifest.json").stat().st_mtime_ns == before  # it is there


@pytest.mark.stack
def test_a_training_that_was_cut_off_goes_on_where_it_was(tmp_path: Path, train: Callable[..., Manifest]) -> None:
    def cut_off(done: int, total: int) -> None:
        if done == 14:  # in the second member's training
            raise KeyboardInterrupt

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", on_step=cut_off)
    steps: list[int] = []
    resumed = train("cut", resume=True, on_step=lambda done, total: steps.append(done))
    assert steps[0] == 13
    assert resumed.files == {**whole.files, "MODEL_CARD.md": resumed.files["MODEL_CARD.md"]}
    assert not list((tmp_path / "cut-training").rglob("*.pt"))
    assert not list((tmp_path / "cut-training").rglob("*.bin"))


def test_the_loss_is_bradley_terry_s_with_margins_and_centring(
    tmp_path: Path, base: Path, settings: RmSettings
) -> None:
    """-log σ(chosen - rejected - margin), and the square of their sum at the coefficient that rm.yaml names."""
    settings = settings.model_copy(update={"center_rewards_coefficient": 0.5})
    loaded, shape = open_encoder(base), (RmPreset(pairs=None, epochs=1), tmp_path, 42)
    model = new_adapter(loaded, settings.lora, "SEQ_CLS", HEAD)
    pairs = [pair.model_copy(update={"margin": margin}) for pair, margin in zip(PAIRS, (0.0, 0.5, 2.0), strict=False)]
    data = tokenised(pairs, encoder_of(base))
    trainer = _trainer(model, loaded, data, settings, *shape)
    batch = trainer.data_collator(list(data))
    loss = trainer.compute_loss(trainer.model, batch).item()
    scores = torch.tensor(pair_scores(model, encoder_of(base), loaded.tokenizer.pad_token_id, pairs))
    differences = scores[:, 0] - scores[:, 1] - torch.tensor([pair.margin for pair in pairs])
    order, centring = -torch.nn.functional.logsigmoid(differences).mean(), scores.sum(-1).square().mean()
    assert loss == pytest.approx(float(order + 0.5 * centring), rel=1e-4)
    assert float(0.5 * centring) > 0.01 * loss


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rejected": "Stay with us. " * 60 + "{offer} {expiry} {opt_out}"}, "has more than 192 tokens"),
        ({"rejected": GOOD[0].upper()}, "alike, as they differ in what it does not see"),
    ],
)
def test_what_the_encoder_would_not_see_is_refused(
    train: Callable[..., Manifest], changes: dict[str, str], said: str
) -> None:
    """Else a text would be judged by its beginning, or a pair would teach nothing."""
    odd = Preference(brief=BRIEF, chosen=GOOD[0], rejected="x").model_copy(update=changes)
    with pytest.raises(BadInput, match=said):
        train("rm", Pairs(train=[*PAIRS[::2], odd], valid=PAIRS[1::2], test=[]))


def test_one_gpu_trains(train: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BadInput, match="set CUDA_VISIBLE_DEVICES to one GPU"):
        train("rm")


def test_a_base_that_would_score_by_its_padding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"pads with '\[SEP\]'.*depend on the batch"):
        open_encoder(tiny_encoder(tmp_path / "pads", pad_token="[SEP]"))


def test_a_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a llama model; the reward model is served by a BERT encoder"):
        open_encoder(tiny_model(tmp_path / "llama"))


def test_more_tokens_than_an_encoder_reads_are_refused(base: Path) -> None:
    check_positions(base, 192)
    with pytest.raises(BadInput, match=r"rm.yaml: max_tokens: is 193; .*encoder has positions for 192, so say no more"):
        check_positions(base, 193)


def test_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="base is 'nothing'; expected all-minilm-l6-v2, or a folder"):
        prepare_encoder(tmp_path, "nothing")


def test_adapters_for_another_encoder_are_refused(tmp_path: Path, train: Callable[..., Manifest]) -> None:
    train("rm")
    other = tiny_encoder(tmp_path / "other", seed=43)
    with pytest.raises(CheckpointError, match=r"the adapter is for encoder .*, the base is other"):
        prepare_reward(open_checkpoint(tmp_path / "rm"), other, tmp_path / "served", "none")


def test_a_served_model_that_scores_otherwise_is_refused(
    tmp_path: Path, base: Path, train: Callable[..., Manifest]
) -> None:
    train("rm")
    served = prepare_reward(open_checkpoint(tmp_path / "rm"), base, tmp_path / "served", "none")
    swapped = {**served.contents, "member_0.bin": served.read("member_1.bin")}
    write_checkpoint(tmp_path / "odd", "reward", swapped, seed=42, metrics={})
    with pytest.raises(CheckpointError, match="scores its golden drafts"):
        RewardModel.load(open_checkpoint(tmp_path / "odd"))


def test_segments_are_the_same_in_training_and_serving(base: Path) -> None:
    from trainers.rlhf.reward_model import _Collator

    encoder = encoder_of(base)
    rows = tokenised(PAIRS[:3], encoder)
    batch = _Collator(pad_token_id=0, separator=3).torch_call([rows[i] for i in range(3)])
    chosen = encoder.encode([pair.brief for pair in PAIRS[:3]], [pair.chosen for pair in PAIRS[:3]])
    for row, types, expected in zip(batch["input_ids"], batch["token_type_ids"], chosen, strict=False):
        n = len(expected.ids)
        assert row[:n].tolist() == expected.ids
        assert types[:n].tolist() == expected.type_ids
        assert not types[n:].any()
    assert torch.equal(batch["margin"], torch.full((3,), 0.5))


def test_weights_are_how_likely_a_pair_is_drawn() -> None:
    pairs = [pair.model_copy(update={"weight": weight}) for pair, weight in zip(PAIRS, (3.0, 1.0), strict=False)]
    drawn = bootstrap(pairs, 4000, seed=42)
    assert drawn.count(pairs[0]) / 4000 == pytest.approx(0.75, abs=0.03)
    assert drawn == bootstrap(pairs, 4000, seed=42)


def test_a_batch_holds_pairs_of_about_one_length_and_each_pair_is_read_once_an_epoch() -> None:
    lengths = np.random.default_rng(42).permutation(np.tile([10, 20, 40, 80], 33))
    data = Dataset.from_dict({"chosen_ids": [[i] * n for i, n in enumerate(lengths)], "rejected_ids": [[0]] * 132})
    ordered = of_like_length(data, 8, 2, seed=42)
    read = [ids[0] for ids in ordered["chosen_ids"]]
    assert sorted(read) == sorted([*range(132), *range(132)])
    assert read[:128] != read[128:256]
    batches = [[lengths[i] for i in read[at : at + 8]] for at in range(0, 256, 8)]  # the eight left over are mixed
    assert sum(max(batch) * 8 for batch in batches) < 1.3 * sum(map(sum, batches))  # 1.9 times in random order
    assert read == [ids[0] for ids in of_like_length(data, 8, 2, seed=42)["chosen_ids"]]


def test_temperature_makes_differences_log_odds() -> None:
    rng = np.random.default_rng(42)
    odds = rng.normal(0.0, 2.0, 20_000)
    signed = np.where(rng.random(20_000) < 1 / (1 + np.exp(-odds)), odds, -odds)
    assert fitted_temperature(signed * 3.0) == pytest.approx(3.0, rel=0.05)


class Scorer:
    """Likes what it is told to like, by every member alike."""

    def __init__(self, like: Callable[[str], float]) -> None:
        self._like = like

    def scores(self, briefs: object, drafts: Any) -> Any:
        return np.repeat([[self._like(draft)] for draft in drafts], 3, axis=1).astype(float)


@pytest.mark.parametrize(
    ("like", "said"),
    [
        (lambda text: -10.0 * ("Act now" in text), None),
        (lambda text: len(text) / 100, "accuracy on held-out pairs is .* is demanded"),
        (lambda text: -len(text) / 100, "rank correlation of -1.00"),
    ],
    ids=["what is pushy", "length", "shortness"],
)
def test_the_gate_tells_taste_from_length(settings: RmSettings, like: Callable[[str], float], said: str | None) -> None:
    """Rejected texts are the longer ones in one kind and the shorter ones in the other, so length tells nothing."""
    checkpoint: Any = SimpleNamespace(
        manifest=SimpleNamespace(kind="reward", parents={}), version="reward-1", sha256="0" * 64
    )
    lenient = settings.model_copy(update={"min_lead": -1.0})
    model: Any = Scorer(like)
    result = evaluate(model, checkpoint, Pairs(PAIRS, [], PAIRS), load_world(), lenient, 42)
    assert {kind: row["pairs"] for kind, row in result["by_kind"].items()} == {"non_compliant": 24, "pushy": 24}
    assert result["accuracy"]["bag_of_words"]["value"] == 1.0
    if said is None:
        assert result["missed"] == []
        assert result["accuracy"]["reward_model"]["value"] == 1.0
    else:
        assert any(re.search(said, sentence) for sentence in result["missed"])
    strict = evaluate(model, checkpoint, Pairs(PAIRS, [], PAIRS), load_world(), settings, 42)
    assert any("bag-of-words scorer" in sentence for sentence in strict["missed"])
    assert plots(result)[0].startswith("<svg")


def test_pairs_that_share_a_text_are_one_observation() -> None:
    """The arms of one headline test, and of another one that tries one of them again."""
    pairs = [Preference(chosen=a, rejected=b) for a, b in (("A", "B"), ("C", "B"), ("D", "E"), ("F", "C"))]
    assert connected(pairs).tolist() == [0, 0, 1, 0]


def test_what_no_pair_can_say_is_left_open(settings: RmSettings) -> None:
    """Where every chosen text is the shorter one, nothing is said or demanded of longer ones: no NaN in the JSON."""
    checkpoint: Any = SimpleNamespace(
        manifest=SimpleNamespace(kind="reward", parents={}), version="reward-1", sha256="0" * 64
    )
    lenient = settings.model_copy(update={"min_lead": -1.0})
    model: Any = Scorer(lambda text: -10.0 * ("Act now" in text))
    pushy = [pair for pair in PAIRS if pair.kind == "pushy"]
    result = evaluate(model, checkpoint, Pairs(PAIRS, [], pushy), load_world(), lenient, 42)
    assert (result["length"]["chosen_shorter"], result["length"]["chosen_longer"]) == (1.0, None)
    assert not [sentence for sentence in result["missed"] if "nan" in sentence or "longer" in sentence]
    nothing: Any = Scorer(lambda text: 0.0)
    result = evaluate(nothing, checkpoint, Pairs(PAIRS, [], pushy), load_world(), lenient, 42)
    assert result["length"]["correlation"] is None
    assert not [sentence for sentence in result["missed"] if "rank correlation" in sentence]
    json.dumps(result, allow_nan=False)
