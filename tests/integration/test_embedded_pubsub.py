"""The embedded Pub/Sub as a real process, driven by Google's clients."""

from __future__ import annotations

import base64
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import NotFound, ServiceUnavailable
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import PubsubMessage, StreamingPullRequest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from churnsaver.events.embedded.journal import format_line
from churnsaver.events.embedded.state import encoded
from churnsaver.events.embedded.wire import Subscription
from tests.support.pubsub import ROOT, PubSubServer

ACCEPTANCE = ROOT.parent / "shared" / "tools" / "gcp" / "accept_pubsub.py"
# Those that wait for leases run beside each other, and all others in one process.
SLOW = (
    ("stream_lease_extension",),
    ("acked_stays_acked",),
    ("modack_extend_and_zero",),
    ("ack_deadline_expiry", "retry_policy_backoff"),
)


class Clients:
    """Google's synchronous clients, and one topic with one subscription."""

    def __init__(self, address: str) -> None:
        options = [("grpc.enable_http_proxy", 0)]
        self.channel = grpc.insecure_channel(address, options=options)
        self.publisher = PublisherClient(transport=PublisherGrpcTransport(channel=self.channel))
        self.subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=self.channel))
        self.name = f"t-{uuid.uuid4().hex[:8]}"
        self.topic = f"projects/test/topics/{self.name}"
        self.subscription = f"projects/test/subscriptions/{self.name}"

    def create(self, **subscription: object) -> None:
        self.publisher.create_topic(name=self.topic, timeout=5)
        request = {"name": self.subscription, "topic": self.topic, **subscription}
        self.subscriber.create_subscription(request=request, timeout=5)

    def publish(self, *contents: bytes) -> list[str]:
        messages = [PubsubMessage(data=content) for content in contents]
        return list(self.publisher.publish(topic=self.topic, messages=messages, timeout=5).message_ids)

    def pull(self, *, ack: bool = True) -> list[bytes]:
        """What is there at this moment."""
        request = {"subscription": self.subscription, "max_messages": 100, "return_immediately": True}
        received = self.subscriber.pull(request=request, timeout=5).received_messages
        if ack and received:
            ack_ids = [each.ack_id for each in received]
            self.subscriber.acknowledge(subscription=self.subscription, ack_ids=ack_ids, timeout=5)
        return [each.message.data for each in received]


@pytest.fixture
def clients(pubsub_server: PubSubServer) -> Iterator[Clients]:
    clients = Clients(pubsub_server.address)
    yield clients
    clients.channel.close()


@pytest.fixture
def ours(embedded: PubSubServer) -> Iterator[Clients]:
    clients = Clients(embedded.address)
    yield clients
    clients.channel.close()


@pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning")
class TestServing:
    def test_publish_pull_acknowledge(self, clients: Clients) -> None:
        clients.create()
        ids = clients.publish(b"one", b"two")
        assert len(set(ids)) == 2
        assert sorted(clients.pull()) == [b"one", b"two"]
        assert clients.pull() == []

    def test_pull_waits_for_a_message(self, clients: Clients) -> None:
        clients.create()
        with ThreadPoolExecutor(1) as pool:
            pulled = pool.submit(
                clients.subscriber.pull, subscription=clients.subscription, max_messages=1, timeout=10, retry=None
            )
            time.sleep(0.2)
            clients.publish(b"late")
            assert [each.message.data for each in pulled.result().received_messages] == [b"late"]

    def test_missing_topic_and_subscription(self, clients: Clients) -> None:
        with pytest.raises(NotFound):
            clients.publish(b"x")
        with pytest.raises(NotFound):
            clients.pull()

    def test_health(self, embedded: PubSubServer) -> None:
        with grpc.insecure_channel(embedded.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_restart_keeps_what_was_not_acknowledged(self, embedded: PubSubServer, ours: Clients, end: str) -> None:
        ours.create(filter='NOT attributes:"skip"')
        first = ours.publish(b"done")
        assert ours.pull() == [b"done"]
        ours.publish(b"open")
        assert ours.pull(ack=False) == [b"open"]  # leased, which ends with the server
        getattr(embedded, end)()
        embedded.start()
        time.sleep(0.3)  # for the channel to come back
        assert ours.pull() == [b"open"]
        (later,) = ours.publish(b"new")
        assert int(later) > int(first[0]) + 1, "a number was used twice"

    def test_damaged_journal_is_named_and_the_rest_served(self, embedded: PubSubServer, ours: Clients) -> None:
        ours.create()
        ours.publish(b"lost")
        ours.publish(b"kept")
        embedded.stop()
        lines = embedded.journal.read_bytes().splitlines(keepends=True)
        damaged = next(number for number, line in enumerate(lines) if b'"published"' in line)
        lines[damaged] = lines[damaged].replace(b"messages", b"massages")
        broken = Subscription(name="projects/test/subscriptions/broken", topic=ours.topic, filter="colour = red")
        lines.append(format_line({"op": "subscription", "config": encoded(broken)}))
        embedded.journal.write_bytes(b"".join(lines) + b'0badcafe {"op":"publ')
        embedded.log.write_bytes(b"")
        embedded.start()
        log = embedded.log.read_text()
        assert f'"line": {damaged + 1}, "reason": "the line is not as it was written"' in log
        assert str(embedded.journal) in log
        assert "subscriptions/broken has a filter that cannot be read: expected attributes, got 'colour'" in log
        assert "Traceback" not in log
        assert log.count("journal.line_skipped") == 2
        time.sleep(0.3)
        assert ours.pull() == [b"kept"]

    def test_sigterm_ends_open_calls_in_two_seconds(self, embedded: PubSubServer, ours: Clients) -> None:
        ours.create()
        opened = threading.Event()

        def requests() -> Iterator[StreamingPullRequest]:
            yield StreamingPullRequest(subscription=ours.subscription, stream_ack_deadline_seconds=10)
            opened.wait(10)

        with ThreadPoolExecutor(2) as pool:
            stream = ours.subscriber.streaming_pull(requests(), timeout=10, retry=None)
            next(iter(stream))
            pulled = pool.submit(
                ours.subscriber.pull, subscription=ours.subscription, max_messages=1, timeout=9, retry=None
            )
            time.sleep(0.3)
            assert embedded.stop() < 2.0
            opened.set()
            assert not pulled.result().received_messages
            with pytest.raises(ServiceUnavailable):
                list(stream)
        assert "Traceback" not in embedded.log.read_text()


class TestStarting:
    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("in use", r"127\.0\.0\.1:\d+ cannot be listened at \(Address already in use\); stop what listens there"),
            ("0.0.0.0:8085", r"serves this machine only"),
            ("nonsense", r"expected host:port"),
        ],
    )
    def test_address_that_cannot_be_used(
        self, embedded: PubSubServer, tmp_path: Path, address: str, message: str
    ) -> None:
        where = embedded.address if address == "in use" else address
        settings = {"CHURN_SAVER_STATE_DIR": str(tmp_path), "CHURN_SAVER_EVENTS__EMBEDDED": where}
        done = subprocess.run(
            [sys.executable, "-m", "churnsaver.events.embedded"],
            cwd=ROOT,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 2
        assert re.search(message, done.stderr)
        assert len(done.stderr.splitlines()) == 1


def test_acceptance(embedded: PubSubServer) -> None:
    """Google's own client does everything with it but schemas."""
    if not ACCEPTANCE.exists():
        pytest.skip(f"{ACCEPTANCE.name} is not here (../shared/tools/gcp)")
    slow = [name for group in SLOW for name in group]
    names = re.findall(r"^@test\ndef (\w+)", ACCEPTANCE.read_text(), re.MULTILINE)
    quick = [name for name in names if name not in slow]
    environment = os.environ | {"PUBSUB_EMULATOR_HOST": embedded.address, "no_proxy": "127.0.0.1"}

    def run(selected: tuple[str, ...]) -> str:
        command = [sys.executable, str(ACCEPTANCE), *selected]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False).stdout

    with ThreadPoolExecutor(len(SLOW) + 1) as pool:
        output = "".join(pool.map(run, [*SLOW, tuple(quick)]))
    results = {name: result for result, name in re.findall(r"^(PASS|FAIL) (\w+)", output, re.MULTILINE)}
    assert results.keys() == set(names)
    assert {name for name, result in results.items() if result == "FAIL"} == {"schema_service"}, output


class Endpoint(ThreadingHTTPServer):
    """Where messages are pushed to; refuses the first `refusals`."""

    def __init__(self, refusals: int) -> None:
        super().__init__(("127.0.0.1", 0), EndpointHandler)
        self.refusals, self.received = refusals, queue.Queue[dict[str, Any]]()


class EndpointHandler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        self.server.received.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.server.refusals -= 1
        self.send_response(204 if self.server.refusals < 0 else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


def test_push(ours: Clients) -> None:
    """A message is posted as Google does, again after a refusal, and no more after a 2xx."""
    with Endpoint(refusals=1) as endpoint:
        threading.Thread(target=endpoint.serve_forever, daemon=True).start()
        ours.create(push_config={"push_endpoint": f"http://127.0.0.1:{endpoint.server_port}/hook?key=1"})
        (message_id,) = ours.publish(b"pushed")
        refused, accepted = (endpoint.received.get(timeout=20) for _ in range(2))
        assert refused["message"] == accepted["message"]
        assert base64.b64decode(accepted["message"]["data"]) == b"pushed"
        assert accepted["message"]["messageId"] == message_id
        assert accepted["subscription"] == ours.subscription
        with pytest.raises(queue.Empty):
            endpoint.received.get(timeout=1)
        endpoint.shutdown()
