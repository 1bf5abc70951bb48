"""Scores of drafts from CTranslate2's BERT encoders and a linear head each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import ctranslate2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load
from tokenizers import Tokenizer

from churnsaver.checkpoints import Checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN
from churnsaver.domain.message import Brief
from churnsaver.domain.world import World
from churnsaver.errors import CheckpointError
from churnsaver.reward.encoding import PairEncoder, RewardShape

REWARD = "reward"
SHAPE, TOKENIZER, HEADS = "reward.json", "tokenizer.json", "heads.safetensors"
SOURCE = "source.json"  # how the encoders were converted
ENCODER_CONFIG, VOCABULARY = "encoder.json", "vocabulary.json"
BATCH = 32
# Kernels of other processors round otherwise, int8 ones most; another model is further away.
GOLDEN_TOLERANCE = 0.1
MEND = "delete the folder and run this again, so that it is converted anew"


def member_file(number: int) -> str:
    """The file of a member's encoder in a served checkpoint."""
    return f"member_{number}.bin"


class RewardModel:
    """An ensemble that scores drafts: log-odds that people prefer a draft to a middling one, by member."""

    def __init__(
        self,
        encode: PairEncoder,
        encoders: Sequence[Any],
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
    ) -> None:
        self._encode, self._encoders = encode, encoders
        self._weight, self._bias = weight, bias

    @classmethod
    def load(cls, checkpoint: Checkpoint, threads: int = 1, *, world: World | None = None, check: bool = True) -> Self:
        """The model of a verified checkpoint of kind reward, once it scores its golden drafts as it did.

        Args:
            world: whose offers briefs name, where they are not those of its training: it is told an offer's purpose.
            check: whether it must; only who makes golden scores does without.

        Raises:
            CheckpointError: it cannot be loaded, or scores otherwise than when it was made.
        """
        try:
            shape = RewardShape.model_validate(checkpoint.read_json(SHAPE))
            heads = load(checkpoint.read(HEADS))
            tokenizer = Tokenizer.from_str(checkpoint.read(TOKENIZER).decode())
            encoders = [_encoder(checkpoint, number, threads) for number in range(shape.members)]
            model = cls(PairEncoder(tokenizer, shape), encoders, heads["weight"], heads["bias"])
        except CheckpointError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(f"{checkpoint.path}: is no reward model ({error}); {MEND}") from None
        if check:
            model.check_golden(checkpoint)
        return model if world is None else cls(model._encode.told_of(world), encoders, model._weight, model._bias)

    def scores(self, briefs: Sequence[Brief | None], drafts: Sequence[str]) -> NDArray[np.float64]:
        """What each member thinks of each draft for its brief, (drafts, members); higher is better.

        In units in which a difference of d between two drafts says that the better one is preferred with
        probability 1 / (1 + exp(-d)), on pairs as those that it was calibrated on.
        """
        scores = np.empty((len(drafts), len(self._encoders)))
        encoded = self._encode.encode(briefs, drafts)
        order = np.argsort([len(each.ids) for each in encoded], kind="stable")  # little padding
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            ids, types = [encoded[i].ids for i in rows], [encoded[i].type_ids for i in rows]
            for member, encoder in enumerate(self._encoders):
                found = encoder.forward_batch(ids, token_type_ids=types).pooler_output
                scores[rows, member] = np.asarray(found) @ self._weight[member] + self._bias[member]
        return scores

    def check_golden(self, checkpoint: Checkpoint) -> None:
        """CheckpointError where a golden draft scores otherwise than when the checkpoint was made."""
        golden = checkpoint.read_json(GOLDEN)
        briefs = [Brief.model_validate(case["brief"]) for case in golden]
        found = self.scores(briefs, [case["text"] for case in golden])
        expected = np.array([case["scores"] for case in golden])
        if not len(golden) or not np.all(np.abs(found - expected) <= GOLDEN_TOLERANCE):
            raise CheckpointError(
                f"{checkpoint.version}: scores its golden drafts {np.round(found, 2).tolist()}, it scored them "
                f"{np.round(expected, 2).tolist()} when it was made; {MEND}"
            )


def _encoder(checkpoint: Checkpoint, number: int, threads: int) -> Any:
    name = member_file(number)
    held = checkpoint.contents.get(name)
    files = {
        "model.bin": held if held is not None else (checkpoint.path / name).read_bytes(),
        "config.json": checkpoint.read(ENCODER_CONFIG),
        "vocabulary.json": checkpoint.read(VOCABULARY),
    }
    where = str(Path(checkpoint.path) / name)
    return ctranslate2.Encoder(where, device="cpu", inter_threads=1, intra_threads=threads, files=files)
