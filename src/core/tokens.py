"""Tokens that a provider gives for a key and that hold for a while: fetched once, shared, renewed in time."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

from .errors import UpstreamError
from .providers.dialect import Token

EARLY_S = 60.0  # before its end a token is renewed


class Tokens:
    """By what they were given for. However many ask at once, one request is made."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens: dict[Hashable, Token] = {}
        self._under_way: dict[Hashable, asyncio.Task[Token]] = {}

    async def get(self, key: Hashable, fetch: Callable[[], Coroutine[Any, Any, Token]]) -> str:
        """Raises UpstreamError as `fetch` does, unless the old token still holds."""
        known, now = self._tokens.get(key), self._clock()
        if known is not None and known.expires_at - EARLY_S > now:
            return known.value
        try:
            return (await self._fetched(key, fetch)).value
        except UpstreamError:
            if known is not None and known.expires_at > now and self._tokens.get(key) is known:
                return known.value
            raise

    def forget(self, key: Hashable, value: str) -> None:
        """It was refused. A newer one stays."""
        known = self._tokens.get(key)
        if known is not None and known.value == value:
            del self._tokens[key]

    async def _fetched(self, key: Hashable, fetch: Callable[[], Coroutine[Any, Any, Token]]) -> Token:
        """Whoever is cancelled does not take the token away from the others who wait for it."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(fetch())
            task.add_done_callback(lambda done: self._keep(key, done))
        return await asyncio.shield(task)

    def _keep(self, key: Hashable, task: asyncio.Task[Token]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled() and task.exception() is None:
            self._tokens[key] = task.result()
