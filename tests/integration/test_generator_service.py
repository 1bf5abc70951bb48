"""The generator over real gRPC, with a scripted engine; and the real engine where its model is prepared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from churnsaver.checkpoints import Checkpoint, open_checkpoint, write_checkpoint
from churnsaver.domain.message import Brief
from churnsaver.domain.writing import SUBJECT
from churnsaver.errors import CheckpointError
from churnsaver.message_counts import message_counts_key
from churnsaver.models.language_model import GENERATOR, GOLDEN_TOLERANCE_NATS, model_folder
from churnsaver.rpc.server import MetricsInterceptor, ServerOptions
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc
from churnsaver.settings import load_message_books, load_serve_settings, load_world
from cli.generate import TIMEOUT_S
from services.generator.bank import Bank
from services.generator.engine import Candidate, InProcessEngine
from services.generator.generate import Writer
from services.generator.prompt import prompt
from services.generator.server import register
from services.generator.vllm_server import SILENCE_S
from tests.conftest import RedisServer, free_port
from tests.e2e.conftest import run_cli
from tests.support.generator import ScriptedEngine, ScriptedReview, ScriptedReward, build_bank, filled
from tests.support.metrics import grows, sample
from trainers.rlhf.text_reward import ShieldFilter

SETTINGS = load_serve_settings()
MODEL = model_folder(SETTINGS.models, SETTINGS.generator.model, SETTINGS.generator.quantization)


def brief(**changes: str) -> pb.Brief:
    fields = {"segment": "new", "offer": "check_in", "tone": "warm", "channel": "sms", "language": "en"}
    fields |= {"reason": "general"}
    return pb.Brief(**(fields | changes))


def domain_brief() -> Brief:
    return Brief(segment="new", offer="check_in", tone="warm", channel="sms", language="en")


def build_writer(bank: Bank, engine: ScriptedEngine, review: ScriptedReview) -> Writer:
    return Writer(load_world(), load_message_books(), bank, engine, ScriptedReward(), review)


@contextlib.asynccontextmanager
async def served(writer: Writer | None) -> AsyncIterator[str]:
    """Where a writer answers; without one, nobody speaks the protocol."""
    server = grpc.aio.server(interceptors=[MetricsInterceptor()])
    if writer is not None:
        register(server, lambda: writer)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def address(redis_instance: RedisServer) -> AsyncIterator[str]:
    """Where a generator with a full bank listens."""
    redis = Redis.from_url(redis_instance.url)
    engine, review = ScriptedEngine(), ScriptedReview()
    bank = await filled(build_bank(redis, engine, review))
    async with served(build_writer(bank, engine, review)) as address:
        yield address
    await redis.aclose()


@pytest.fixture
async def stub(address: str) -> AsyncIterator[generator_grpc.GeneratorServiceAsyncStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield generator_grpc.GeneratorServiceStub(channel)


async def test_a_known_brief_is_answered_from_the_bank(stub: generator_grpc.GeneratorServiceAsyncStub) -> None:
    """The same seed gives the same message; the propensity and the model that wrote it are said."""
    request = pb.GenerateRequest(brief=brief(), seed=2**63 + 7)
    answer = await stub.Generate(request, timeout=1.0)
    assert answer.source == pb.MESSAGE_SOURCE_BANK
    assert 0.1 <= answer.propensity < 1.0
    assert answer.model_version == "scripted@1"
    assert await stub.Generate(request, timeout=1.0) == answer


async def test_a_tone_that_the_bank_does_not_hold_is_written_live(
    stub: generator_grpc.GeneratorServiceAsyncStub,
) -> None:
    """The deadline of the call is the time that the model has."""
    answer = await stub.Generate(pb.GenerateRequest(brief=brief(tone="plain"), seed=1), timeout=5.0)
    assert answer.source == pb.MESSAGE_SOURCE_MODEL


async def test_a_call_that_is_cancelled_ends_the_writing(redis_instance: RedisServer) -> None:
    """The engine hears of it: with vLLM, the server stops at once."""
    begun, ended = asyncio.Event(), asyncio.Event()

    class SlowEngine(ScriptedEngine):
        async def write(self, prompt: str, count: int, seed: int) -> list[Candidate]:
            begun.set()
            try:
                await asyncio.sleep(60.0)
            except asyncio.CancelledError:
                ended.set()
                raise
            return []

    redis = Redis.from_url(redis_instance.url)
    engine, review = SlowEngine(), ScriptedReview()
    writer = build_writer(build_bank(redis, engine, review), engine, review)
    async with served(writer) as address, grpc.aio.insecure_channel(address) as channel, asyncio.timeout(10.0):
        call = generator_grpc.GeneratorServiceStub(channel).Generate(pb.GenerateRequest(brief=brief()), timeout=60.0)
        await begun.wait()
        call.cancel()
        await ended.wait()
    await redis.aclose()


async def test_the_bank_and_who_waits_for_the_model_are_shown(redis_instance: RedisServer) -> None:
    """Coverage is what there is over what is wanted; a request waits until its text is written."""
    redis = Redis.from_url(redis_instance.url)
    waiting: list[float | None] = []

    class WatchedEngine(ScriptedEngine):
        async def write(self, prompt: str, count: int, seed: int) -> list[Candidate]:
            waiting.append(sample("generator_queue_depth"))
            return await super().write(prompt, count, seed)

    engine, review = WatchedEngine(), ScriptedReview()
    bank = build_bank(redis, engine, review)
    await bank.load()
    assert (sample("generator_bank_briefs"), sample("generator_bank_briefs_wanted")) == (0, 45)
    await build_writer(bank, engine, review).write(domain_brief(), 1, 5.0)
    assert (waiting, sample("generator_queue_depth")) == ([1], 0)
    with grows("generator_messages_total", source="bank"):
        await filled(bank)
        await build_writer(bank, engine, review).write(domain_brief(), 1, 5.0)
    assert sample("generator_bank_briefs") == 45
    assert set(waiting[1:]) == {0}, "the bank's own writing is no request"
    await redis.aclose()


async def test_a_brief_that_cannot_be_is_refused(stub: generator_grpc.GeneratorServiceAsyncStub) -> None:
    """INVALID_ARGUMENT names the field, also where it is left out."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(pb.GenerateRequest(brief=brief(channel="fax"), seed=1))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "brief.channel is 'fax'; expected one of email, sms, push"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(pb.GenerateRequest(seed=1))
    assert caught.value.details() == "brief.segment is ''; expected one of new, settled, loyal"


