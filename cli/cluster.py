"""A Kubernetes cluster through the official client, which brings login, TLS and transport; objects are plain JSON.

Plain, because a CronJob is of batch/v1 or of batch/v1beta1, as old as the cluster is, and models of one version drop
what they do not know.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, Self

import urllib3.exceptions
import yaml
from kubernetes import client, config

from churnsaver.errors import BadInput

CALL_TIMEOUT_S = 15.0
SILENCE_S = 30.0  # of a log that is followed, until somebody looks whether its pod still runs

Object = dict[str, Any]


class ClusterRefused(BadInput):
    """The API server answered, and said no; `status` is that of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ClusterAway(BadInput):
    """The API server does not answer, or cannot at the moment."""


class Cluster:
    """One namespace of the cluster that a kubeconfig names."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._api = api

    @classmethod
    def connect(cls, context: str | None = None, namespace: str | None = None) -> Self:
        """Reads the kubeconfig as kubectl does; the cluster is asked nothing yet.

        Raises:
            BadInput: there is no kubeconfig, it cannot be read, or it has no such context.
        """
        path = os.environ.get("KUBECONFIG")
        try:
            contexts, current = config.list_kube_config_contexts(path)
            chosen = next(each for each in contexts if each["name"] == context) if context else current
            api = config.new_client_from_config(path, context)
        except StopIteration:
            known = ", ".join(each["name"] for each in contexts)
            raise BadInput(f"--context: the kubeconfig has no {context!r}; it has {known}") from None
        # The client does not check what it reads: a file that is something else ends in any of these.
        except (
            *(config.ConfigException, yaml.YAMLError, OSError),
            *(ValueError, LookupError, TypeError, AttributeError),
        ) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            mend = "run `gcloud container clusters get-credentials …`, or set KUBECONFIG"
            raise BadInput(f"no cluster to launch on ({said}); {mend}") from None
        return cls(api, namespace or chosen["context"].get("namespace") or "default")

    def at(self, api: str, *names: str) -> str:
        """The path of objects of the namespace: `at("batch/v1", "jobs", name)`."""
        return "/".join(("/api" if api == "v1" else "/apis", api, "namespaces", self.namespace, *names))

    def call(
        self, method: str, path: str, body: Object | None = None, *, content: str = "application/json", **query: Any
    ) -> Object:
        """What the API server answers.

        Raises:
            ClusterRefused, ClusterAway: it does not; with its own words.
        """
        answer = self._ask(method, path, body, content, query, CALL_TIMEOUT_S)
        with self._away():
            found: Object = json.loads(answer.data or b"{}")
        return found

    def lines(self, path: str, **query: Any) -> Iterator[str]:
        """A log line by line as it is written; ends where it ends, or after a silence.

        Raises:
            ClusterRefused, ClusterAway: as `call`.
        """
        answer = self._ask("GET", path, None, "application/json", query, (CALL_TIMEOUT_S, SILENCE_S))
        kept = b""
        try:
            with self._away():
                for chunk in answer.stream(1 << 16, decode_content=True):
                    *whole, kept = (kept + chunk).split(b"\n")
                    yield from (line.decode(errors="replace") for line in whole)
        finally:
            answer.close()
        if kept:
            yield kept.decode(errors="replace")

    def _ask(self, method: str, path: str, body: Object | None, content: str, query: Object, timeout: Any) -> Any:
        headers = {"Accept": "application/json, */*", "Content-Type": content}
        pairs = [(name, json.dumps(value) if isinstance(value, bool) else value) for name, value in query.items()]
        request = self._api.param_serialize(
            method, path, query_params=pairs, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        with self._away():
            answer = self._api.call_api(*request, _request_timeout=timeout).response
            if answer.status >= 400:
                self._refuse(answer.status, answer.data)
        return answer

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        """A cluster that is not there is told apart from one that says no."""
        try:
            yield
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterAway(f"{self._api.configuration.host}: the cluster does not answer ({error})") from None

    def _refuse(self, status: int, body: bytes) -> None:
        try:
            said = str(json.loads(body)["message"])
        except (ValueError, KeyError, TypeError):
            said = body.decode(errors="replace").strip() or f"HTTP {status}"
        host = self._api.configuration.host
        if status == 429 or status >= 500:
            raise ClusterAway(f"{host}: the cluster cannot answer at the moment ({said})")
        if status in {401, 403}:
            said += "; log in again (`gcloud container clusters get-credentials …`), or ask for the right"
        raise ClusterRefused(status, f"{host}: {said}")
