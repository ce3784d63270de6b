"""Shared state: makes the store that the configuration names. Each is imported only when it is used."""

from collections.abc import Callable

from ..config.schema import State
from .port import StateStore


def make_store(state: State) -> StateStore:
    """The bare store. Raises StoreError when it cannot be used as it is."""
    if state.store == "sqlite":
        from .sqlite import SqliteStore

        return SqliteStore(state.path, timeout_ms=state.timeout_ms)
    if state.store == "dynamodb":
        from .dynamodb import DynamoDbStore

        return DynamoDbStore(state)
    from .memory import MemoryStore

    return MemoryStore()


def make_serving_store(state: State, tell: Callable[[str], None]) -> StateStore:
    """The same for serving: one that can be out of reach is counted for meanwhile, and `tell` hears how it fares."""
    if state.store == "memory":
        return make_store(state)
    from .owing import OwingStore

    if state.store != "dynamodb":
        return OwingStore(make_store(state), tell=tell)
    from .dynamodb import DynamoDbStore
    from .fallback import FallbackStore

    owing = OwingStore(DynamoDbStore(state), tell=tell)
    return FallbackStore(owing, expected_instances=state.expected_instances, tell=tell)
