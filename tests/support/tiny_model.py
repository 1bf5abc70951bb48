"""A causal language model of a test's own: random, two layers, our special tokens and chat template, made offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from churnsaver.domain.message import Brief
from churnsaver.domain.writing import REASONS, TONES, conversation
from churnsaver.settings import load_world

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# As SmolLM2's, its default system turn aside.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BRIEF = Brief(segment="loyal", offer="discount_10", tone="warm", channel="sms", language="en", reason="price")
TEXTS = (
    "Hi {first_name}, thank you for your years with us. We would like to offer you {offer}, until {expiry}. {opt_out}",
    "Your plan may no longer fit. Take {offer} before {expiry} and see. {opt_out}",
)


def tiny_tokenizer(**changes: Any) -> Any:
    """A byte-level tokenizer of some 600 tokens that knows the words of our briefs; `changes` replace its settings."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    told = [turn["content"] for turn in conversation(BRIEF, load_world())]
    tokenizer.train_from_iterator([*told * 3, *REASONS.values(), *TONES.values(), *TEXTS * 3], trainer)
    named = {"eos_token": END, "pad_token": PAD, "bos_token": START, "chat_template": CHATML} | changes
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, **named)


def tiny_model_of(kind: str, folder: Path, **changes: Any) -> Path:
    """Like `tiny_model`, of another architecture of transformers; `changes` are its config's."""
    from transformers import AutoConfig, AutoModelForCausalLM

    old = AutoConfig.from_pretrained(tiny_model(folder))
    tokens = {name: getattr(old, name) for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | tokens | changes)).save_pretrained(folder)
    return folder


def tiny_model(folder: Path, seed: int = 42, **changes: Any) -> Path:
    """Writes the model to `folder` as transformers keeps one; `changes` as `tiny_tokenizer` takes them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(**changes)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        initializer_range=0.2,  # with smaller embeddings no adapter could move the scores
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