async def test_the_bank_can_be_looked_into(
    stub: generator_grpc.GeneratorServiceAsyncStub, redis_instance: RedisServer
) -> None:
    """Every message with its brief, its chance and what came of it; or only how full it is."""
    used = await stub.Generate(pb.GenerateRequest(brief=brief(), seed=1))
    with SyncRedis.from_url(redis_instance.url) as redis:
        redis.hset(message_counts_key(used.message_id), mapping={"uses": 7, "opted_out": 2, "accepted": 0})
    bank = await stub.GetBank(pb.GetBankRequest())
    assert (bank.briefs_filled, bank.briefs_wanted, bank.filling) == (45, 45, False)
    assert len(bank.entries) == 90
    (entry,) = [entry for entry in bank.entries if entry.message_id == used.message_id]
    assert (entry.uses, dict(entry.outcomes), entry.state) == (7, {"opted_out": 2}, pb.MESSAGE_STATE_ACTIVE)
    assert (entry.brief, entry.draft, entry.propensity) == (brief(), used.draft, used.propensity)
    assert not (await stub.GetBank(pb.GetBankRequest(without_entries=True))).entries
    redis_instance.kill()
    assert len((await stub.GetBank(pb.GetBankRequest())).entries) == 90


@pytest.fixture(scope="module")
def real_engine() -> Iterator[InProcessEngine]:
    if not MODEL.exists():
        pytest.skip(f"no language model in {MODEL}; `churn-saver model prepare` makes it")
    engine = InProcessEngine(open_checkpoint(MODEL, GENERATOR), SETTINGS.generator)
    yield engine
    asyncio.run(engine.close())


