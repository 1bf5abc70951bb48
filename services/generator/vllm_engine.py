"""An adapter on a vLLM server, as the engine that writes.

The server loads an adapter by itself when it is first asked for under its name, from a folder that both see (vLLM's
`lora_filesystem_resolver`). So every replica of a server finds it, and so does one that was started anew. The name is
the checkpoint's version, which is derived from the weights: what the server has cached of a name is never stale.

A seed's texts are the same wherever the server computes alike; what else is in its batch may make it round otherwise.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Self

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from churnsaver.checkpoints import Checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN
from churnsaver.domain.world import World
from churnsaver.errors import CheckpointError
from churnsaver.models.adapters import BASE, Base, GoldenMessage
from churnsaver.models.language_model import GOLDEN_TOLERANCE_NATS
from churnsaver.settings import GeneratorSettings
from services.generator.engine import AWAY, END_OF_TURN, Candidate, EngineFailed
from services.generator.prompt import prompt
from services.generator.vllm_server import Refused, VllmServer

COMPLETIONS = "/v1/completions"
# A server that refused the adapter is asked again after so long, unless it was started anew.
LOAD_AGAIN_S = 60.0


class _Choice(BaseModel):
    index: int
    text: str
    finish_reason: str | None


class _Completion(BaseModel):
    choices: list[_Choice]


class _LogProb(BaseModel):
    logprob: float


class _ScoredPrompt(BaseModel):
    prompt_logprobs: list[dict[str, _LogProb] | None]  # of each token; the first has none


class _Scored(BaseModel):
    choices: list[_ScoredPrompt]


class _Tokens(BaseModel):
    tokens: list[int]


class Unopened:
    """Stands in for the engine of a server that has not been there yet: the bank and the approved texts serve."""

    expected_s = math.inf

    def __init__(self, version: str) -> None:
        self.version = version

    async def write(self, prompt: str, count: int, seed: int) -> list[Candidate]:
        raise EngineFailed(AWAY, "the vLLM server has not been there yet")

    async def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why the server did not get the adapter; its `times_back` then, and the monotonic clock."""

    reason: str
    times_back: int
    at: float


