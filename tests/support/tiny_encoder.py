"""A BERT encoder of a test's own: random, two layers, words of our texts, made offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.tiny_model import BRIEF, TEXTS


def tiny_encoder(folder: Path, seed: int = 42, pad_token: str = "[PAD]") -> Path:
    """Writes the encoder to `folder` as transformers keeps one."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from churnsaver.domain.writing import CUSTOMERS, PURPOSES, REASONS, TONES

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    told = [*CUSTOMERS.values(), *PURPOSES.values(), *REASONS.values(), *TONES.values(), BRIEF.channel, *TEXTS]
    tokenizer.train_from_iterator(told * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=192,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    make: Any = PreTrainedTokenizerFast
    fast = make(
        tokenizer_object=tokenizer, pad_token=pad_token, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    return folder