def asked(channel: str = "sms") -> str:
    return prompt(domain_brief().model_copy(update={"channel": channel}), load_world())


@pytest.mark.stack
@pytest.mark.parametrize("count", ["many", "1.5", "-3", "9" * 30])
async def test_an_odd_count_does_not_hide_the_bank(
    stub: generator_grpc.GeneratorServiceAsyncStub, redis_instance: RedisServer, count: str
) -> None:
    """What is no count is shown as none, or as the most there can be."""
    shown = (await stub.GetBank(pb.GetBankRequest())).entries[0]
    with SyncRedis.from_url(redis_instance.url) as redis:
        redis.hset(message_counts_key(shown.message_id), mapping={"uses": count, b"\xff": 1, "accepted": 2})
    [entry] = [each for each in (await stub.GetBank(pb.GetBankRequest())).entries if each == shown or each.outcomes]
    assert (entry.message_id, entry.outcomes["accepted"]) == (shown.message_id, 2)
    assert entry.uses in (0, 2**63 - 1)


async def test_the_real_engine_writes_the_same_for_a_seed_whatever_came_before(real_engine: InProcessEngine) -> None:
    """Law 8; and four texts of other seeds are other texts."""
    first, other, again = [await real_engine.write(asked(), 4, seed) for seed in (1, 2, 1)]
    assert again == first
    assert other != first
    assert 0 < real_engine.expected_s < 60


@pytest.mark.stack
async def test_the_real_engine_writes_drafts_that_the_rules_pass(real_engine: InProcessEngine) -> None:
    """The bundled writer, int8 and all: whole drafts with their slots, e-mails with a subject."""
    rules = ShieldFilter.of(load_world())
    for channel in ("email", "sms", "push"):
        brief = domain_brief().model_copy(update={"channel": channel})
        texts = await real_engine.write(asked(channel), 12, 42)
        # Most do, and int8 says something else on each kind of processor: no exact count would hold.
        assert sum(each.ended and rules.passes(brief, each.text) for each in texts) >= 8
        assert len({each.text for each in texts}) >= 8
        assert all(each.text.startswith(SUBJECT) == (channel == "email") for each in texts)


@pytest.mark.stack
async def test_the_real_engine_stops_when_nobody_waits(real_engine: InProcessEngine) -> None:
    """A call whose deadline has passed frees the worker for the next one."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(real_engine.write(asked(), 16, 1), 0.05)
    assert await real_engine.write(asked(), 1, 1)


def test_files_that_are_no_model_are_one_sentence_with_its_mend(tmp_path: Path) -> None:
    """What is reported when somebody publishes other files as a generator."""
    write_checkpoint(tmp_path / "model", GENERATOR, {"tokenizer.json": b"{}"}, seed=42, metrics={})
    with pytest.raises(CheckpointError, match=r"cannot be loaded.*run `churn-saver model prepare --publish`"):
        InProcessEngine(open_checkpoint(tmp_path / "model", GENERATOR), SETTINGS.generator)


@pytest.mark.stack
def test_a_model_that_judges_its_golden_texts_otherwise_is_refused(tmp_path: Path) -> None:
    """The weights are whole and signed; they are only not what was measured."""
    if not MODEL.exists():
        pytest.skip(f"no language model in {MODEL}; `churn-saver model prepare` makes it")
    checkpoint = open_checkpoint(MODEL, GENERATOR)
    golden = checkpoint.read_json("golden.json")
    golden[1]["mean_log_prob"] += 2 * GOLDEN_TOLERANCE_NATS
    other = Checkpoint(
        checkpoint.path,
        checkpoint.manifest,
        checkpoint.sha256,
        {**checkpoint.contents, "golden.json": json.dumps(golden).encode()},
    )
    with pytest.raises(CheckpointError, match="the golden text 'The ferry"):
        InProcessEngine(other, SETTINGS.generator)


async def command(address: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`churn-saver` against this generator, which goes on answering meanwhile."""
    return await asyncio.to_thread(run_cli, *words, env={"CHURN_SAVER_ADDRESSES__GENERATOR": address})


