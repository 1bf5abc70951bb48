"""A real Kubernetes API server with its controllers, and what a kubelet would do in it, played by the test."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cli.cluster import Cluster
from tests.support.chart import Object

KUBERNETES = Path(__file__).resolve().parents[3] / "shared" / "tools" / "kubernetes"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "churn-saver" / "tools"


def build_control_plane() -> Path:
    """The binaries, built once a machine: eight minutes."""
    binaries = CACHE / "control-plane"
    done = subprocess.run(
        [KUBERNETES / "build_control_plane.sh", binaries], capture_output=True, text=True, timeout=1800, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the control plane cannot be built:\n{(done.stdout + done.stderr)[-3000:]}")
    return binaries


@contextmanager
def control_plane(folder: Path) -> Iterator[Path]:
    """A running one with state in `folder`; yields its kubeconfig, which trusts the server's own certificate."""
    binaries = build_control_plane()
    try:
        with (folder / "up.log").open("w") as log:
            words = [KUBERNETES / "control_plane_up.sh", binaries, folder, str(_free_ports())]
            subprocess.run(words, stdout=log, stderr=log, timeout=120, check=True)
        kubeconfig = folder / "kubeconfig"
        trusted = f'certificate-authority: "{folder / "certs" / "apiserver.crt"}"'
        kubeconfig.write_text(kubeconfig.read_text().replace("insecure-skip-tls-verify: true", trusted))
        yield kubeconfig
    finally:
        for pid in folder.glob("*.pid"):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def _free_ports() -> int:
    """A port for the API server whose companions, which the script derives from it, are free too."""
    for port in range(21443, 31443, 50):
        try:
            for each in (port, port + 7347, port + 7348):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port
    raise RuntimeError("no free ports for a control plane")


def eventually(found: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `found` returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return result


def namespace(kubeconfig: Path, name: str, monkeypatch: Any) -> Cluster:
    """A new namespace with the ServiceAccount that every one gets; KUBECONFIG leads to it."""
    mine = kubeconfig.with_name(f"{name}.kubeconfig")
    mine.write_text(kubeconfig.read_text().replace("user: admin}", f"user: admin, namespace: {name}}}"))
    monkeypatch.setenv("KUBECONFIG", str(mine))
    cluster = Cluster.connect()
    cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    eventually(lambda: objects(cluster, "v1", "serviceaccounts"))
    return cluster


def objects(cluster: Cluster, api: str, kind: str, **query: str) -> list[Object]:
    """All of a kind in the namespace."""
    return list(cluster.call("GET", cluster.at(api, kind), **query)["items"])


def apply(cluster: Cluster, each: Object, **query: str) -> Object:
    """Server-side apply, as Helm does it."""
    path = cluster.at(each["apiVersion"], plural(each["kind"]), each["metadata"]["name"])
    query |= {"fieldManager": "test", "force": "true"}
    return cluster.call("PATCH", path, each, content="application/apply-patch+yaml", **query)


def plural(kind: str) -> str:
    return re.sub(r"y$", "ie", re.sub(r"ss$", "sse", kind.lower())) + "s"


def play(cluster: Cluster, pod: Object, phase: str, exit_code: int | None = None) -> None:
    """What a kubelet would report of a pod; the stand-in leaves those alone whose image is called broken.

    `exit_code` is that of all containers but sidecars, which end well whatever becomes of the others.
    """
    statuses = []
    for container in pod["spec"]["containers"]:
        code = 0 if exit_code and container["name"].endswith("-sidecar") else exit_code
        state: Object = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
        status = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
        statuses.append(status | {"ready": code is None, "state": state})
    name, body = pod["metadata"]["name"], {"status": {"phase": phase, "containerStatuses": statuses}}
    content = "application/merge-patch+json"
    cluster.call("PATCH", cluster.at("v1", "pods", name, "status"), body, content=content)


# -- a kubelet that has logs -------------------------------------------------------------------------


class Kubelet(ThreadingHTTPServer):
    """Serves container logs where the API server asks a node for them; a test says what they are."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _LogHandler)
        key, certificate = folder / "kubelet.key", folder / "kubelet.crt"
        words = f"req -x509 -newkey rsa:2048 -nodes -subj /CN=node -days 1 -keyout {key} -out {certificate}"
        subprocess.run(["openssl", *words.split()], capture_output=True, check=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.lines: dict[str, list[str]] = {}  # by pod; None at the end closes the log
        self.asked: list[str] = []

    def node(self) -> Object:
        address = {"type": "InternalIP", "address": "127.0.0.1"}
        endpoint = {"kubeletEndpoint": {"Port": self.server_port}}
        return {
            "metadata": {"name": "node"},
            "status": {"addresses": [address], "daemonEndpoints": endpoint},
        }


class _LogHandler(BaseHTTPRequestHandler):
    server: Kubelet

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        pod = self.path.split("?")[0].split("/")[3]
        self.send_response(200)
        self.end_headers()
        sent = 0
        while True:
            lines = self.server.lines.get(pod, [])
            for line in lines[sent:]:
                if line == END:
                    return
                self.wfile.write(f"{line}\n".encode())
                self.wfile.flush()
            sent = len(lines)
            time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


END = "(end)"


@contextmanager
def kubelet(cluster: Cluster, folder: Path) -> Iterator[Kubelet]:
    """A node whose kubelet is this process."""
    with Kubelet(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cluster.call("POST", "/api/v1/nodes", server.node())
        yield server
        cluster.call("DELETE", "/api/v1/nodes/node")
        server.shutdown()


def bind(cluster: Cluster, pod: Object) -> None:
    """Puts a pod on the node, as a scheduler does."""
    name = pod["metadata"]["name"]
    binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": "node"}}
    cluster.call("POST", cluster.at("v1", "pods", name, "binding"), binding)
