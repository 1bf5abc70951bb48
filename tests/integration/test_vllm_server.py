"""The engine on a real vLLM server with real adapters, where `make engine` installed one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from churnsaver.checkpoints import Checkpoint, open_checkpoint, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN
from churnsaver.errors import CheckpointError
from churnsaver.models.adapters import ADAPTER, BASE, WRITER
from churnsaver.models.language_model import GOLDEN_TOLERANCE_NATS
from churnsaver.settings import GeneratorSettings, load_serve_settings, load_world
from cli.vllm import ENGINE, vllm_command, vllm_environment
from services.generator import vllm_server
from services.generator.prompt import prompt
from services.generator.vllm_engine import VllmEngine
from services.generator.vllm_server import Models, VllmServer
from tests.conftest import free_port
from tests.support.metrics import sample
from tests.support.tiny_model import BRIEF, TEXTS

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]
READY_S = 900.0
WORLD = load_world()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratorSettings]:
    """Of a server that runs until the module ends."""
    if not (ENGINE / "bin" / "python").exists():
        pytest.skip(f"no vLLM in {ENGINE}; `make engine` installs it")
    folder = tmp_path_factory.mktemp("vllm")
    vllm = {
        "url": f"http://127.0.0.1:{free_port()}",
        "adapters": folder / "adapters",
        "max_concurrency": 4,
        "quantization": "none",
    }
    shipped = load_serve_settings()
    chosen = shipped.generator.model_dump() | {"engine": "vllm", "vllm": vllm, "max_new_tokens": 24}
    whole = shipped.model_copy(update={"generator": GeneratorSettings.model_validate(chosen)})
    with (folder / "log").open("wb") as log:
        process = psutil.Popen(
            vllm_command(whole), env={**os.environ, **vllm_environment(whole)}, stdout=log, stderr=subprocess.STDOUT
        )
    family: list[psutil.Process] = []
    try:
        wait_ready(str(whole.generator.vllm.url), process, folder / "log")
        family = process.children(recursive=True)
        yield whole.generator
    finally:
        process.terminate()
        _, alive = psutil.wait_procs([process, *family], timeout=30.0)
        for each in alive:
            each.kill()
    assert not alive, "the server leaves processes behind"


def wait_ready(url: str, process: psutil.Popen, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if httpx.get(f"{url}health", timeout=5.0).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise TimeoutError(log.read_text()[-2000:])


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Two adapters of the packaged base that change what it says, with golden messages as trainers write them."""
    import torch

    from trainers.rlhf.examples import WrittenMessage
    from trainers.rlhf.language_model import adapter_files, open_base, prepare_base
    from trainers.rlhf.lora import LoraSettings, new_adapter
    from trainers.rlhf.sft import examples_of, golden_messages

    base = prepare_base(load_serve_settings())
    found = {}
    for seed, name in enumerate(("first", "second")):
        loaded = open_base(base)
        torch.manual_seed(seed)
        lora = LoraSettings(rank=8, alpha=16, dropout=0.0, modules=("q_proj", "v_proj"), upper_layers=10)
        model = new_adapter(loaded, lora, "CAUSAL_LM")
        with torch.no_grad():
            for each, weight in model.named_parameters():
                if "lora_B" in each:
                    weight.normal_(std=0.05)
        message = WrittenMessage(brief=BRIEF, text=TEXTS[0])
        examples = examples_of([message], loaded, WORLD)
        golden = golden_messages(model.eval(), [message], examples, loaded.tokenizer.pad_token_id)
        folder = tmp_path_factory.mktemp("writers") / name
        write_checkpoint(folder, WRITER, adapter_files(model, loaded.base) | {GOLDEN: golden}, seed=seed, metrics={})
        found[name] = open_checkpoint(folder, WRITER)
    return found