async def test_bank_command(address: str) -> None:
    """The bank is listed, as a table and as JSON, and one message of it is shown."""
    entries = json.loads((await command(address, "bank", "list", "--json")).stdout)["entries"]
    one = entries[0]
    assert one["message_id"] in (await command(address, "bank", "list")).stdout
    assert json.loads((await command(address, "bank", "show", one["message_id"], "--json")).stdout) == one
    missing = await command(address, "bank", "show", "none")
    assert missing.returncode == 2
    assert "bank list" in missing.stderr


def test_nothing_on_its_way_ends_the_longest_call() -> None:
    """Neither the connection, which is closed for its age, nor what the vLLM server is waited for."""
    grace_s = dict(ServerOptions)["grpc.max_connection_age_grace_ms"] / 1_000
    assert grace_s > TIMEOUT_S
    assert SILENCE_S >= TIMEOUT_S


async def test_who_answers_something_else_is_told_from_who_does_not_answer() -> None:
    async with served(None) as elsewhere:
        said = await command(elsewhere, "bank", "list")
    assert said.returncode == 2
    assert "cannot say (UNIMPLEMENTED" in said.stderr
    said = await command(elsewhere, "bank", "list")
    assert "does not answer; run `churn-saver up`" in said.stderr


async def test_a_person_retires_a_message(address: str) -> None:
    """It is gone at once and for good, and everyone who asks is told by whom and why."""
    one = json.loads((await command(address, "bank", "list", "--json")).stdout)["entries"][0]["message_id"]
    why = ("--by", "Ana", "--reason", "too familiar")
    retired = json.loads((await command(address, "bank", "retire", one, *why, "--json")).stdout)
    assert (retired["state"], retired["stored"]) == ("retired", True)
    assert (retired["judged_by"], retired["judged_because"]) == ("Ana", "too familiar")
    listed = json.loads((await command(address, "bank", "list", "--json")).stdout)["entries"]
    assert [entry["state"] for entry in listed if entry["message_id"] == one] == ["retired"]
    refused = await command(address, "bank", "approve", one, *why)
    assert refused.returncode == 2
    assert "was retired by Ana (too familiar), and stays so" in " ".join(refused.stderr.split())
    unknown = await command(address, "bank", "approve", "none", *why)
    assert (unknown.returncode, "bank list" in unknown.stderr) == (2, True)


async def test_a_message_that_has_left_the_bank_is_shown_as_retired(address: str, redis_instance: RedisServer) -> None:
    """Its counts alone are left, and contacts may wait with it."""
    with SyncRedis.from_url(redis_instance.url) as redis:
        redis.hset(message_counts_key("gone"), "uses", 3)
    done = await command(address, "bank", "retire", "gone", "--by", "Ana", "--reason", "rude", "--json")
    shown = {"message_id": "gone", "state": "retired", "judged_by": "Ana", "judged_because": "rude", "stored": True}
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == shown


