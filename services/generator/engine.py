"""The engine that runs the model (law 7): a small protocol and the in-process one; `vllm_engine.py` has the other.

The in-process engine is CTranslate2 on the CPU: batches, int8 weights, no torch. One thread of ours feeds
it, at a lower priority than serving has, so that requests and the bank's filling take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import ctranslate2
import structlog

from churnsaver.checkpoints import Checkpoint
from churnsaver.errors import CheckpointError
from churnsaver.models.language_model import check_golden_texts, load_language_model
from churnsaver.settings import GeneratorSettings
from churnsaver.tasks import give_way
from services.generator import metrics

log = structlog.get_logger()

END_OF_TURN = "<|im_end|>"
# How many texts a request has written at once, the best of which it gets.
SMALL_WRITE = 4
# The reason of a failure that is nobody's fault: the engine is not there, or not yet.
AWAY = "away"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One text of the model.

    Attributes:
        ended: whether it came to an end by itself.
    """

    text: str
    ended: bool


class EngineFailed(Exception):
    """The engine could not write; the caller has a fallback. Each is counted by its reason, one word."""

    def __init__(self, reason: str, said: object) -> None:
        super().__init__(f"{reason}: {said}")
        self.reason = reason
        metrics.ENGINE_FAILURES.labels(reason).inc()


class Engine(Protocol):
    """Writes texts for a prompt."""

    @property
    def version(self) -> str: ...

    @property
    def expected_s(self) -> float:
        """How long a small write (SMALL_WRITE texts) asked for now would take, the wait for its turn included."""
        ...

    async def write(self, prompt: str, count: int, seed: int) -> list[Candidate]:
        """`count` texts for a conversation up to the model's turn. The same seed writes the same texts.

        Raises:
            EngineFailed: nothing could be written.
        """
        ...

    async def close(self) -> None:
        """Ends what it started and frees the model, once what is being written is done."""
        ...


class InProcessEngine:
    """CTranslate2 in this process, behind one worker thread."""

    def __init__(self, checkpoint: Checkpoint, settings: GeneratorSettings) -> None:
        """Loads a generator checkpoint; CheckpointError where it cannot be loaded or a golden text differs."""
        self.version = checkpoint.version
        self._folder, self._settings = checkpoint.path, settings
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine", initializer=give_way)
        self._waiting = 0
        self._small_write_s = self._longest_write_s = float("inf")  # until it has written, nobody knows
        self._model: ctranslate2.Generator | None = None
        try:
            # In the worker: the threads of CTranslate2 inherit its priority.
            self._worker.submit(self._open, checkpoint).result()
        except BaseException:
            self._end()
            raise

    @property
    def expected_s(self) -> float:
        ahead_s = self._waiting * self._longest_write_s if self._waiting else 0.0
        return self._small_write_s + ahead_s

    async def write(self, prompt: str, count: int, seed: int) -> list[Candidate]:
        given_up = threading.Event()
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._worker, self._write, prompt, count, seed, given_up)
        except Exception as error:  # CTranslate2 and tokenizers say what they like
            raise EngineFailed("broken", error) from error
        except asyncio.CancelledError:
            given_up.set()  # nobody waits for the texts any more, so the thread stops at the next token
            raise
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Ends the worker and frees the model; what is being written stops at the next token if it was given up."""
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._worker.submit(self._unload)
        self._worker.shutdown()
        _give_memory_back()

    def _open(self, checkpoint: Checkpoint) -> None:
        self._model, self._tokenizer = load_language_model(self._folder, self._settings.threads)
        check_golden_texts(checkpoint, self._model, self._tokenizer)

    def _write(self, prompt: str, count: int, seed: int, given_up: threading.Event) -> list[Candidate]:
        if given_up.is_set():
            return []
        started = time.perf_counter()
        ctranslate2.set_random_seed(seed)
        model = self._model or self._load()
        try:
            candidates = self._generate(model, prompt, count, given_up)
        finally:
            # CTranslate2 seeds a thread once, on its first draw, so a seed holds for a fresh model only. The
            # used one goes before its successor comes, so that there is one in memory.
            self._model = None
            model.unload_model()
            del model
        if not given_up.is_set():
            self._note_time(count, time.perf_counter() - started)
        _give_memory_back()
        try:
            self._model = self._load()
        except CheckpointError as error:
            log.warning("engine.not_loaded", reason=str(error))  # the next write tries again; this one is done
        return candidates

    def _generate(
        self, model: ctranslate2.Generator, prompt: str, count: int, given_up: threading.Event
    ) -> list[Candidate]:
        tokens: list[str] = self._tokenizer.encode(prompt, add_special_tokens=False).tokens
        results = model.generate_batch(
            [tokens[-1:]] * count,
            static_prompt=tokens[:-1],  # read once for all
            max_length=self._settings.max_new_tokens,
            sampling_topk=self._settings.top_k,
            sampling_temperature=self._settings.temperature,
            include_prompt_in_result=False,
            end_token=END_OF_TURN,
            return_end_token=True,
            callback=lambda _: given_up.is_set(),
        )
        return [self._candidate(result.sequences[0], result.sequences_ids[0]) for result in results]

    def _candidate(self, tokens: list[str], ids: list[int]) -> Candidate:
        ended = tokens[-1:] == [END_OF_TURN]
        return Candidate(self._tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False).strip(), ended)

    def _note_time(self, count: int, took_s: float) -> None:
        if count <= SMALL_WRITE:
            self._small_write_s = took_s
        known = self._longest_write_s if self._longest_write_s != float("inf") else 0.0
        self._longest_write_s = max(known, took_s)

    def _load(self) -> ctranslate2.Generator:
        model, _ = load_language_model(self._folder, self._settings.threads)
        return model

    def _unload(self) -> None:
        # Its threads end here, and not while the interpreter does.
        self._model = None


def _give_memory_back() -> None:
    """The system gets back what the C library keeps of freed models, so that memory does not creep up."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
