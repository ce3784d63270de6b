"""`sluice explain REQUEST.json`: who would answer a request now, and why not the others. Nothing is sent or taken."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import click
from tabulate import tabulate

from core.admission import Reason
from core.auth import Caller, Keyring
from core.catalog import build_catalog
from core.chat import parse_chat
from core.config import Loaded
from core.config.schema import State
from core.errors import GatewayError
from core.explain import Choice, explain, no_room, scopes_of
from core.need import Need, need_of_chat
from core.plan import Image
from core.store import make_store
from core.store.port import StoreError


def explanation(loaded: Loaded, raw: bytes, key: str | None) -> str:
    """Ends the command with a message when the request could not be served at all."""
    catalog = build_catalog(loaded)
    try:
        chat = parse_chat(raw)
        need = need_of_chat(chat.body, chat.length, answers=chat.answers)
        caller = _caller(loaded, key)
        images, state_words = _state(loaded.config.state or State(), scopes_of(catalog, caller))
        now_ms = int(time.time() * 1000)
        choices = explain(catalog, chat.model, need, caller, images, now_ms=now_ms)
    except GatewayError as error:
        raise click.ClickException(f"{error.status} {error.code or error.type}: {error.message}") from None
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    head = f"{chat.model or f'(no model: {loaded.config.server.default_category})'}: {_needs(need)}\n{state_words}"
    rows = [_row(number, choice) for number, choice in enumerate(choices, 1)]
    tail = _verdict(caller, no_room(caller.scope, need, images, now_ms=now_ms), choices)
    return f"{head}\n\n{tabulate(rows, headers='keys', disable_numparse=True)}\n\n{tail}"


def _verdict(caller: Caller, refusals: Sequence[Reason], choices: Sequence[Choice]) -> str:
    if refusals:
        return f"Nobody would be asked, the key {caller.name} has {_no_room(refusals)}"
    first = next((choice.model.name for choice in choices if choice.is_open), None)
    return f"{first} would be asked first." if first else "Nobody could answer now."


def _caller(loaded: Loaded, key: str | None) -> Caller:
    callers = Keyring(loaded.config.auth.keys).callers
    found = [caller for caller in callers if key in (None, caller.name)]
    if not found:
        raise click.ClickException(f"there is no key named {key}")
    return found[0]


def _state(state: State, keys: Sequence[str]) -> tuple[Mapping[str, Image], str]:
    if state.store == "memory":
        return {}, "state: none, the store `memory` is known to the serving process alone"
    if state.store == "sqlite" and not Path(state.path).exists():
        return {}, f"state: none yet in {state.path}"

    async def read() -> dict[str, Image]:
        store = make_store(state)
        try:
            return await store.snapshot(keys)
        finally:
            await store.aclose()

    return asyncio.run(read()), f"state: {state.store}"


def _needs(need: Need) -> str:
    features = ", ".join(sorted(need.features)) or "nothing special"
    return f"{need.length:,} bytes, about {need.tokens:,} tokens reserved, needs {features}"


def _row(number: int, choice: Choice) -> dict[str, str]:
    if choice.rule is not None:
        verdict = f"out: {choice.rule}"
    elif choice.reasons:
        verdict = _no_room(choice.reasons)
    else:
        verdict = "yes"
    used = "\n".join(f"{count:,} of {w.limit.most:,} {w.limit.what}/{w.limit.span}" for w, count in choice.used)
    return {
        "": str(number),
        "model": choice.model.name,
        "priority": str(choice.model.priority),
        "may be asked": verdict,
        "used": used or "no limits",
    }


def _no_room(reasons: Sequence[Reason]) -> str:
    return "\n".join(f"no room: {reason.rule}{_until(reason.until_ms)}" for reason in reasons)


def _until(until_ms: int | None) -> str:
    if until_ms is None:
        return ", for good: the request is larger than the limit"
    return f" until {datetime.fromtimestamp(until_ms / 1000).astimezone():%Y-%m-%d %H:%M:%S}"
