"""Opening Redis: by its URL, or on Memorystore as the Google service account that the process runs as."""

from __future__ import annotations

import asyncio

import google.auth
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from churnsaver.settings import RedisSettings
from churnsaver.tasks import in_thread

# https://cloud.google.com/memorystore/docs/valkey/manage-iam-auth
IAM_USER = "default"
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


class IamLogin(CredentialProvider):
    """An access token of this process's Google service account as the password of a new connection.

    Tokens last an hour and are fetched when a connection needs one. A fetch that takes longer than the caller
    has goes on, so that the next connection finds its token.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._credentials: Credentials | None = None
        self._fetching: asyncio.Task[str] | None = None

    async def get_credentials_async(self) -> tuple[str, str]:
        """User and token; AuthenticationError where there is no token in time."""
        if self._credentials is None or not self._credentials.valid:
            if self._fetching is None or self._fetching.done():
                self._fetching = asyncio.create_task(in_thread(self._fetch))
            try:
                async with asyncio.timeout(self._timeout_s):
                    trouble = await asyncio.shield(self._fetching)
            except TimeoutError:
                trouble = f"took longer than {self._timeout_s:g} s"
            if trouble:
                raise AuthenticationError(f"no token for Redis from the Google service account: {trouble}")
        assert self._credentials is not None
        return IAM_USER, str(self._credentials.token)

    def _fetch(self) -> str:
        """Fetches a token; returns what went wrong, or nothing."""
        try:
            credentials = self._credentials or google.auth.default(scopes=SCOPES)[0]
            credentials.refresh(Request())
        except GoogleAuthError as error:
            return str(error)
        self._credentials = credentials
        return ""


def open_redis(settings: RedisSettings, timeout_s: float) -> Redis:
    """A client whose connections and commands fail after `timeout_s`.

    One immediate retry hides a connection that died with a restarted server; so what a command does must bear
    being done twice.
    """
    return Redis.from_url(
        str(settings.url),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        credential_provider=IamLogin(timeout_s) if settings.iam else None,
    )
