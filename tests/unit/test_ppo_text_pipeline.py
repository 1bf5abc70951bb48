"""`train ppo-text` and `eval text` from end to end on tiny models, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from churnsaver.checkpoints import Checkpoint, open_checkpoint, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN, MODEL_CARD
from churnsaver.domain.message import Brief
from churnsaver.errors import BadInput, CheckpointError, SettingsError
from churnsaver.models.adapters import WRITER
from churnsaver.settings import load_world
from tests.support.text_training import BRIEFS, Judge, Vowels, short_settings
from tests.support.tiny_model import BRIEF, tiny_model, tiny_model_of
from trainers.eval.text import (
    REFERENCE,
    distinct,
    drafts_to_audit,
    evaluate_text,
    held_out,
    interval,
    missed,
    references,
)
from trainers.eval.text_audit import audit, is_right_offer, violations
from trainers.eval.text_page import write_page
from trainers.rlhf.corpus import PARTS, make_corpus
from trainers.rlhf.corpus import briefs as briefs_of
from trainers.rlhf.examples import WrittenMessage, write_jsonl
from trainers.rlhf.language_model import adapter_files, load_adapter, open_base
from trainers.rlhf.lora import LoraSettings, new_adapter
from trainers.rlhf.ppo_text_run import Task, open_policy, read_task, train_text_policy
from trainers.rlhf.ppo_text_settings import Preset
from trainers.rlhf.sft import examples_of
from trainers.rlhf.text_reward import ShieldFilter
from trainers.rlhf.training_report import training_folder
from trainers.rlhf.writers import BASE, PPO, SFT, Writers
from trainers.rlhf.writing_figures import mean_log_probs

GOOD = "Hi {first_name}, thank you. We would like to offer you {offer}, until {expiry}. {opt_out}"
MESSAGE = WrittenMessage(brief=BRIEF, text=GOOD)
TASK = Task(BRIEFS, BRIEFS[:4], [WrittenMessage(brief=BRIEF, text="{")], [MESSAGE])
SETTINGS = short_settings(learning_rate=0.01)
# What three iterations came to on 2026-11-27; recorded anew only where the algorithm is meant to be another.
TRAJECTORY = {
    "conservative": (1.554665, 2.301918, 2.681743),
    "tokens": (3.625, 3.5, 3.5),
    "kl": (0.0, 0.139195, 0.111839),
    "kl_coefficient": (0.15, 0.149003, 0.148013),
    "entropy": (5.513010, 5.483228, 5.486397),
    "policy_loss": (-0.997565, -0.031727, 0.009486),
    "value_loss": (2.467332, 2.342571, 2.309005),
    "grad_norm": (0.782438, 0.886744, 0.801185),
}


def fine_tuned(folder: Path, base: Path, modules: tuple[str, ...] = ("q_proj", "v_proj")) -> Checkpoint:
    """A writer checkpoint of an adapter that was not trained."""
    loaded = open_base(base)
    lora = LoraSettings(rank=4, alpha=8, dropout=0.1, modules=modules, upper_layers=1)
    model = new_adapter(loaded, lora, "CAUSAL_LM")
    files = adapter_files(model, loaded.base) | {GOLDEN: b"[]", MODEL_CARD: b"# none"}
    write_checkpoint(folder, WRITER, files, seed=1, metrics={})
    return open_checkpoint(folder, WRITER)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def sft(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return fine_tuned(tmp_path_factory.mktemp("sft") / "writer", base)


def train(base: Path, sft: Checkpoint, out: Path, **changes: Any) -> Any:
    given: dict[str, Any] = {"settings": SETTINGS, "preset": Preset(iterations=3, drafts=8), "seed": 42, **changes}
    settings, preset = given.pop("settings"), given.pop("preset")
    command = "churn-saver train ppo-text"
    return train_text_policy(
        base, sft, Vowels(), "reward-1", TASK, Judge(), load_world(), settings, preset, out, command=command, **given
    )


@pytest.fixture(scope="module")
def ppo(base: Path, sft: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    out = tmp_path_factory.mktemp("ppo") / "writer"
    train(base, sft, out)
    return open_checkpoint(out, WRITER)


def subject(brief: Brief) -> str:
    return "Subject: Hello\n\n" if brief.channel == "email" else ""


# -- train ---------------------------------------------------------------------------------------------


def test_training_writes_a_checkpoint_with_all_that_belongs_to_it(base: Path, ppo: Checkpoint, sft: Checkpoint) -> None:
    """A trained adapter of the same shape, parents, golden log-probabilities, a card, curves and events."""
    assert ppo.manifest.parents == {WRITER: sft.version, "reward_adapters": "reward-1"}
    assert ppo.contents.keys() == sft.contents.keys()
    assert ppo.read("adapter_model.safetensors") != sft.read("adapter_model.safetensors")
    assert ppo.manifest.metrics["iterations"] == 3
    assert ppo.manifest.gate is not None
    (golden,) = ppo.read_json(GOLDEN)
    loaded = open_base(base)
    found = mean_log_probs(load_adapter(loaded, ppo), examples_of([MESSAGE], loaded, load_world()), 0)
    assert found == pytest.approx([golden["mean_log_prob"]], abs=2e-6)  # of the rounded weights, as they are kept
    card = ppo.read(MODEL_CARD).decode()
    assert "`reward-1`" in card
    assert "too few looks to stop it" in card
    training = training_folder(ppo.path)
    report = json.loads((training / "report.json").read_text())
    assert [one["number"] for one in report["history"]] == [1, 2, 3]
    assert report["history"][0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert "KL from the reference" in (training / "report.html").read_text()
    assert list((training / "tensorboard").glob("events.out.tfevents.*"))


def test_a_training_takes_the_recorded_steps(ppo: Checkpoint) -> None:
    """One that repeats itself might still be another algorithm than before."""
    history = json.loads((training_folder(ppo.path) / "report.json").read_text())["history"]
    for name, recorded in TRAJECTORY.items():
        # Other processors round otherwise, and three updates carry that on.
        assert [one[name] for one in history] == pytest.approx(recorded, rel=0.01, abs=1e-3), name


def test_a_training_that_was_cut_off_ends_as_one_that_was_not(
    base: Path, sft: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter's bytes are the same, and so the same seed makes the same one; another setting is refused.

    The memory is that of the run that held more.
    """

    def cut_off(iteration: Any) -> None:
        if iteration.number == 2:
            raise KeyboardInterrupt

    train(base, sft, tmp_path / "whole")
    monkeypatch.setattr("trainers.rlhf.ppo_text_run.peak_memory_gb", lambda: 9.0)
    with pytest.raises(KeyboardInterrupt):
        train(base, sft, tmp_path / "parts", on_iteration=cut_off)
    monkeypatch.setattr("trainers.rlhf.ppo_text_run.peak_memory_gb", lambda: 1.0)
    said = rf"differs in the settings \(ppo_text.yaml\); restore .*, or delete {tmp_path / 'parts-training'}$"
    with pytest.raises(BadInput, match=said):
        train(base, sft, tmp_path / "parts", resume=True, settings=short_settings(epochs=1))
    train(base, sft, tmp_path / "parts", resume=True)
    whole, parts = (open_checkpoint(tmp_path / name, WRITER) for name in ("whole", "parts"))
    assert whole.read("adapter_model.safetensors") == parts.read("adapter_model.safetensors")
    assert parts.manifest.metrics["peak_memory_gb"] == 9.0


