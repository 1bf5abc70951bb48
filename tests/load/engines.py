"""The engines that could write our messages, compared: `python -m tests.load.engines`.

Each engine runs in a process of its own: how long it takes to load, by how much resident memory has grown since before
when it is loaded and at most while it writes, how many tokens a second it writes for one prompt, alone and in batches;
and, for our own, whether several requests are better written one after the other or together. What the process holds
before loading, our imports for the engine included, stands apart. Beside speed stands what the engine's arithmetic
costs: the perplexity of held-out texts, and for our own how often a reward model prefers its drafts to those of the
same model in float32, in pairs of drafts for one brief (ties count half; the interval is over briefs). What vLLM's fp8
costs on a GPU is measured without one: its rounding is done in float32 here, which tells the perplexity, and neither
speed nor memory. Linux only, for the memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from rich.table import Table

from churnsaver.checkpoints import open_checkpoint
from churnsaver.domain.message import Brief
from churnsaver.reward import RewardModel
from churnsaver.settings import DEFAULT_SEED, load_section, load_serve_settings, load_world
from services.generator.engine import SMALL_WRITE, InProcessEngine
from services.generator.prompt import prompt
from tests.load.processes import wide_console
from trainers.language_model.prepare import PACKAGED, bundled_writer, prepare_model
from trainers.rlhf.bundled import BUNDLED_REWARD
from trainers.rlhf.corpus import make_corpus
from trainers.rlhf.examples import WrittenMessage

REFERENCE, ROUNDED = "ctranslate2 float32", "vllm fp8, its rounding alone"
BATCHES = (1, 4, 16)
ROUNDS, REQUESTS = 3, 8
TEXTS, DRAFTS_PER_BRIEF = 128, 4
OWN = Path("/proc/self")  # Linux tells the peak of resident memory, and forgets it when it is told to


class Loading:
    """How long the context took, and this process's resident memory before and after it."""

    took_s = before_mb = after_mb = math.nan

    def __enter__(self) -> Self:
        self.before_mb, self._started = memory_mb("VmRSS"), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.took_s, self.after_mb = time.perf_counter() - self._started, memory_mb("VmRSS")


