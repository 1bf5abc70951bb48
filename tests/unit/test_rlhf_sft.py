"""Supervised fine-tuning on a tiny random model: loss falls, a cut-off training goes on, bad input is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from churnsaver.checkpoints import Manifest, open_checkpoint
from churnsaver.errors import BadInput
from churnsaver.models.adapters import ADAPTER
from churnsaver.settings import load_section, load_world
from tests.support.tiny_model import BRIEF, TEXTS, tiny_model
from trainers.rlhf import sft
from trainers.rlhf.examples import WrittenMessage, write_jsonl
from trainers.rlhf.language_model import load_adapter, open_base
from trainers.rlhf.lora import LoraSettings, new_adapter
from trainers.rlhf.resumable import FOLLOWS, GENERATORS, OPTIMISER, TRAINER_STATE, latest_state
from trainers.rlhf.sft import SftPreset, SftSettings, messages, train_sft
from trainers.rlhf.writing_figures import Example, has_exact_slots, log_prob_sums, mean_log_probs, perplexity

MESSAGES = [WrittenMessage(brief=BRIEF, text=text) for text in TEXTS]
STARTS = ("Hello.", "Good day.", "Dear customer.", "Thank you.", "How are you?", "It is spring.", "Welcome.")
NUMBERED = [WrittenMessage(brief=BRIEF, text=f"{start} {text}") for text in TEXTS for start in STARTS]
HELD_OUT = [message.model_copy(update={"brief": BRIEF.model_copy(update={"tone": "plain"})}) for message in MESSAGES]


@pytest.fixture
def settings() -> SftSettings:
    """sft.yaml for a model of two layers, with a state every second step."""
    of_file = load_section("sft", SftSettings)
    modules = ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lora = LoraSettings(rank=8, alpha=16, dropout=0.1, modules=modules)
    small = {"lora": lora, "batch_size": 4, "learning_rate": 0.02, "save_every": 2, "draft_tokens": 64}
    return of_file.model_copy(update=small)


@pytest.fixture
def train(tmp_path: Path, settings: SftSettings) -> Callable[..., Manifest]:
    """Trains on a handful of messages, into the folder of a name."""
    data = tmp_path / "data"
    write_jsonl(data / "train.jsonl", [*MESSAGES, *NUMBERED])
    write_jsonl(data / "valid.jsonl", HELD_OUT)
    preset = SftPreset(texts=None, epochs=2, held_out=2, drafts=1)
    base = tiny_model(tmp_path / "base")

    def train(name: str, **options: Any) -> Manifest:
        given = {"settings": settings, "seed": 42, "command": "churn-saver train sft", **options}
        return train_sft(base, data, load_world(), given.pop("settings"), preset, tmp_path / name, **given)

    return train


def cut_off(done: int, total: int) -> None:
    if done == 5:
        raise KeyboardInterrupt


def test_loss_falls_and_the_checkpoint_holds_what_was_trained(tmp_path: Path, train: Callable[..., Manifest]) -> None:
    manifest = train("writer")
    assert manifest.metrics["perplexity"] < manifest.metrics["perplexity_base"] / 1.2
    assert manifest.gate is not None
    assert any("slot accuracy" in sentence for sentence in manifest.gate.missed)
    assert manifest.data_sha256
    report = json.loads((tmp_path / "writer-training" / "report.json").read_text())
    assert report["loss"]["loss"]["last"] < report["loss"]["loss"]["first"]

    checkpoint = open_checkpoint(tmp_path / "writer", "writer")
    loaded = open_base(tmp_path / "base")
    model = load_adapter(loaded, checkpoint)
    golden = checkpoint.read_json("golden.json")
    told = [WrittenMessage(**{name: case[name] for name in ("brief", "text")}) for case in golden]
    rows = sft.examples_of(told, loaded, load_world())
    found = mean_log_probs(model, rows, loaded.tokenizer.pad_token_id)
    assert found == pytest.approx([case["mean_log_prob"] for case in golden], abs=2e-6)


def test_a_training_that_was_cut_off_goes_on_bitwise_as_if_it_had_not_been(
    tmp_path: Path, train: Callable[..., Manifest]
) -> None:
    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", on_step=cut_off)
    kept = sorted(path.suffix for path in (tmp_path / "cut-training" / "checkpoint-4").iterdir())
    assert set(kept) <= {".json", ".safetensors", ".md"}  # data alone: nothing is pickled
    steps: list[int] = []
    resumed = train("cut", resume=True, on_step=lambda done, total: steps.append(done))
    assert steps == [5, 6, 7, 8]
    assert resumed.files[ADAPTER] == whole.files[ADAPTER]
    assert resumed.version == whole.version


def test_a_damaged_state_is_passed_over_and_the_last_one_refused(
    tmp_path: Path, train: Callable[..., Manifest]
) -> None:
    """Cut short, a file of the newest state leaves the one before it; of both, it is named."""
    with pytest.raises(KeyboardInterrupt):
        train("cut", on_step=cut_off)
    training = tmp_path / "cut-training"
    older, newer = training / "checkpoint-2", training / "checkpoint-4"
    for name in (TRAINER_STATE, ADAPTER, OPTIMISER, GENERATORS):
        whole = {state: (state / name).read_bytes() for state in (older, newer)}
        assert latest_state(training) == newer
        (newer / name).write_bytes(whole[newer][:-50])
        assert latest_state(training) == older
        (older / name).write_bytes(whole[older][:-50])
        said = rf"checkpoint-4/{name}: is truncated or altered; leave out --resume .*, or delete {training}$"
        with pytest.raises(BadInput, match=said):
            latest_state(training)
        for state, content in whole.items():
            (state / name).write_bytes(content)
    (newer / TRAINER_STATE).write_text("[]")
    steps: list[int] = []
    train("cut", resume=True, on_step=lambda done, total: steps.append(done))
    assert steps == [3, 4, 5, 6, 7, 8]
    (training / FOLLOWS).write_text("[]")
    with pytest.raises(BadInput, match="there is no training to resume"):
        train("cut", resume=True)


def test_a_training_of_something_else_is_not_gone_on_with(
    tmp_path: Path, train: Callable[..., Manifest], settings: SftSettings
) -> None:
    with pytest.raises(BadInput, match="there is no training to resume"):
        train("writer", resume=True)
    with pytest.raises(KeyboardInterrupt):
        train("writer", on_step=cut_off)
    other = settings.model_copy(update={"learning_rate": 0.01})
    said = rf"differs in the settings \(sft.yaml\); restore .*, or delete {tmp_path / 'writer-training'}$"
    with pytest.raises(BadInput, match=said):
        train("writer", resume=True, settings=other)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantization": "nf4"}, r"quantization is nf4 \(QLoRA\).*is missing here; set it to none"),
        ({"max_tokens": 40}, "would lose its end; shorten it or raise max_tokens"),
        ({"draft_tokens": 10}, r"tokens, and a draft as long would be cut off .*raise draft_tokens \(10\) in sft.yaml"),
        ({"lora": LoraSettings(rank=2, alpha=4, dropout=0.0, modules=("query",))}, r"lora\.modules is query"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    train: Callable[..., Manifest], settings: SftSettings, changes: dict[str, Any], said: str
) -> None:
    if changes.get("quantization") and torch.cuda.is_available():
        pytest.skip("this machine can")
    with pytest.raises(BadInput, match=said):
        train("writer", settings=settings.model_copy(update=changes))


def test_one_gpu_and_one_process_train(train: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    said = "set CUDA_VISIBLE_DEVICES to one GPU"
    with monkeypatch.context() as two_gpus:
        two_gpus.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(BadInput, match=said):
            train("writer")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match=said):
        train("writer")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"brief": {"segment": "loyal", "tone": "warm", "channel": "sms", "language": "en"}, "text": "Hi"}', "offer"),
        (WrittenMessage(brief=BRIEF, text="Take {ofer}").model_dump_json(), r"unknown slot \{ofer\}"),
        (WrittenMessage(brief=BRIEF.model_copy(update={"offer": "ship"}), text="Hi").model_dump_json(), "brief.offer"),
    ],
)
def test_messages_are_checked(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "train.jsonl").write_text(f"{MESSAGES[0].model_dump_json()}\n{line}\n")
    with pytest.raises(BadInput, match=rf"train\.jsonl, line 2: .*{said}"):
        messages(tmp_path, load_world())


def test_a_scenario_is_either_trained_on_or_held_out(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        write_jsonl(tmp_path / f"{part}.jsonl", MESSAGES)
    with pytest.raises(BadInput, match=r"loyal/price/discount/warm/sms stands in train.jsonl and in valid.jsonl"):
        messages(tmp_path, load_world())


def tiny_trainer(folder: Path, settings: SftSettings, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Example]]:
    """A trainer whose adapter says something, in float32 and without dropout, and what it trains on."""
    monkeypatch.setattr("trainers.rlhf.resumable.multiplies_bfloat16", lambda: False)
    loaded = open_base(tiny_model(folder / "base"))
    rows = sft.examples_of([MESSAGES[0], NUMBERED[-1], MESSAGES[1], NUMBERED[0]], loaded, load_world())
    assert len({len(row.prompt) + len(row.text) for row in rows}) > 1  # so that a batch has padding
    model = new_adapter(loaded, settings.lora, "CAUSAL_LM")
    torch.manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    preset = SftPreset(texts=None, epochs=1, held_out=1, drafts=1)
    trainer = sft._trainer(model, loaded, rows, settings, preset, folder / "training", 42)
    trainer.model.eval()
    return trainer, rows


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the loss by each weight of the adapter."""
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