class VllmEngine:
    """Writes with one adapter; made by `open`, never directly."""

    def __init__(self, server: VllmServer, checkpoint: Checkpoint, settings: GeneratorSettings, world: World) -> None:
        self.version = checkpoint.version
        self._server, self._checkpoint, self._settings, self._world = server, checkpoint, settings, world
        self._base, self._golden = _base(checkpoint), _golden(checkpoint)
        self._loaded_at: int | None = None  # the server's `times_back` then
        self._loading: asyncio.Task[None] | None = None
        self._refusal: _Refusal | None = None
        self._writing = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        server.adapters.hold(self.version)

    @classmethod
    async def open(
        cls,
        server: VllmServer,
        checkpoint: Checkpoint,
        settings: GeneratorSettings,
        world: World,
    ) -> Self:
        """The engine of a writer checkpoint, loaded and tried on its golden messages.

        Raises:
            CheckpointError: the adapter is for another base, cannot be loaded, or a golden message is more or less
                likely than when it was trained. Nothing of it is left on the server.
            EngineFailed: the server is away, or fails.
        """
        engine = cls(server, checkpoint, settings, world)
        try:
            await engine._load()
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def expected_s(self) -> float:
        if self._loading is not None and not self._loading.done():
            return math.inf  # a server that was started anew gets the adapter first
        if self._standing_refusal is not None:
            return math.inf
        return self._server.expected_s

    async def write(self, prompt: str, count: int, seed: int) -> list[Candidate]:
        if self._closed:
            raise EngineFailed("broken", f"{self.version} was replaced")
        self._writing += 1
        self._idle.clear()
        try:
            await self._load_if_needed()
            async with self._server.turn(count):
                return await self._write(prompt, count, seed)
        finally:
            self._writing -= 1
            if not self._writing:
                self._idle.set()

    async def close(self) -> None:
        """Unloads the adapter once nothing is written with it, unless another engine has the same."""
        await self._idle.wait()
        if self._closed:
            return
        self._closed = True
        if self._loading is not None:
            await asyncio.wait([self._loading])  # a thread that writes files goes on, whoever cancels it
        await self._server.let_go(self.version)

    async def _write(self, prompt: str, count: int, seed: int) -> list[Candidate]:
        body = {
            "model": self.version,
            "prompt": prompt,
            "n": count,
            "seed": seed,
            "max_tokens": self._settings.max_new_tokens,
            "temperature": self._settings.temperature,
            "top_k": self._settings.top_k,
            "stop": [END_OF_TURN],
            "add_special_tokens": False,  # the prompt is ChatML already
            "skip_special_tokens": False,  # one in the middle of a text is a fault that is to be seen
        }
        try:
            answer = await self._server.ask(_Completion, "POST", COMPLETIONS, body)
        except Refused as error:
            # A server that was started anew while the folder was gone, for instance: the next write mends it. Other
            # requests are refused for themselves, such as one that is too long.
            if error.status == httpx.codes.NOT_FOUND or self.version in error.said:
                self._loaded_at = None
            raise
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        if [choice.index for choice in choices] != list(range(count)):
            raise EngineFailed("garbage", f"{len(choices)} texts in place of {count}")
        return [Candidate(choice.text.strip(), choice.finish_reason == "stop") for choice in choices]

    # -- loading and trying ----------------------------------------------------------------------------

    async def _load_if_needed(self) -> None:
        """Loads anew what the server has lost, apart from the request: its deadline is shorter than that takes."""
        if self._loaded_at == self._server.times_back:
            return
        if (refusal := self._standing_refusal) is not None:
            raise EngineFailed("refused", refusal.reason)
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load())
            self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.shield(self._loading)
        except CheckpointError as error:
            raise EngineFailed("refused", error) from None

    @property
    def _standing_refusal(self) -> _Refusal | None:
        """The last one, as long as asking the same server again would be in vain."""
        if (last := self._refusal) is None or last.times_back != self._server.times_back:
            return None
        return last if time.monotonic() - last.at < LOAD_AGAIN_S else None

    async def _load(self) -> None:
        times_back = self._server.times_back
        try:
            await self._load_and_try()
        except CheckpointError as error:
            self._refusal = _Refusal(str(error), times_back, time.monotonic())
            raise
        self._loaded_at = times_back

    async def _load_and_try(self) -> None:
        base = await self._server.base()
        if base.id != self._base.served_name:
            raise CheckpointError(
                f"{self.version}: the adapter is for {self._base.served_name}, the server at {self._server.url} has "
                f"{base.id}; start it with --served-model-name {self._base.served_name} and that model, or publish an "
                "adapter that was trained on the model that it has"
            )
        await asyncio.to_thread(self._server.adapters.put, self._checkpoint, base.root)
        for case in self._golden:
            await self._try(case)

    async def _try(self, case: GoldenMessage) -> None:
        try:
            found = await self._mean_log_prob(prompt(case.brief, self._world), case.text + END_OF_TURN)
        except EngineFailed as error:
            if error.reason != "refused":
                raise
            raise CheckpointError(f"{self.version}: the vLLM server cannot load the adapter ({error})") from None
        if not abs(found - case.mean_log_prob) <= GOLDEN_TOLERANCE_NATS:  # a NaN is a difference, too
            raise CheckpointError(
                f"{self.version}: the golden message {case.text[:30]!r}… has a mean log-probability of {found:.3f}, it "
                f"had {case.mean_log_prob:.3f} when the adapter was trained; train and publish it again"
            )

    async def _mean_log_prob(self, told: str, text: str) -> float:
        """Mean log-probability of the tokens of `text` after `told`, in nats, read apart as in training."""
        prompt, tokens = await self._tokens(told), await self._tokens(text)
        body = {"model": self.version, "prompt": prompt + tokens, "max_tokens": 1, "prompt_logprobs": 0}
        answer = await self._server.ask(_Scored, "POST", COMPLETIONS, body)
        found = [entry for choice in answer.choices for entry in choice.prompt_logprobs[len(prompt) :]]
        if len(found) != len(tokens) or not all(found):
            raise EngineFailed("garbage", "the tokens of a golden message have no log-probabilities")
        return math.fsum(token.logprob for entry in found if entry for token in entry.values()) / len(found)

    async def _tokens(self, text: str) -> list[int]:
        body = {"model": self.version, "prompt": text, "add_special_tokens": False}
        return (await self._server.ask(_Tokens, "POST", "/tokenize", body)).tokens


def _base(checkpoint: Checkpoint) -> Base:
    try:
        return Base.model_validate(checkpoint.read_json(BASE))
    except ValidationError:
        raise CheckpointError(
            f"{checkpoint.path / BASE}: does not say what the adapter is for; train it again"
        ) from None


def _golden(checkpoint: Checkpoint) -> list[GoldenMessage]:
    try:
        golden = TypeAdapter(list[GoldenMessage]).validate_python(checkpoint.read_json(GOLDEN))
    except ValidationError:
        raise CheckpointError(f"{checkpoint.path / GOLDEN}: holds no golden messages; train it again") from None
    if not golden:
        raise CheckpointError(f"{checkpoint.path / GOLDEN}: is empty; train it again")
    return golden
