"""The engine that runs the model (law 7): a small protocol and the in-process one; `vllm_engine.py` has the other.

The in-process engine is CTranslate2 on the CPU: batches, int8 weights, no torch. One thread of ours feeds
it, at a lower priority than serving has, so that requests and the bank's filling take turns; requests that wait at the
same time are written together (docs/adr/0024).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
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
# So many small writes are written at once, and each waits for all: another one takes a quarter of the time of the first
# again, or less (four in a batch took 1.5 times as long as one in int8, 1.7 in float32, on 2026-11-26).
TOGETHER, COMPANY = 4, 0.25
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
        """`count` texts for a conversation up to the model's turn.

        The same seed writes the same texts, but for a small write that shares a batch with others: its texts depend
        on theirs, too (docs/adr/0024).

        Raises:
            EngineFailed: nothing could be written.
        """
        ...

    async def close(self) -> None:
        """Ends what it started and frees the model, once what is being written is done."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Write:
    """What was asked for; `done` is cancelled, or `given_up` set once it is being written, when nobody waits."""

    prompt: str
    count: int
    seed: int
    done: Future[list[Candidate]] = field(default_factory=Future)
    given_up: threading.Event = field(default_factory=threading.Event)

    @property
    def small(self) -> bool:
        return self.count <= SMALL_WRITE