async def test_generate_command(address: str, tmp_path: Path) -> None:
    """A line of JSON for each brief; a wrong line is named, with what is wrong in it."""
    briefs = tmp_path / "briefs.jsonl"
    line = {"segment": "new", "offer": "check_in", "channel": "sms"}
    briefs.write_text(json.dumps(line) + "\n" + json.dumps(line | {"offer": "discount_10"}) + "\n")
    done = await command(address, "generate", "--briefs", str(briefs))
    written = [json.loads(text) for text in done.stdout.splitlines()]
    assert [each["source"] for each in written] == ["bank", "bank"]
    assert "{opt_out}" in written[0]["draft"]
    together = await command(address, "generate", "--briefs", str(briefs), "--json")
    assert json.loads(together.stdout)["messages"] == written
    for wrong, said in (
        (json.dumps({"offer": "check_in"}), "segment"),
        (
            json.dumps(line | {"segment": "galactic"}),
            "brief.segment is 'galactic'; expected one of new, settled, loyal",
        ),
        ("no json", "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
    ):
        briefs.write_text(json.dumps(line) + "\n" + wrong + "\n")
        refused = await command(address, "generate", "--briefs", str(briefs))
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"{briefs}, line 2: " in refused.stderr.replace("\n", "")
        assert said in refused.stderr
    briefs.write_text(json.dumps(line) + "\n")
    nobody = await command(f"127.0.0.1:{free_port()}", "generate", "--briefs", str(briefs))
    assert nobody.returncode == 2
    assert "does not answer; run `churn-saver up`" in nobody.stderr


async def test_generate_says_how_many_got_the_approved_text(tmp_path: Path) -> None:
    """Nobody would notice it in a long file."""
    briefs = tmp_path / "briefs.jsonl"
    briefs.write_text(json.dumps({"segment": "new", "offer": "check_in", "channel": "sms"}) + "\n")
    engine, review = ScriptedEngine(broken=True), ScriptedReview()
    bank = build_bank(Redis(port=1), engine, review)  # nothing is loaded or filled, so it is never called
    async with served(build_writer(bank, engine, review)) as address:
        done = await command(address, "generate", "--briefs", str(briefs))
    assert json.loads(done.stdout)["source"] == "template"
    assert "1 of 1 got the approved text" in done.stderr


async def test_what_people_say_is_shown_as_they_said_it(address: str) -> None:
    """Not as markup, nor as the name of a picture."""
    entries = json.loads((await command(address, "bank", "list", "--json")).stdout)["entries"]
    said = "see [ticket-12] :warning: [/b]"
    done = await command(address, "bank", "retire", entries[0]["message_id"], "--by", "Ana [/b]", "--reason", said)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert said in (await command(address, "bank", "show", entries[0]["message_id"])).stdout


async def test_generate_goes_on_where_it_was_cut_off(address: str, tmp_path: Path) -> None:
    """What the file holds is kept, a torn line is written anew, and a file of other briefs is left alone."""
    briefs, out = tmp_path / "briefs.jsonl", tmp_path / "out" / "messages.jsonl"
    line = {"segment": "new", "channel": "sms"}
    offers = ("check_in", "discount_10", "bonus_pack", "discount_20", "discount_30")
    briefs.write_text("".join(json.dumps(line | {"offer": offer}) + "\n\n" for offer in offers))
    words = ("generate", "--briefs", str(briefs), "--out", str(out), "--json")
    told = json.loads((await command(address, *words)).stdout)
    assert told == {"out": str(out), "messages": 5, "kept": 0, "bank": 5}
    whole = out.read_text()
    assert [json.loads(text)["brief"]["offer"] for text in whole.splitlines()] == list(offers)
    out.write_text(whole[: whole.index("bonus_pack") + 5])
    told = json.loads((await command(address, *words)).stdout)
    assert told == {"out": str(out), "messages": 5, "kept": 2, "bank": 5}
    assert out.read_text() == whole
    briefs.write_text(json.dumps(line | {"offer": "discount_20"}) + "\n")
    refused = await command(address, *words)
    assert refused.returncode == 2
    assert f"{out}, line 1: is no message for brief 1 of {briefs}" in refused.stderr.replace("\n", "")
    assert out.read_text() == whole


async def test_commands_without_a_generator(tmp_path: Path) -> None:
    """Exit 2, with what to do."""
    nowhere = f"127.0.0.1:{free_port()}"
    done = await command(nowhere, "bank", "list")
    assert done.returncode == 2
    assert "run `churn-saver up`" in done.stderr
    missing = await command(nowhere, "generate", "--briefs", str(tmp_path / "none.jsonl"))
    assert missing.returncode == 2
    assert "cannot be read" in missing.stderr
    briefs, out = tmp_path / "briefs.jsonl", tmp_path / "messages.jsonl"
    briefs.write_text(json.dumps({"segment": "new", "offer": "check_in", "channel": "sms"}) + "\n")
    unwritten = await command(nowhere, "generate", "--briefs", str(briefs), "--out", str(out))
    assert unwritten.returncode == 2
    assert not out.exists()
