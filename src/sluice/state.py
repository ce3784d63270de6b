"""`sluice state`: what the store knows of every model, account and key of the configuration; clear one; make one."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from tabulate import tabulate

from core.admission import Scope
from core.auth import Keyring
from core.breaker import cooling_until, open_until
from core.catalog import build_catalog
from core.config import Loaded
from core.config.schema import State
from core.limits import windows
from core.plan import Image, Plan, members, number
from core.store import make_store
from core.store.port import StateStore, StoreError
from core.throttle import expired

_T = TypeVar("_T")
_HEALTH = ["f", "u", "p", "l", "c"]  # attributes of breaker and cooldown


@dataclass(frozen=True, slots=True)
class Row:
    """One scope. Moments are Unix milliseconds, None: not so."""

    scope: Scope
    used: list[tuple[str, int, int]]  # rule, used, most
    in_flight: int
    open_until: int | None
    cooling_until: int | None
    last_request: int | None

    def as_json(self) -> dict[str, Any]:
        return {
            "scope": self.scope.key,
            "limits": {rule: {"used": used, "limit": most} for rule, used, most in self.used},
            "in_flight": self.in_flight,
            "open_until": _iso(self.open_until),
            "cooling_until": _iso(self.cooling_until),
            "last_request": _iso(self.last_request),
        }


def show(loaded: Loaded, *, as_json: bool) -> str:
    rows = _rows(loaded)
    if as_json:
        return json.dumps([row.as_json() for row in rows], indent=2)
    table = [
        {
            "scope": row.scope.key,
            "used": "\n".join(f"{used:,} of {most:,} {rule.replace('_per_', '/')}" for rule, used, most in row.used),
            "in flight": "" if (most := row.scope.throttle.max_in_flight) is None else f"{row.in_flight} of {most}",
            "health": _health(row),
            "last request": _local(row.last_request),
        }
        for row in rows
    ]
    return tabulate(table, headers="keys", disable_numparse=True)


def reset(loaded: Loaded, name: str) -> str:
    """Close the breaker and end the cooldown of a model, or of all models of a provider entry. Counters stay."""
    models = build_catalog(loaded).models
    keys = {model.scope.key for model in models if name in (model.name, model.provider, *model.aliases)}
    keys |= {model.account.key for model in models if model.provider == name and model.account}
    if not keys:
        raise click.ClickException(f"{name} is neither a model nor a provider of this configuration")

    async def clear(store: StateStore) -> None:
        for key in keys:
            await store.write(key, Plan(remove=_HEALTH))

    _with_store(loaded, clear)
    return f"cleared: {', '.join(sorted(keys))}"


def create_table(loaded: Loaded) -> str:
    """For a table on an endpoint of one's own; in AWS the template makes it."""
    state = loaded.config.state or State()
    if state.store != "dynamodb":
        raise click.ClickException(f"the store is {state.store}: only dynamodb has a table to make")
    from core.store.dynamodb_client import make_table  # noqa: PLC0415 - it brings boto3 along

    try:
        return f"table {state.table}: {make_table(state)}"
    except StoreError as error:
        raise click.ClickException(str(error)) from None


def _rows(loaded: Loaded) -> list[Row]:
    catalog = build_catalog(loaded)
    scopes = [model.scope for model in catalog.models]
    scopes += {model.account.key: model.account for model in catalog.models if model.account}.values()
    scopes += [caller.scope for caller in Keyring(loaded.config.auth.keys).callers if not caller.scope.is_free]
    images = _with_store(loaded, lambda store: store.snapshot([scope.key for scope in scopes]))
    now_ms = int(time.time() * 1000)
    return [_row(scope, images.get(scope.key, {}), now_ms) for scope in scopes]


def _row(scope: Scope, image: Image, now_ms: int) -> Row:
    current = windows(scope.limits, scope.day_starts, now_ms // 60_000)
    return Row(
        scope=scope,
        used=[(window.limit.rule, window.used(image), window.limit.most) for window in current],
        in_flight=len(members(image, "q") - expired(image, now_ms)),
        open_until=open_until(scope.breaker, image, now_ms) if scope.breaker else None,
        cooling_until=cooling_until(image, now_ms),
        last_request=number(image, "lr") or None,
    )


def _with_store(loaded: Loaded, work: Callable[[StateStore], Awaitable[_T]]) -> _T:
    state = loaded.config.state or State()
    if state.store == "memory":
        raise click.ClickException("the store is memory: only the serving process knows it (GET /metrics tells)")

    async def run() -> _T:
        store = make_store(state)
        try:
            return await work(store)
        finally:
            await store.aclose()

    try:
        return asyncio.run(run())
    except StoreError as error:
        raise click.ClickException(str(error)) from None


def _health(row: Row) -> str:
    words = []
    if row.open_until:
        words.append(f"open until {_local(row.open_until)}")
    if row.cooling_until:
        words.append(f"cooling until {_local(row.cooling_until)}")
    return "\n".join(words) or "fine"


def _local(moment_ms: int | None) -> str:
    return f"{datetime.fromtimestamp(moment_ms / 1000).astimezone():%Y-%m-%d %H:%M:%S}" if moment_ms else ""


def _iso(moment_ms: int | None) -> str | None:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat() if moment_ms else None