def test_what_cannot_be_trained_is_refused_before_it_starts(base: Path, sft: Checkpoint, tmp_path: Path) -> None:
    other = fine_tuned(tmp_path / "other-writer", tiny_model(tmp_path / "other", seed=1))
    with pytest.raises(CheckpointError, match=r"the adapter is for other.*the base is model"):
        train(base, other, tmp_path / "out")
    with pytest.raises(SettingsError, match="max_tokens: has no push"):
        train(base, sft, tmp_path / "out", settings=short_settings(max_tokens={"email": 4, "sms": 4}))
    shorter = {"email": 4, "sms": 1, "push": 4}
    said = r"longest approved sms text has 2 tokens with its end.*a draft has 1 .*raise max_tokens.sms in ppo_text.yaml"
    with pytest.raises(BadInput, match=said):
        train(base, sft, tmp_path / "out", settings=short_settings(max_tokens=shorter))
    with pytest.raises(SettingsError, match="device 'nonsense' cannot be used here"):
        open_policy(open_base(base), sft, short_settings(device="nonsense"))
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # PEFT turns GPT-2's round by itself
@pytest.mark.parametrize("kind", ["gpt2", "granite"])
def test_a_base_that_does_not_come_apart_is_refused(tmp_path: Path, kind: str) -> None:
    """One names its layers otherwise, one scales what comes in before the first of them, twice where they are two."""
    changes = {"gpt2": {}, "granite": {"embedding_multiplier": 12.0}}[kind]
    modules = {"gpt2": ("c_attn",), "granite": ("q_proj",)}[kind]
    folder = tiny_model_of(kind, tmp_path / "base", **changes)
    writer = fine_tuned(tmp_path / "writer", folder, modules)
    with pytest.raises(BadInput, match=rf"^base: layers below the adapter cannot .* of type {kind}; name another base"):
        train(folder, writer, tmp_path / "out")
    assert not training_folder(tmp_path / "out").exists()