class InProcessEngine:
    """CTranslate2 in this process, behind one worker thread."""

    def __init__(self, checkpoint: Checkpoint, settings: GeneratorSettings) -> None:
        """Loads a generator checkpoint; CheckpointError where it cannot be loaded or a golden text differs."""
        self.version = checkpoint.version
        self._folder, self._settings = checkpoint.path, settings
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine", initializer=give_way)
        self._asked: deque[_Write] = deque()
        self._lock = threading.Lock()  # of what was asked for
        # How long a small write takes alone, a larger one, and loading the model anew after each.
        self._small_write_s = math.inf  # until it has written, nobody knows
        self._large_write_s = self._renewal_s = 0.0
        self._running_s = 0.0  # how long what is being done is expected to take
        self._model: ctranslate2.Generator | None = None
        try:
            # In the worker: the threads of CTranslate2 inherit its priority.
            self._worker.submit(self._open, checkpoint).result()
        except BaseException:
            self._end()
            raise

    @property
    def expected_s(self) -> float:
        if math.isinf(self._small_write_s):
            return math.inf
        with self._lock:
            waiting = [each for each in self._asked if not each.done.cancelled()]
        if not waiting and not self._running_s:
            return self._small_write_s
        # Whoever comes until its turn joins the one that asks.
        small, together_s = sum(each.small for each in waiting), self._small_write_s * _times(TOGETHER)
        ahead_s = small // TOGETHER * (together_s + self._renewal_s)
        ahead_s += (len(waiting) - small) * (self._large_write_s + self._renewal_s)
        return self._running_s + ahead_s + together_s

    async def write(self, prompt: str, count: int, seed: int) -> list[Candidate]:
        asked = _Write(prompt, count, seed)
        with self._lock:
            self._asked.append(asked)
        try:
            self._worker.submit(self._write_next)
            return await asyncio.wrap_future(asked.done)
        except Exception as error:  # CTranslate2 and tokenizers say what they like
            raise EngineFailed("broken", error) from error
        except asyncio.CancelledError:
            asked.given_up.set()  # nobody waits for the texts any more, so the thread stops at the next token
            raise

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

    def _write_next(self) -> None:
        """Writes what was asked for first, and what may be written with it."""
        with self._lock:
            together = self._take_next()
        if not together:
            return  # it was written with another's
        started = time.monotonic()
        expected_s = self._small_write_s * _times(len(together)) if together[0].small else self._large_write_s
        self._running_s = expected_s + self._renewal_s
        try:
            written = self._write(together)
        except BaseException as error:  # whatever it is (tokenizers panics with no Exception), somebody waits
            for each in together:
                each.done.set_exception(RuntimeError(repr(error)))
        else:
            self._note_time(together, time.monotonic() - started)
            for each, candidates in zip(together, written, strict=True):
                each.done.set_result(candidates)
        finally:
            self._running_s = self._renewal_s
            self._renew()
            self._running_s = 0.0

    def _take_next(self) -> list[_Write]:
        """The first write that somebody waits for; with a small one those that wait, too, as many as go together."""
        taken: list[_Write] = []
        for each in tuple(self._asked):
            if taken and not (taken[0].small and each.small):
                continue
            self._asked.remove(each)
            if each.done.set_running_or_notify_cancel():
                taken.append(each)
            if len(taken) == TOGETHER:
                break
        return taken

    def _write(self, together: Sequence[_Write]) -> list[list[Candidate]]:
        ctranslate2.set_random_seed(together[0].seed)
        model = self._model or self._load()
        try:
            return self._generate(model, together)
        finally:
            # CTranslate2 seeds a thread once, on its first draw, so a seed holds for a fresh model only. The
            # used one goes before its successor comes, so that there is one in memory.
            self._model = None
            model.unload_model()
            del model

    def _generate(self, model: ctranslate2.Generator, together: Sequence[_Write]) -> list[list[Candidate]]:
        prompts: list[list[str]] = [
            self._tokenizer.encode(each.prompt, add_special_tokens=False).tokens for each in together
        ]
        # What all begin with is read once; the last token of each stands outside, for a text needs one to go on from.
        columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
        shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
        texts = [each for each in together for _ in range(each.count)]
        results = model.generate_batch(
            [prompt[len(shared) :] for each, prompt in zip(together, prompts, strict=True) for _ in range(each.count)],
            static_prompt=shared or None,
            max_length=self._settings.max_new_tokens,
            sampling_topk=self._settings.top_k,
            sampling_temperature=self._settings.temperature,
            include_prompt_in_result=False,
            end_token=END_OF_TURN,
            return_end_token=True,
            callback=lambda step: texts[step.batch_id].given_up.is_set(),
        )
        found = iter([self._candidate(result.sequences[0], result.sequences_ids[0]) for result in results])
        return [[next(found) for _ in range(each.count)] for each in together]

    def _candidate(self, tokens: list[str], ids: list[int]) -> Candidate:
        ended = tokens[-1:] == [END_OF_TURN]
        return Candidate(self._tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False).strip(), ended)

    def _note_time(self, together: Sequence[_Write], took_s: float) -> None:
        """A write that was given up would have taken at least as long."""
        given_up = any(each.given_up.is_set() for each in together)
        if together[0].small:
            alone_s = took_s / _times(len(together))
            if not given_up or self._small_write_s < alone_s:
                self._small_write_s = alone_s
            self._large_write_s = max(self._large_write_s, took_s)
        elif not given_up:
            self._large_write_s = took_s
            # What was timed while the machine was busy does not hold for ever: a small write takes no longer than this.
            self._small_write_s = min(self._small_write_s, took_s)

    def _renew(self) -> None:
        """Makes ready for the next write, which loads the model itself where that fails here."""
        _give_memory_back()
        started = time.monotonic()
        try:
            self._model = self._load()
        except CheckpointError as error:
            log.warning("engine.not_loaded", reason=str(error))
        self._renewal_s = time.monotonic() - started

    def _load(self) -> ctranslate2.Generator:
        model, _ = load_language_model(self._folder, self._settings.threads)
        return model

    def _unload(self) -> None:
        # Its threads end here, and not while the interpreter does.
        self._model = None


def _times(together: int) -> float:
    """How many times as long as one small write so many take together."""
    return 1.0 + COMPANY * (together - 1)


def _give_memory_back() -> None:
    """The system gets back what the C library keeps of freed models, so that memory does not creep up."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