@pytest.fixture
async def server(settings: GeneratorSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[VllmServer]:
    monkeypatch.setattr(vllm_server, "ANSWER_S", 60.0)  # on two cores that others use
    opened = VllmServer(settings.vllm)
    yield opened
    await opened.close()


async def names(server: VllmServer) -> list[str]:
    """The adapters that the server has."""
    return [model.id for model in (await server.ask(Models, "GET", "/v1/models")).data[1:]]


async def prefix_cache_hits(settings: GeneratorSettings) -> float:
    """Tokens of prompts that the server has not read again, so far."""
    async with httpx.AsyncClient(base_url=str(settings.vllm.url)) as client:
        families = text_string_to_metric_families((await client.get("metrics", timeout=60.0)).text)
    samples = [sample for family in families for sample in family.samples]
    return sum(each.value for each in samples if each.name == "vllm:prefix_cache_hits_total")


async def test_adapters_are_swapped_while_it_serves(
    server: VllmServer, settings: GeneratorSettings, adapters: dict[str, Checkpoint]
) -> None:
    """Golden messages are as likely as in training, a seed's texts are its own, and what was replaced is unloaded."""
    first, second = [await VllmEngine.open(server, adapters[name], settings, WORLD) for name in ("first", "second")]
    assert await names(server) == [first.version, second.version]
    told = prompt(BRIEF, WORLD)
    texts = await first.write(told, 2, 1)
    assert len({each.text for each in texts}) == 2
    kept = await prefix_cache_hits(settings)
    assert await first.write(told, 2, 1) == texts
    assert await prefix_cache_hits(settings) > kept, "the prompt was read anew"
    assert await second.write(told, 2, 1) != texts
    await first.close()
    assert await names(server) == [second.version]
    assert len(await second.write(told, 2, 1)) == 2
    await second.close()
    assert (await names(server), list(settings.vllm.adapters.iterdir())) == ([], [])


async def test_an_adapter_is_tried_while_another_writes(
    server: VllmServer, settings: GeneratorSettings, adapters: dict[str, Checkpoint]
) -> None:
    """vLLM 0.32 ended on that, as long as an adapter could change the output layer; the likelihoods are the same."""
    first = await VllmEngine.open(server, adapters["first"], settings, WORLD)
    writes = [asyncio.create_task(first.write(prompt(BRIEF, WORLD), 4, seed)) for seed in range(8)]
    await until_running(server, 16)
    for _ in range(3):
        second = await VllmEngine.open(server, adapters["second"], settings, WORLD)
        await second.close()
    assert not all(write.done() for write in writes), "nothing was written meanwhile"
    assert [len(texts) for texts in await asyncio.gather(*writes)] == [4] * 8
    await first.close()


async def test_a_write_that_is_given_up_frees_the_server(
    server: VllmServer, settings: GeneratorSettings, adapters: dict[str, Checkpoint]
) -> None:
    """Nobody waits, so vLLM aborts the texts."""
    longer = settings.model_copy(update={"max_new_tokens": 800})
    engine = await VllmEngine.open(server, adapters["first"], longer, WORLD)
    write = asyncio.create_task(engine.write(prompt(BRIEF, WORLD), 4, 1))
    await until_running(server, 4)
    write.cancel()
    await until_running(server, 0)
    await engine.close()


async def until_running(server: VllmServer, count: int) -> None:
    for _ in range(600):
        await server.look()
        if (running := sample("generator_engine_running", server=server.url)) == count:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{running} texts are being written, not {count}")


def altered(checkpoint: Checkpoint, folder: Path, name: str, content: bytes) -> Checkpoint:
    write_checkpoint(folder, WRITER, {**checkpoint.contents, name: content}, seed=1, metrics={})
    return open_checkpoint(folder, WRITER)


async def test_a_bad_adapter_leaves_no_trace_and_the_server_serves_on(
    server: VllmServer, settings: GeneratorSettings, adapters: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """One of another base, weights that are cut short, and one that judges its golden message otherwise."""
    good = adapters["first"]
    golden = good.read_json(GOLDEN)
    golden[0]["mean_log_prob"] -= 2 * GOLDEN_TOLERANCE_NATS
    for name, content, said in (
        (BASE, json.dumps({"name": "other", "sha256": "0" * 64}).encode(), "the adapter is for other@000000000000"),
        (ADAPTER, good.read(ADAPTER)[:10_000], "cannot load the adapter"),
        (GOLDEN, json.dumps(golden).encode(), "the golden message"),
    ):
        bad = altered(good, tmp_path / name, name, content)
        with pytest.raises(CheckpointError, match=said):
            await VllmEngine.open(server, bad, settings, WORLD)
        assert (await names(server), list(settings.vllm.adapters.iterdir())) == ([], [])
    engine = await VllmEngine.open(server, good, settings, WORLD)
    assert await engine.write(prompt(BRIEF, WORLD), 1, 1)
    await engine.close()