def test_briefs_are_read_and_refused(tmp_path: Path) -> None:
    """The test part never trains; a brief without offer, or with one of another world, is named with its line."""
    world = load_world()
    built_in = read_task(None, 42, world)
    assert built_in.briefs == briefs_of(world, "train")
    assert not set(briefs_of(world, "test")) & {*built_in.briefs, *built_in.held_out}
    path = tmp_path / "briefs.jsonl"
    everything = [*briefs_of(world, "train")[:3], *briefs_of(world, "valid")[:2], *briefs_of(world, "test")[:2]]
    write_jsonl(path, everything * 2)
    task = read_task(path, 42, world)
    assert (task.briefs, task.held_out) == (everything[:3], everything[3:5])
    without = {name: value for name, value in BRIEF.model_dump().items() if name != "offer"}
    for line, said in (
        (without, r"briefs.jsonl, line 1: .*offer.*[Rr]equired"),
        (BRIEF.model_dump() | {"offer": ""}, r"line 1: brief.offer: is ''; expected one of check_in"),
    ):
        path.write_text(json.dumps(line) + "\n")
        with pytest.raises(BadInput, match=said):
            read_task(path, 42, world)
    write_jsonl(path, briefs_of(world, "test")[:2])
    with pytest.raises(BadInput, match="no brief of a training scenario"):
        read_task(path, 42, world)


def test_a_folder_of_messages_gives_briefs_and_lengths(tmp_path: Path) -> None:
    world = load_world()
    parts = {
        part: [WrittenMessage(brief=brief, text=subject(brief) + GOOD) for brief in briefs_of(world, part)[:3]]
        for part in ("train", "valid")
    }
    for part, messages in parts.items():
        again = messages[0].model_copy(update={"text": messages[0].text.replace("Hi", "Hello")})
        write_jsonl(tmp_path / f"{part}.jsonl", [*messages, again])
    task = read_task(tmp_path, 42, world)
    assert task.briefs == [message.brief for message in parts["train"]]
    assert task.held_out == [message.brief for message in parts["valid"]]
    assert len(task.approved) == 4


# -- eval ----------------------------------------------------------------------------------------------