def test_the_loss_and_its_gradients_are_transformers_own(
    tmp_path: Path, settings: SftSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a padded batch, and on two micro-batches that divide by the tokens of both."""
    trainer, rows = tiny_trainer(tmp_path, settings, monkeypatch)
    model, data = trainer.model, list(trainer.train_dataset)
    whole, first, second = map(trainer.data_collator, (data, data[:1], data[1:]))
    assert (whole["attention_mask"] == 0).any()
    theirs = model(**whole).loss
    expected = gradients(model, theirs)
    assert all(gradient.abs().max() > 1e-6 for gradient in expected.values())
    tokens = torch.tensor(sum(len(row.text) for row in rows))
    alone = trainer.compute_loss(model, whole)
    parts = [trainer.compute_loss(model, part, num_items_in_batch=tokens) for part in (first, second)]
    for ours in (alone, sum(parts)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        for name, gradient in gradients(model, ours).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_packed_texts_are_trained_on_as_each_alone(
    tmp_path: Path, settings: SftSettings, train: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No text of a row reads another: the loss of the row is that of its texts, one by one."""
    packed = settings.model_copy(update={"packing": True})
    trainer, rows = tiny_trainer(tmp_path / "packed", packed, monkeypatch)
    (batch,) = trainer.get_train_dataloader()
    assert batch["input_ids"].shape == (1, sum(len(row.prompt) + len(row.text) for row in rows))
    sums = [next(log_prob_sums(trainer.model, [row], 0)) for row in rows]
    with torch.no_grad():
        loss = float(trainer.compute_loss(trainer.model, batch))
    assert loss == pytest.approx(-sum(sums) / sum(len(row.text) for row in rows), abs=1e-5)
    metrics = train("writer", settings=packed).metrics
    assert metrics["perplexity"] < metrics["perplexity_base"]


def test_perplexity_is_of_the_text_alone_and_padding_does_not_count(tmp_path: Path) -> None:
    loaded = open_base(tiny_model(tmp_path / "base"))
    pad = loaded.tokenizer.pad_token_id
    short, long = Example([5, 6], [7, 8, 9]), Example([5, 6, 7, 8], [9, 10, 11, 12, 13])
    apart = [mean_log_probs(loaded.model, [each], pad)[0] for each in (short, long)]
    assert mean_log_probs(loaded.model, [short, long], pad) == pytest.approx(apart, abs=1e-5)
    scores = loaded.model(torch.tensor([[5, 6, 7, 8, 9]])).logits[0].log_softmax(-1)
    by_hand = sum(scores[i - 1, token].item() for i, token in ((2, 7), (3, 8), (4, 9))) / 3
    assert apart[0] == pytest.approx(by_hand, abs=1e-5)
    assert perplexity(loaded.model, [short], pad) == pytest.approx(2.718281828**-by_hand, rel=1e-4)


@pytest.mark.parametrize(
    ("draft", "exact"),
    [
        ("Hi {first_name}, {offer} until {expiry}. {opt_out}", True),
        ("{offer} until {expiry}. {opt_out}", True),
        ("{offer} until {expiry}.", False),
        ("{offer} {offer} until {expiry}. {opt_out}", False),
        ("{offer} until {expiry}. {opt_out} {price}", False),
        ("{offer} until {expiry}. {opt_out} {Offer}", False),
        ("{first_name} {first_name} {offer} until {expiry}. {opt_out}", False),
    ],
)
def test_exact_slots(draft: str, exact: bool) -> None:
    assert has_exact_slots(draft) is exact
