"""The engine that runs the model (law 7): a small protocol and the in-process one.

The in-process engine is CTranslate2 on the CPU: batches, int8 weights, no torch. One thread of ours feeds
it, so that requests and the bank's filling take turns and a seed means the same text every time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ctranslate2
from tokenizers import Tokenizer

from churnsaver.errors import BadInput
from churnsaver.models.language_model import MEND, LanguageModelManifest, verify_language_model
from churnsaver.settings import GeneratorSettings
from services.generator.prompt import Prompt

END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One text of the model.

    Attributes:
        text: opening included.
        score: mean log-probability of its tokens, at most 0; how sure the model was.
    """

    text: str
    score: float


class Engine(Protocol):
    """Writes texts for prompts."""

    @property
    def version(self) -> str: ...

    @property
    def busy(self) -> bool: ...

    @property
    def seconds_per_text(self) -> float: ...

    async def write(self, prompts: Sequence[Prompt], seed: int) -> list[Candidate]: ...


class InProcessEngine:
    """CTranslate2 in this process, behind one worker thread."""

    def __init__(self, folder: Path, settings: GeneratorSettings) -> None:
        self.manifest: LanguageModelManifest = verify_language_model(folder)
        self._settings = settings
        try:
            self._model = ctranslate2.Generator(
                str(folder), device="cpu", inter_threads=1, intra_threads=settings.threads
            )
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except (RuntimeError, ValueError) as error:
            raise BadInput(f"{folder}: cannot be loaded ({error}); delete it and {MEND}") from None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._waiting = 0
        self._seconds_per_text = float("inf")  # until something was written, nobody knows

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def busy(self) -> bool:
        """Whether somebody would have to wait for their turn."""
        return self._waiting > 0

    @property
    def seconds_per_text(self) -> float:
        """How long one text alone took, the last time one was written alone."""
        return self._seconds_per_text

    async def write(self, prompts: Sequence[Prompt], seed: int) -> list[Candidate]:
        """A text for each prompt; all must share their conversation. The same seed writes the same texts."""
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, self._write, prompts, seed)
        finally:
            self._waiting -= 1

    def _write(self, prompts: Sequence[Prompt], seed: int) -> list[Candidate]:
        started = time.perf_counter()
        ctranslate2.set_random_seed(seed)
        shared = self._tokens(prompts[0].conversation)
        # The model reads the shared conversation once; what differs must hold at least one token.
        results = self._model.generate_batch(
            [[shared[-1], *self._tokens(prompt.opening)] for prompt in prompts],
            static_prompt=shared[:-1],
            cache_static_prompt=True,
            max_length=self._settings.max_new_tokens,
            sampling_topk=0,
            sampling_topp=self._settings.top_p,
            sampling_temperature=self._settings.temperature,
            include_prompt_in_result=False,
            end_token=END_OF_TURN,
            return_scores=True,
        )
        if len(prompts) == 1:
            self._seconds_per_text = time.perf_counter() - started
        texts = (self._tokenizer.decode(result.sequences_ids[0]) for result in results)
        return [Candidate(text.strip(), float(result.scores[0])) for text, result in zip(texts, results, strict=True)]

    def _tokens(self, text: str) -> list[str]:
        tokens: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return tokens
