"""Who is written together by the in-process engine, over a model that does as it is told."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from churnsaver.checkpoints import Checkpoint
from churnsaver.settings import load_serve_settings
from services.generator import engine as engine_module
from services.generator.engine import COMPANY, SMALL_WRITE, TOGETHER, Candidate, EngineFailed, InProcessEngine
from tests.support.generator import until

SYSTEM = ["<", "be", "kind", ">"]


class Model:
    """Repeats each prompt's end, once it is let; `batches` are the prompts' ends of each call."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.shared: list[Any] = []
        self.stopped: list[bool] = []
        self.may_go, self.broken = threading.Semaphore(0), False

    def generate_batch(self, starts: list[list[str]], *, static_prompt: Any, callback: Any, **_: Any) -> list[Any]:
        self.batches.append([start[-1] for start in starts])
        self.shared.append(static_prompt)
        self.may_go.acquire()
        self.stopped = [callback(SimpleNamespace(batch_id=number)) for number in range(len(starts))]
        if self.broken:
            raise RuntimeError("out of memory")
        return [SimpleNamespace(sequences=[[start[-1]]], sequences_ids=[[start[-1]]]) for start in starts]

    def unload_model(self) -> None:
        """Nothing to free."""


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    tokenizer = Mock(
        encode=lambda text, **_: Mock(tokens=[*SYSTEM, *text.split()]), decode=lambda ids, **_: " ".join(ids)
    )
    monkeypatch.setattr(engine_module, "load_language_model", lambda *_: (model, tokenizer))
    monkeypatch.setattr(engine_module, "check_golden_texts", Mock())
    return model


@pytest.fixture
async def engine(model: Model) -> AsyncIterator[InProcessEngine]:
    checkpoint = SimpleNamespace(version="generator@1", path=Path("nowhere"))
    engine = InProcessEngine(cast("Checkpoint", checkpoint), load_serve_settings().generator)
    yield engine
    for _ in range(20):
        model.may_go.release()
    await engine.close()


async def begun(engine: InProcessEngine, model: Model, *asked: tuple[str, int]) -> list[asyncio.Task[list[Candidate]]]:
    """Writes of which the first is being written and the others wait."""
    first, *others = asked
    tasks = [asyncio.create_task(engine.write(*first, seed=1))]
    await until(lambda: len(model.batches) == 1)
    tasks += [asyncio.create_task(engine.write(*each, seed=2)) for each in others]
    await asyncio.sleep(0)
    return tasks


async def test_requests_that_wait_are_written_together(engine: InProcessEngine, model: Model) -> None:
    """As many as go together, in order; each gets its own texts, and what all begin with is read once."""
    names = [f"b{number}" for number in range(TOGETHER + 1)]
    tasks = await begun(engine, model, ("hello a", 1), *((f"hello {name}", 2) for name in names))
    for _ in range(3):
        model.may_go.release()
    written = await asyncio.gather(*tasks)
    assert model.batches == [["a"], [name for name in names[:TOGETHER] for _ in range(2)], [names[-1]] * 2]
    assert [[each.text for each in texts] for texts in written] == [["a"], *([name] * 2 for name in names)]
    assert model.shared == [[*SYSTEM, "hello"]] * 3


async def test_what_is_written_ahead_keeps_to_itself(engine: InProcessEngine, model: Model) -> None:
    """The bank's seeds must not hear of requests; those that wait behind its write go together."""
    many = SMALL_WRITE + 1
    tasks = await begun(engine, model, ("x a", many), ("x b", 1), ("x c", many), ("x d", 1))
    for _ in range(3):
        model.may_go.release()
    await asyncio.gather(*tasks)
    assert model.batches == [["a"] * many, ["b", "d"], ["c"] * many]


async def test_one_that_gives_up_stops_alone(engine: InProcessEngine, model: Model) -> None:
    """What waits is not begun; what is being written stops, and its company does not."""
    running, first, second, third = await begun(engine, model, ("x a", 1), ("x b", 1), ("x c", 1), ("x d", 1))
    first.cancel()
    await asyncio.wait([first])
    model.may_go.release()
    await running
    await until(lambda: len(model.batches) == 2)
    assert model.batches[1] == ["c", "d"]
    third.cancel()
    await asyncio.wait([third])
    model.may_go.release()
    assert [each.text for each in await second] == ["c"]
    assert model.stopped == [False, True]


async def test_all_of_a_batch_hear_of_its_failure(engine: InProcessEngine, model: Model) -> None:
    """And the next write is tried again."""
    running, *others = await begun(engine, model, ("x a", 1), ("x b", 1), ("x c", 1))
    model.may_go.release()
    await running
    model.broken = True
    model.may_go.release()
    for failed in await asyncio.gather(*others, return_exceptions=True):
        assert isinstance(failed, EngineFailed)
        assert failed.reason == "broken"
    model.broken = False
    model.may_go.release()
    assert [each.text for each in await engine.write("x d", 1, 1)] == ["d"]


async def test_what_is_expected_follows_what_writes_took(engine: InProcessEngine, model: Model) -> None:
    """A batch, alone or not, says how long one takes; one that was given up at least that; a larger one at most."""
    one, several = [engine_module._Write("x", 1, 1)], [engine_module._Write("x", 1, 1) for _ in range(TOGETHER)]
    large = [engine_module._Write("x", SMALL_WRITE + 1, 1)]
    assert math.isinf(engine.expected_s)
    engine._note_time(several, 3.5)
    assert engine.expected_s == pytest.approx(3.5 / (1 + 3 * COMPANY))
    engine._note_time(one, 1.0)
    assert engine.expected_s == 1.0
    one[0].given_up.set()
    engine._note_time(one, 0.5)
    assert engine.expected_s == 1.0
    engine._note_time(one, 4.0)
    assert engine.expected_s == 4.0
    engine._note_time(large, 2.0)
    assert engine.expected_s == 2.0


async def test_nobody_waits_for_the_first_write(engine: InProcessEngine, model: Model) -> None:
    """How long it takes is known once it is done."""
    (first,) = await begun(engine, model, ("x a", 1))
    assert engine.expected_s == math.inf
    model.may_go.release()
    await first
    await until(lambda: math.isfinite(engine.expected_s))  # the worker ends its turn a moment after the texts are there


async def test_a_request_that_waits_reckons_with_company(engine: InProcessEngine, model: Model) -> None:
    """Whoever asks later joins it: what runs, the full batches ahead, and a full batch of its own."""
    engine._small_write_s, engine._large_write_s, engine._renewal_s = 1.0, 10.0, 0.25
    full_s = 1 + 3 * COMPANY
    tasks = await begun(engine, model, ("x a", 1))
    assert engine.expected_s == pytest.approx(1.0 + 0.25 + full_s)
    for name in range(TOGETHER):
        tasks.append(asyncio.create_task(engine.write(f"x {name}", 1, 1)))
    tasks.append(asyncio.create_task(engine.write("x large", SMALL_WRITE + 1, 1)))
    await asyncio.sleep(0)
    assert engine.expected_s == pytest.approx(1.25 + (full_s + 0.25) + 10.25 + full_s)
    tasks[-1].cancel()
    await asyncio.wait([tasks[-1]])
    assert engine.expected_s == pytest.approx(1.25 + (full_s + 0.25) + full_s)
    for _ in range(2):
        model.may_go.release()
    await asyncio.gather(*tasks[:-1])