def memory_mb(of: Literal["VmRSS", "VmHWM"]) -> float:
    """The resident memory of this process, in MiB: now, or the most since `forget_peak` or its start."""
    lines = (OWN / "status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024.0 for line in lines if line.startswith(f"{of}:"))


def forget_peak() -> None:
    """From now on the peak of resident memory counts anew."""
    (OWN / "clear_refs").write_text("5")


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """Calls it in a process of its own, so that nothing of it stays in this one's memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


class Subject(Protocol):
    """An engine under measurement; it is loaded when it is made."""

    loading: Loading

    def write(self, prompt: str, count: int, seed: int) -> list[str]: ...

    def count_tokens(self, text: str) -> int: ...

    def log_probs(self, prompt: str, text: str) -> list[float]:
        """Of the tokens of `text` behind `prompt`, in nats."""
        ...


class CTranslate2:
    """The generator's own engine."""

    def __init__(self, quantization: str) -> None:
        settings = load_serve_settings()
        self._settings = settings.generator.model_copy(update={"threads": os.cpu_count()})
        name = settings.generator.model
        apart(prepare_model, settings.models, name, quantization, DEFAULT_SEED)
        with Loading() as self.loading:
            self._engine = InProcessEngine(open_checkpoint(settings.models / f"{name}-{quantization}"), self._settings)

    def write(self, prompt: str, count: int, seed: int) -> list[str]:
        return [candidate.text for candidate in asyncio.run(self._engine.write(prompt, count, seed))]

    def write_together(self, prompts: Sequence[str], count: int, seed: int) -> list[str]:
        """As `write`, for several prompts that are asked for at once."""

        async def ask() -> list[str]:
            written = await asyncio.gather(*(self._engine.write(each, count, seed) for each in prompts))
            return [candidate.text for candidates in written for candidate in candidates]

        return asyncio.run(ask())

    def count_tokens(self, text: str) -> int:
        return len(self._tokens(text))

    def log_probs(self, prompt: str, text: str) -> list[float]:
        tokens = self._tokens(text)
        # In its thread, which loads the model anew after each write.
        model: Any = self._engine._worker.submit(lambda: self._engine._model).result()
        (scored,) = model.score_batch([[*self._tokens(prompt), *tokens]])
        return list(scored.log_probs)[-len(tokens) :]

    def _tokens(self, text: str) -> list[str]:
        tokens: list[str] = self._engine._tokenizer.encode(text, add_special_tokens=False).tokens
        return tokens


class Transformers:
    """The trainers' model, with the adapter merged."""

    def __init__(self, *, fp8: bool = False) -> None:
        """`fp8`: the base's linear layers are rounded, and the adapter is beside them, as a vLLM server has it."""
        # Imported here, so that no other engine has them in its process.
        import torch

        from trainers.rlhf.language_model import load_adapter, open_base, prepare_base

        self._torch = torch
        torch.set_num_threads(os.cpu_count() or 1)
        settings = load_serve_settings()
        self._settings = settings.generator
        folder = apart(prepare_base, settings)
        writer = bundled_writer(PACKAGED[settings.generator.model])
        with Loading() as self.loading:
            loaded = open_base(folder)
            if fp8:
                round_to_fp8(loaded.model)
            self._model = loaded.model if writer is None else load_adapter(loaded, writer)
            if writer is not None and not fp8:
                self._model = self._model.merge_and_unload()
            self._tokenizer = loaded.tokenizer

    def write(self, prompt: str, count: int, seed: int) -> list[str]:
        self._torch.manual_seed(seed)
        ids = self._tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        settings = self._settings
        written = self._model.generate(
            **ids,
            do_sample=True,
            temperature=settings.temperature,
            top_k=settings.top_k,
            max_new_tokens=settings.max_new_tokens,
            num_return_sequences=count,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        texts: list[str] = self._tokenizer.batch_decode(written[:, ids.input_ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def count_tokens(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False).input_ids)

    def log_probs(self, prompt: str, text: str) -> list[float]:
        told, said = (self._tokenizer(each, add_special_tokens=False).input_ids for each in (prompt, text))
        with self._torch.no_grad():
            logits = self._model(self._torch.tensor([told + said])).logits[0, len(told) - 1 : -1]
        found: list[float] = logits.log_softmax(-1).gather(-1, self._torch.tensor(said)[:, None])[:, 0].tolist()
        return found


def round_to_fp8(model: Any) -> None:
    """Rounds to E4M3 what `vllm serve --quantization fp8_per_channel` rounds on a GPU: the decoder's linear layers.

    Weights have a scale for each output channel, inputs one for each token (`quantization/online` in vLLM 0.32).
    """
    import torch

    largest = torch.finfo(torch.float8_e4m3fn).max

    def rounded(values: torch.Tensor, amax: torch.Tensor) -> torch.Tensor:
        scale = (amax / largest).clamp_min(torch.finfo(torch.float32).tiny)
        return (values / scale).clamp(-largest, largest).to(torch.float8_e4m3fn).to(values.dtype) * scale

    def round_input(_: Any, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return rounded(inputs[0], inputs[0].abs().amax(-1, keepdim=True))

    for layer in model.model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            weight = layer.weight.data
            layer.weight.data = rounded(weight, weight.abs().amax(-1, keepdim=True))
            layer.register_forward_pre_hook(round_input)


ENGINES: dict[str, Callable[[], Any]] = {
    "transformers float32": Transformers,
    REFERENCE: partial(CTranslate2, "none"),
    "ctranslate2 int8": partial(CTranslate2, "int8"),
    ROUNDED: partial(Transformers, fp8=True),
}


def measure(name: str) -> dict[str, Any]:
    """One engine in this process: its figures, and the drafts that it wrote for the briefs of the held-out texts."""
    world, held_out = load_world(), held_out_texts()
    briefs = briefs_of(held_out)
    subject = ENGINES[name]()
    # What only rounds has neither a speed nor a size. Scoring comes last: it would count as memory for writing.
    figures = {} if name == ROUNDED else measure_writing(subject, [prompt(brief, world) for brief in briefs])
    tokens = [value for each in held_out for value in subject.log_probs(prompt(each.brief, world), each.text)]
    return {
        "engine": name,
        **figures,
        "perplexity": math.exp(-math.fsum(tokens) / len(tokens)),
        "drafts": [
            subject.write(prompt(brief, world), DRAFTS_PER_BRIEF, seed=number)
            for number, brief in enumerate(briefs)
            if isinstance(subject, CTranslate2)  # half an hour with Transformers
        ],
    }


def measure_writing(subject: Subject, prompts: Sequence[str]) -> dict[str, Any]:
    """How fast a loaded engine writes, and the memory that it takes."""
    forget_peak()
    subject.write(prompts[0], 1, seed=0)  # first use
    figures: dict[str, Any] = {
        "tokens_per_s": {
            str(count): _tokens_per_s(subject, partial(subject.write, prompts[0], count)) for count in BATCHES
        }
    }
    if isinstance(subject, CTranslate2):
        several = prompts[:REQUESTS]
        figures[f"tokens_per_s_of_{REQUESTS}_requests"] = {
            "one_after_the_other": _tokens_per_s(
                subject, lambda seed: [text for each in several for text in subject.write(each, SMALL_WRITE, seed)]
            ),
            "together": _tokens_per_s(subject, lambda seed: subject.write_together(several, SMALL_WRITE, seed)),
        }
    loading = subject.loading
    return {
        "load_s": loading.took_s,
        "before_load_memory_mb": loading.before_mb,
        "load_memory_mb": loading.after_mb - loading.before_mb,
        "writing_peak_memory_mb": memory_mb("VmHWM") - loading.before_mb,
        **figures,
    }


def held_out_texts() -> list[WrittenMessage]:
    """The same texts for every engine, spread over those of scenarios that the writer was not trained on."""
    found = make_corpus(DEFAULT_SEED, load_world()).test
    return found[:: max(1, len(found) // TEXTS)][:TEXTS]


def briefs_of(messages: Sequence[WrittenMessage]) -> list[Brief]:
    """The different briefs of texts, in order."""
    return list(dict.fromkeys(each.brief for each in messages))


def _tokens_per_s(subject: Subject, write: Callable[[int], list[str]]) -> float:
    """The best of several rounds."""
    rates = []
    for seed in range(ROUNDS):
        started = time.perf_counter()
        texts = write(seed)
        took_s = time.perf_counter() - started
        rates.append(sum(map(subject.count_tokens, texts)) / took_s)
    return max(rates)


def win_rate(
    ours: list[list[str]], theirs: list[list[str]], briefs: list[Brief], reward: RewardModel
) -> dict[str, Any]:
    """How often the reward model prefers one of ours to one of theirs for the same brief, with a 95 % interval."""
    shares = []
    for brief, own, other in zip(briefs, ours, theirs, strict=True):
        scored = reward.scores([brief] * (len(own) + len(other)), [*own, *other]).mean(axis=1)
        differences = scored[: len(own), None] - scored[None, len(own) :]
        shares.append(float(((differences > 0) + 0.5 * (differences == 0)).mean()))
    drawn = np.random.default_rng(DEFAULT_SEED).choice(shares, (10_000, len(shares))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"value": float(np.mean(shares)), "low": float(low), "high": float(high), "briefs": len(shares)}


def report() -> dict[str, Any]:
    """All engines, each in a fresh process, and their drafts against those of float32."""
    command = [sys.executable, "-m", "tests.load.engines", "--engine"]
    found = {}
    for name in ENGINES:
        done = subprocess.run([*command, name], stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout)
    # Imported here, so that the engines' processes do not have them.
    from trainers.rlhf.reward_model import RmSettings
    from trainers.rlhf.reward_serving import served_reward

    settings = load_serve_settings()
    reward = RewardModel.load(served_reward(BUNDLED_REWARD, settings.models, load_section("rm", RmSettings)))
    briefs = briefs_of(held_out_texts())
    drafts = {name: each.pop("drafts") for name, each in found.items()}
    for name, each in found.items():
        if drafts[name] and name != REFERENCE:
            each["win_rate_against_float32"] = win_rate(drafts[name], drafts[REFERENCE], briefs, reward)
    return {
        "engines": list(found.values()),
        "texts": TEXTS,
        "machine": {"cpus": os.cpu_count(), "platform": platform.machine(), "python": platform.python_version()},
        "load_average": os.getloadavg()[0],
    }


def print_table(document: Mapping[str, Any]) -> None:
    """The report for a person, on standard output."""
    title = "memory in MiB: before loading; by how much it has grown since when loaded, and at most while writing"
    table = Table(title=title, title_justify="left")
    batches = [f"tokens/s of {count}" for count in BATCHES]
    requests = [f"{REQUESTS} requests in turn", "together"]
    for column in ("engine", "load s", "before", "loaded", "writing", *batches, *requests, "perplexity", "wins"):
        table.add_column(column)
    for each in document["engines"]:
        memory = [each.get(f"{when}_memory_mb") for when in ("before_load", "load", "writing_peak")]
        alone = [each.get("tokens_per_s", {}).get(str(count)) for count in BATCHES]
        together = each.get(f"tokens_per_s_of_{REQUESTS}_requests", {})
        of_requests = [together.get(way) for way in ("one_after_the_other", "together")]
        wins = each.get("win_rate_against_float32", {}).get("value")
        figures = [_figure(each.get("load_s"), 2), *(_figure(value, 0) for value in memory)]
        figures += [_figure(value, 1) for value in (*alone, *of_requests)]
        table.add_row(each["engine"], *figures, _figure(each["perplexity"], 3), _figure(wins, 3))
    wide_console().print(table)


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=list(ENGINES), help="measure this one alone, in this process")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder for engines.json")
    arguments = parser.parse_args()
    if arguments.engine is not None:
        sys.stdout.write(json.dumps(measure(arguments.engine)) + "\n")
        return
    found = report()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "engines.json").write_text(json.dumps(found, indent=2) + "\n")
    print_table(found)


if __name__ == "__main__":
    main()