class Longer:
    """A judge that likes letters of the alphabet's end."""

    def score(self, briefs: Sequence[Brief], texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([sum(letter > "m" for letter in text) / max(len(text), 1) for text in texts])


@pytest.mark.stack
def test_writers_are_compared_on_the_same_briefs(base: Path, sft: Checkpoint, ppo: Checkpoint, tmp_path: Path) -> None:
    """Base, SFT and PPO write; an untrained adapter writes as the base does; the page shows all texts."""
    world = load_world()
    writers = Writers(open_base(base), sft, ppo, world, SETTINGS)
    briefs = briefs_of(world, "test")[:6] * 2
    written = writers.write(briefs, 1)
    assert list(written.texts) == [BASE, SFT, PPO]
    assert all(len(texts) == 12 for texts in written.texts.values())
    assert np.abs(written.kl).max() > 1e-3
    again = Writers(open_base(base), sft, ppo, world, SETTINGS).write(briefs, 1)
    assert again.texts == written.texts
    reference = references(briefs, make_corpus(42, world).test, world)
    rules = ShieldFilter.of(world)
    audited = (briefs, [*reference[:10], "Save $5 now, {offer}", *writers.write_tuned(1, briefs[:1], 0)])
    result = evaluate_text(written, reference, audited, Longer(), rules, world, 6.0, 1, went_on=True)
    assert result["writers"][REFERENCE]["required_elements"]["value"] == 1.0
    assert result["writers"][REFERENCE]["shield_pass"]["value"] == 1.0
    assert result["writers"][BASE]["required_elements"]["value"] == 0.0
    assert result["audit"] == {"written": 12, "messages": 10, "violations": 0, "examples": []}
    assert any("nats a text" in sentence for sentence in result["missed"])
    texts = {**written.texts, REFERENCE: reference}
    passed = {
        name: [rules.passes(brief, text) for brief, text in zip(briefs, each, strict=True)]
        for name, each in texts.items()
    }
    page = write_page(tmp_path, result, briefs, texts, passed).read_text()
    assert page.count("<h3>") == 12
    assert "{opt_out}" in page
    assert json.loads((tmp_path / "report.json").read_text())["drafts"] == 12
    with pytest.raises(CheckpointError, match="name the --sft that it was trained from"):
        Writers(open_base(base), ppo, sft, world, SETTINGS)


@pytest.mark.stack
def test_a_writer_is_compared_without_the_one_that_it_went_on_from(base: Path, ppo: Checkpoint, tmp_path: Path) -> None:
    """Its figures, the base's and the approved texts', and no divergence: the comparison itself is missed."""
    world, rules, briefs = load_world(), ShieldFilter.of(load_world()), briefs_of(load_world(), "test")[:4]
    writers = Writers(open_base(base), None, ppo, world, SETTINGS)
    written = writers.write(briefs, 1)
    assert list(written.texts) == [BASE, PPO]
    assert written.kl is None
    reference = references(briefs, make_corpus(42, world).test, world)
    audited = (briefs, reference)
    result = evaluate_text(written, reference, audited, Longer(), rules, world, None, 1, went_on=True)
    assert list(result["win_rates"]) == [f"{PPO} against {REFERENCE}", f"{PPO} against {BASE}"]
    assert "kl" not in result
    few = "4 messages were audited, 3000 are demanded"
    assert result["missed"] == [few, "not compared with the writer before PPO: name it with --sft"]
    assert missed(result, went_on=False) == [few]  # as of what SFT alone trained
    assert "Audit: 0 violations in 4 messages" in write_page(tmp_path, result, [], {}, {}).read_text()


@pytest.mark.stack
def test_a_writer_that_went_on_from_none_is_called_fine_tuned(base: Path, sft: Checkpoint) -> None:
    """And is compared with the base and the approved texts."""
    world, briefs = load_world(), briefs_of(load_world(), "test")[:2]
    writers = Writers(open_base(base), None, sft, world, SETTINGS)
    written = writers.write(briefs, 1)
    assert list(written.texts) == [BASE, SFT]
    reference = references(briefs, make_corpus(42, world).test, world)
    audited = (briefs, writers.write_tuned(1, briefs, 0))
    rules = ShieldFilter.of(world)
    result = evaluate_text(written, reference, audited, Longer(), rules, world, None, 1, went_on=False)
    assert list(result["win_rates"]) == [f"{SFT} against {REFERENCE}", f"{SFT} against {BASE}"]
    assert result["missed"] == ["0 messages were audited, 3000 are demanded"]


def test_drafts_are_written_until_enough_messages_can_be_audited() -> None:
    """Each turn has luck of its own; a writer whose drafts never pass is given up."""
    world = load_world()
    rules, unseen, calls = ShieldFilter.of(world), briefs_of(world, "test")[:3], []
    good = references(unseen, make_corpus(42, world).test, world)

    def write(briefs: Sequence[Brief], number: int) -> list[str]:
        calls.append((len(briefs), number))
        return [good[unseen.index(brief)] if i % 2 else "Save $5" for i, brief in enumerate(briefs)]

    briefs, drafts = drafts_to_audit(write, unseen, 5, rules)
    assert calls == [(5, 0), (3, 1), (2, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 7)]
    assert len(briefs) == len(drafts) == 15
    assert briefs == (unseen * 5)[:15]
    _, drafts = drafts_to_audit(lambda briefs, _: ["Save $5"] * len(briefs), unseen, 5, rules)
    assert len(drafts) == 15


def test_writers_are_compared_on_a_teams_own_texts(tmp_path: Path) -> None:
    """The test part of a folder gives briefs and references; one that was trained on is refused."""
    world = load_world()
    parts = {
        part: [WrittenMessage(brief=brief, text=subject(brief) + GOOD) for brief in briefs_of(world, part)[:3]]
        for part in PARTS
    }
    again = parts["test"][0].model_copy(update={"text": parts["test"][0].text.replace("Hi", "Hello")})
    parts["test"].append(again)
    for part, found in parts.items():
        write_jsonl(tmp_path / f"{part}.jsonl", found)
    briefs, approved = held_out(tmp_path, 42, world)
    assert briefs == briefs_of(world, "test")[:3]
    assert references(briefs * 2, approved, world)[::3] == [parts["test"][0].text, again.text]
    unknown = again.model_copy(update={"brief": again.brief.model_copy(update={"offer": "gone"})})
    write_jsonl(tmp_path / "train.jsonl", [*parts["train"], unknown])
    with pytest.raises(BadInput, match=r"train\.jsonl, line 4: brief.offer: is 'gone'"):
        held_out(tmp_path, 42, world)
    write_jsonl(tmp_path / "train.jsonl", [*parts["train"], again])
    with pytest.raises(BadInput, match=r"stands in train.jsonl and in test.jsonl"):
        held_out(tmp_path, 42, world)
    assert held_out(None, 42, world)[0] == briefs_of(world, "test")


def test_an_adapter_that_says_nothing_writes_as_the_base(base: Path, sft: Checkpoint, tmp_path: Path) -> None:
    world = load_world()
    parents = {WRITER: sft.version}
    write_checkpoint(tmp_path / "same", WRITER, dict(sft.contents), seed=2, metrics={}, parents=parents)
    same = open_checkpoint(tmp_path / "same", WRITER)
    written = Writers(open_base(base), sft, same, world, SETTINGS).write(BRIEFS, 3)
    assert np.abs(written.kl).max() == pytest.approx(0.0, abs=1e-5)


def test_targets_that_are_missed_are_said() -> None:
    share = {"value": 1.0, "low": 0.9, "high": 1.0}
    good: dict[str, Any] = {
        "win_rates": {f"{PPO} against {SFT}": {"length_controlled": 0.6, "length_controlled_low": 0.51}},
        "kl": {"value": 6.5, "target": 6.0},
        "audit": {"violations": 0, "messages": 3000},
        "writers": {PPO: {"shield_pass": share}, SFT: {"shield_pass": share}},
    }
    assert missed(good, went_on=True) == []
    bad = good | {
        "win_rates": {f"{PPO} against {SFT}": {"length_controlled": 0.6, "length_controlled_low": 0.5}},
        "kl": {"value": 7.3, "target": 6.0},
        "audit": {"violations": 1, "messages": 3000},
        "writers": {PPO: {"shield_pass": share | {"value": 0.8}}, SFT: {"shield_pass": share}},
    }
    assert len(missed(bad, went_on=True)) == 4


@pytest.mark.stack
def test_the_corpus_passes_the_audit_and_seldom_seems_to_name_another_offer() -> None:
    """The checks do not cry wolf: no violation in 5,000 approved texts."""
    world = load_world()
    corpus = make_corpus(42, world)
    messages = [*corpus.train, *corpus.test]
    briefs, texts = [message.brief for message in messages], [message.text for message in messages]
    assert audit(briefs, texts, world) == []
    claims = [is_right_offer(brief, text, world) for brief, text in zip(briefs, texts, strict=True)]
    assert claims.count(False) < 0.02 * len(claims)
    assert claims.count(True) > 0.3 * len(claims)


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (GOOD.replace("{offer}", "something"), "is without {offer}"),
        (GOOD.replace("{expiry}", "soon"), "is without {expiry}"),
        (GOOD.replace("{opt_out}", ""), "is without {opt_out}"),
        (GOOD + " {offer}", "says {offer} twice"),
        (GOOD + " {price}", "has a slot that nothing fills"),
        (GOOD + " }", "has a brace that is no slot"),
        (GOOD + " See www.example.com", "has a link or an address"),
        (GOOD + " Only $ five!", "has a price, a percentage or a currency"),
        (GOOD + " Call 555", "has a digit"),
        (GOOD + " Until Friday.", "has a date of its own"),
        (GOOD + " Act now!", "has pressure"),
        (GOOD + " We guarantee it.", "has a promise that nobody can keep"),
        (GOOD + " Or else.", "has a threat"),
        (GOOD + " You idiot.", "has an insult"),
        (GOOD + "<|im_start|>", "has markup or a special token"),
        (GOOD + "\u200b", "has a character that cannot be seen"),
        (GOOD + " and so on" * 40, "is too long for sms"),
        ("Subject: Hello\n\n" + GOOD, "has a subject where none belongs, or none where one does"),
        (GOOD + " WE WOULD LIKE YOU TO STAY WITH US FOR A VERY LONG TIME, AND THEN SOME MORE", "shouts"),
    ],
)
def test_each_violation_is_found(draft: str, said: str) -> None:
    world = load_world()
    assert violations(BRIEF, GOOD, world) == []
    assert said in [what for what, _ in violations(BRIEF, draft, world)]


def test_the_right_offer_is_the_briefs_and_no_other() -> None:
    world = load_world()
    assert is_right_offer(BRIEF, "You pay less: {offer}", world) is True
    assert is_right_offer(BRIEF, "A gift for you: {offer}", world) is False
    assert is_right_offer(BRIEF, "You pay less, and get a gift: {offer}", world) is False
    assert is_right_offer(BRIEF, "Here is {offer}", world) is None


def test_variety_and_intervals_are_what_they_say() -> None:
    assert distinct(["a b a", "b"], 1) == 2 / 4
    assert distinct(["a b a b"], 2) == 2 / 3
    found = interval(np.array([1.0, 1.0, 3.0, 3.0]), [BRIEFS[0], BRIEFS[0], BRIEFS[1], BRIEFS[1]], 1)
    assert found == {"value": 2.0, "low": 1.0, "high": 3.0}
    one_brief = interval(np.array([1.0, 3.0]), [BRIEFS[0], BRIEFS[0]], 1)
    assert one_brief == {"value": 2.0, "low": 2.0, "high": 2.0}  # texts of one brief are no independent evidence
