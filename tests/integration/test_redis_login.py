"""Redis by IAM: a real redis-server with a password that is a token, and tokens that change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import google.auth
import pytest
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from churnsaver.redis_client import IamLogin, open_redis
from churnsaver.settings import RedisSettings
from tests.conftest import RedisServer


class Credentials:
    """A service account whose next token a test chooses; `refresh` is what asks Google for one."""

    def __init__(self) -> None:
        self.next, self.token, self.valid, self.asked = "token-1", "", False, 0
        self.answers = threading.Event()
        self.answers.set()

    def refresh(self, request: Any) -> None:
        self.answers.wait(5)
        self.asked += 1
        if not self.next:
            raise RefreshError("the metadata server says no")
        self.token, self.valid = self.next, True


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> Credentials:
    credentials = Credentials()
    monkeypatch.setattr(google.auth, "default", lambda scopes: (credentials, "project"))
    return credentials


@pytest.fixture
async def admin(redis_instance: RedisServer) -> AsyncIterator[Redis]:
    """A connection from before the password was set."""
    redis = Redis.from_url(redis_instance.url)
    await redis.config_set("requirepass", "token-1")
    yield redis
    await redis.aclose()


@pytest.fixture
async def redis(redis_instance: RedisServer, credentials: Credentials) -> AsyncIterator[Redis]:
    """As the gateway opens it."""
    redis = open_redis(RedisSettings(url=redis_instance.url, iam=True), 1.0)
    yield redis
    await redis.aclose()


async def test_token_is_the_password(admin: Redis, redis: Redis, credentials: Credentials) -> None:
    """Every new connection logs in; one token serves them all."""
    answers = await asyncio.gather(*(redis.set(f"key-{number}", number) for number in range(8)))
    assert answers == [True] * 8
    assert credentials.asked == 1


async def test_connection_that_the_server_ends_comes_back_with_a_new_token(
    admin: Redis, redis: Redis, credentials: Credentials
) -> None:
    """Memorystore ends connections; by then the token has run out, and the caller notices nothing."""
    await redis.set("key", 1)
    await admin.config_set("requirepass", "token-2")
    credentials.next, credentials.valid = "token-2", False
    await admin.client_kill_filter(_type="normal", skipme=True)
    assert await redis.get("key") == b"1"
    assert credentials.asked == 2


async def test_no_token_is_an_outage_of_redis(admin: Redis, redis: Redis, credentials: Credentials) -> None:
    """What the gateway treats as Redis being away, with the reason; and it ends when tokens come again."""
    credentials.next = ""
    with pytest.raises(AuthenticationError, match="the metadata server says no"):
        await redis.get("key")
    credentials.next = "token-1"
    assert await redis.get("key") is None


async def test_slow_token_takes_no_longer_than_the_caller_has(credentials: Credentials) -> None:
    """The caller goes on without; the token that comes later is there for the next one."""
    login = IamLogin(timeout_s=0.05)
    credentials.answers.clear()
    with pytest.raises(AuthenticationError, match="longer"):
        await login.get_credentials_async()
    credentials.answers.set()
    assert login._fetching is not None
    assert await login._fetching == ""
    assert await login.get_credentials_async() == ("default", "token-1")
    assert credentials.asked == 1


async def test_no_service_account_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside Google Cloud."""

    def nobody(scopes: Any) -> Any:
        raise DefaultCredentialsError("no credentials were found")

    monkeypatch.setattr(google.auth, "default", nobody)
    with pytest.raises(AuthenticationError, match="no credentials were found"):
        await IamLogin(timeout_s=1.0).get_credentials_async()


async def test_password_of_the_url_without_iam(admin: Redis, redis_instance: RedisServer) -> None:
    """The default."""
    url = redis_instance.url.replace("redis://", "redis://:token-1@")
    async with open_redis(RedisSettings(url=url), 1.0) as redis:
        assert await redis.set("key", 1)
