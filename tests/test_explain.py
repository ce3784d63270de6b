"""What would happen to a request, told without doing it: by the rules that decide, and by `sluice explain`."""

import asyncio
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
import yaml

from core.admission import Reservation, Scope
from core.auth import Caller, Keyring
from core.breaker import cool
from core.catalog import Catalog
from core.chat import parse_chat
from core.config import load
from core.errors import ModelNotFound
from core.explain import Choice, explain, no_room, scopes_of
from core.limits import Cost
from core.need import Need, need_of_chat
from core.plan import Image, Plan
from core.store.sqlite import SqliteStore
from sluice.explain import explanation
from tests.fake_upstream import FakeUpstream
from tests.running_gateway import Clock, RunningGateway, ask, catalog_of, configuration, model, running
from tests.served import sluice

NOW_MS = 1_800_000_030_000
URL = "http://127.0.0.1:9"


def small(name: str, **more: Any) -> dict[str, Any]:
    return model(URL, name, **{"model_size": "SMALL", "priority": 1, **more})


def choices(
    catalog: Catalog,
    images: Mapping[str, Image] | None = None,
    asked: str = "SMALL",
    need: Need | None = None,
) -> list[Choice]:
    return explain(catalog, asked, need or Need(100), caller_of(catalog), images or {}, now_ms=NOW_MS)


def caller_of(catalog: Catalog) -> Caller:
    return Keyring(catalog.config.auth.keys).callers[0]


def names(found: list[Choice]) -> list[str]:
    return [choice.model.name for choice in found]


# --- the rules


def test_candidates_stand_in_the_order_in_which_they_would_be_asked() -> None:
    catalog = catalog_of(small("late", priority=2), small("a"), small("b"), small("large", max_request_length=9000))
    used: dict[str, Image] = {"m#a": {"lr": NOW_MS - 10}, "m#b": {"lr": NOW_MS - 20}}
    assert names(choices(catalog, used)) == ["large", "b", "a", "late"]


def test_by_name_the_fallbacks_follow_as_they_are_listed() -> None:
    catalog = catalog_of(small("a", priority=9, fallbacks=["c", "b"]), small("b"), small("c"))
    assert names(choices(catalog, {"m#c": {"lr": NOW_MS}}, asked="a")) == ["a", "c", "b"]


def test_rule_that_keeps_a_model_out_is_told_and_others_are_open() -> None:
    catalog = catalog_of(
        small("short", max_request_length=50), small("blind", capabilities=["tools"]), small("able", priority=2)
    )
    found = choices(catalog, need=Need(100, frozenset({"vision"})))
    assert [(c.model.name, c.rule, c.is_open) for c in found] == [
        ("short", "max_request_length", False),
        ("blind", "vision", False),
        ("able", None, True),
    ]


def minute(ms: int = NOW_MS) -> int:
    return ms // 60_000


@pytest.mark.parametrize(
    ("image", "reasons"),
    [
        ({}, []),
        ({f"rm{minute()}": 1}, []),
        ({f"rm{minute()}": 2}, [("requests_per_minute", 30_000)]),
        ({f"rm{minute() - 1}": 2}, []),
        ({f"tm{minute()}": 900}, [("tokens_per_minute", 30_000)]),
        ({"c": NOW_MS + 5_000}, [("cooldown", 5_000)]),
        ({"f": 1, "u": NOW_MS + 7_000}, [("breaker", 7_000)]),
        ({"f": 1, "u": NOW_MS}, []),  # it would be the probe
        ({"q": frozenset({f"{NOW_MS + 9_000}.x"})}, [("in_flight", 1_000)]),
        ({"q": frozenset({f"{NOW_MS - 1}.x"})}, []),  # that lease is dead
        ({f"rm{minute()}": 2, "c": NOW_MS + 5_000}, [("requests_per_minute", 30_000), ("cooldown", 5_000)]),
    ],
)
def test_state_decides_as_it_would_for_a_request(image: Image, reasons: list[tuple[str, int]]) -> None:
    catalog = catalog_of(small("a", requests_per_minute=2, tokens_per_minute=1000, max_in_flight=1), small("b"))
    choice = next(c for c in choices(catalog, {"m#a": image}) if c.model.name == "a")
    assert [(reason.rule, (reason.until_ms or 0) - NOW_MS) for reason in choice.reasons] == reasons
    assert choice.is_open is (not reasons)


def test_account_of_a_provider_counts_too() -> None:
    catalog = catalog_of(small("a"), small("b"), providers={"openai": {"requests_per_minute": 3}})
    pool: Image = {f"rm{minute()}": 3}
    found = choices(catalog, {"p#openai": pool})
    assert [[reason.rule for reason in choice.reasons] for choice in found] == [["requests_per_minute"]] * 2
    assert [(window.limit.most, used) for window, used in found[0].used] == [(3, 3)]


@pytest.mark.parametrize(("asked", "is_open"), [("a", True), ("SMALL", False)])
def test_slot_that_a_call_would_wait_for_keeps_nobody_out(asked: str, is_open: bool) -> None:
    """By name it is waited for; in a category the next one is asked meanwhile."""
    catalog = catalog_of(small("a", min_interval_ms=500), small("b"))
    found = choices(catalog, {"m#a": {"nx": NOW_MS + 400, "lr": NOW_MS}}, asked=asked)
    assert next(c.is_open for c in found if c.model.name == "a") is is_open


def test_key_has_limits_of_its_own() -> None:
    scope = Scope("k#app", catalog_of(small("a", requests_per_minute=1)).models[0].scope.limits)
    images: dict[str, Image] = {"k#app": {f"rm{minute()}": 1}}
    assert [reason.rule for reason in no_room(scope, Need(1), images, now_ms=NOW_MS)] == ["requests_per_minute"]
    assert no_room(scope, Need(1), {}, now_ms=NOW_MS) == ()


def test_what_does_not_exist_is_refused_as_the_request_would_be() -> None:
    with pytest.raises(ModelNotFound):
        choices(catalog_of(small("a")), asked="nobody")


def test_scopes_are_those_of_key_models_and_accounts() -> None:
    catalog = catalog_of(small("a"), small("b"), providers={"openai": {"max_in_flight": 3}})
    assert scopes_of(catalog, caller_of(catalog)) == ["k#app", "m#a", "p#openai", "m#b"]


async def test_what_is_explained_is_what_then_happens(upstream: FakeUpstream) -> None:
    models = [
        {**small(name, requests_per_minute=limit, upstream_model=name), "base_url": f"{upstream.url}/v1"}
        for name, limit in (("a", 2), ("b", 3), ("c", 1))
    ]
    catalog = catalog_of(*models)
    clock = Clock()
    async with running(*models, door={"clock": clock}) as gateway:
        for _ in range(8):
            clock.advance(0.01)
            foretold = await foretell(gateway, catalog, clock)
            answer = await gateway.chat(model="SMALL")
            assert answer.headers.get("x-sluice-model") == foretold


async def foretell(gateway: RunningGateway, catalog: Catalog, clock: Clock) -> str | None:
    images = {key: await gateway.image(key) for key in scopes_of(catalog, caller_of(catalog))}
    body = orjson.dumps(ask(model="SMALL"))
    need = need_of_chat(parse_chat(body).body, len(body), answers=1)
    found = explain(catalog, "SMALL", need, caller_of(catalog), images, now_ms=int(clock() * 1000))
    return next((choice.model.name for choice in found if choice.is_open), None)


# --- the command


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a request in it."""
    (tmp_path / "request.json").write_bytes(orjson.dumps(ask(model="SMALL")))
    return tmp_path


def configure(home: Path, *models: dict[str, Any], **blocks: Any) -> Catalog:
    blocks = {"state": {"store": "sqlite", "path": "state.db"}, **blocks}
    (home / "config.yaml").write_text(yaml.safe_dump(configuration(*models, **blocks)))
    return catalog_of(*models, **blocks)


def told(home: Path, *args: str) -> str:
    done = sluice("explain", "request.json", *args, cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def row(text: str, name: str) -> str:
    """The lines of the table that are about one model, in single spaces."""
    lines = iter(text.splitlines())
    first = next(line for line in lines if re.match(rf"\s*\d+ +{re.escape(name)} ", line))
    more = []
    for line in lines:
        if not line.startswith("   "):
            break
        more.append(line)
    return " ".join(" ".join([first, *more]).split())


def remember(home: Path, *written: tuple[Scope, int] | tuple[str, Plan]) -> dict[str, Image]:
    """Leaves a state file behind in which scopes have been reserved so often, or plans were written."""

    async def write() -> dict[str, Image]:
        store = SqliteStore(str(home / "state.db"), timeout_ms=1000)
        now_ms = int(time.time() * 1000)
        for target, what in written:
            if isinstance(target, str):
                assert isinstance(what, Plan)
                await store.write(target, what)
                continue
            for number in range(int(str(what))):
                taken = await store.reserve(target, Cost(1, 100), now_ms=now_ms, call_id=str(number))
                assert isinstance(taken, Reservation)
        images = await store.snapshot([str(getattr(target, "key", target)) for target, _ in written])
        await store.aclose()
        return images

    return asyncio.run(write())


def test_table_tells_order_verdict_and_use(home: Path) -> None:
    catalog = configure(
        home,
        small("spare", priority=2),
        small("full", requests_per_day=2),
        small("cool"),
        small("short", max_request_length=10),
        providers={"openai": {"tokens_per_day": 100_000}},
    )
    tomorrow = int(time.time() * 1000) + 86_400_000
    remember(home, (catalog.by_name["full"].scope, 2), ("m#cool", cool(tomorrow)))
    text = told(home)
    assert re.match(r"SMALL: \d+ bytes, about \d+ tokens reserved, needs nothing special\nstate: sqlite\n", text)
    assert re.fullmatch(
        r"\d full 1 no room: requests_per_day until 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d "
        r"2 of 2 requests/day 0 of 100,000 tokens/day",
        row(text, "full"),
    )
    assert re.fullmatch(r"\d cool 1 no room: cooldown until .{19} 0 of 100,000 tokens/day", row(text, "cool"))
    assert re.fullmatch(r"\d short 1 out: max_request_length 0 of 100,000 tokens/day", row(text, "short"))
    assert re.fullmatch(r"4 spare 2 yes 0 of 100,000 tokens/day", row(text, "spare"))
    assert text.endswith("\n\nspare would be asked first.\n")


def test_nothing_is_sent_and_nothing_is_reserved(home: Path) -> None:
    async def main() -> None:
        async with FakeUpstream() as upstream:
            catalog = configure(home, {**small("a", requests_per_minute=9), "base_url": f"{upstream.url}/v1"})
            before = await asyncio.to_thread(remember, home, (catalog.models[0].scope, 1))
            text = await asyncio.to_thread(told, home)
            after = await asyncio.to_thread(remember, home, (catalog.models[0].scope, 0))
            assert text.endswith("a would be asked first.\n")
            assert (upstream.connections, after) == (0, before)

    asyncio.run(main())


def test_no_state_yet_is_said_and_none_is_made(home: Path) -> None:
    configure(home, small("a", token="sk-canary-0123456789"))
    text = told(home)
    assert "state: none yet in state.db" in text
    assert not (home / "state.db").exists()
    assert "canary" not in text  # nor any other secret


def test_memory_of_another_process_cannot_be_known() -> None:
    loaded = load(yaml.safe_dump(configuration(small("a"), state={"store": "memory"})), name="test.yaml", env={})
    text = explanation(loaded, orjson.dumps(ask(model="SMALL")), None)
    assert "state: none, the store `memory` is known to the serving process alone" in text


def test_nobody_left_is_said(home: Path) -> None:
    configure(home, small("a", capabilities=["tools"]))
    (home / "request.json").write_bytes(orjson.dumps(ask(model="SMALL", stream=True)))
    text = told(home)
    assert "needs streaming" in text
    assert row(text, "a") == "1 a 1 out: streaming no limits"
    assert text.endswith("Nobody could answer now.\n")


def test_request_without_a_model_names_the_default_category(home: Path) -> None:
    configure(home, small("a", model_size="BIG"), server={"default_category": "BIG"})
    (home / "request.json").write_bytes(orjson.dumps({"messages": [{"role": "user", "content": "Hello"}]}))
    assert told(home).startswith("(no model: BIG): ")


def test_key_may_be_named_and_its_own_limit_is_told(home: Path) -> None:
    keys = [
        {"name": "app", "token": "0123456789abcdef-app"},
        {"name": "guest", "token": "0123456789abcdef-guest", "models": ["b"], "requests_per_day": 1},
    ]
    catalog = configure(home, small("a"), small("b"), auth={"keys": keys})
    guest = Keyring(catalog.config.auth.keys).callers[1]
    assert told(home).endswith("\n\na would be asked first.\n")
    text = told(home, "--key", "guest")
    assert (" a " in text, text.endswith("\n\nb would be asked first.\n")) == (False, True)
    remember(home, (guest.scope, 1))
    assert "Nobody would be asked, the key guest has no room: requests_per_day until" in told(home, "--key", "guest")


@pytest.mark.parametrize(
    ("raw", "key", "words"),
    [
        (b"{", None, "400 invalid_request_error: The request body is not valid JSON"),
        (b'{"messages": []}', None, "400 invalid_request_error: `messages` must be a list with at least one message"),
        (orjson.dumps(ask(model="SMALL")), "nobody", "there is no key named nobody"),
        (orjson.dumps(ask(model="BIG")), None, "404 model_not_found: No model of size BIG for chat is configured"),
    ],
)
def test_what_cannot_be_served_has_no_explanation(raw: bytes, key: str | None, words: str) -> None:
    loaded = load(yaml.safe_dump(configuration(small("a"))), name="test.yaml", env={})
    with pytest.raises(click.ClickException, match=words):
        explanation(loaded, raw, key)


def test_model_that_does_not_exist_ends_the_command_with_a_message(home: Path) -> None:
    configure(home, small("a"))
    (home / "request.json").write_bytes(orjson.dumps(ask(model="nobody")))
    done = sluice("explain", "request.json", cwd=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: 404 model_not_found: The model 'nobody' does not exist here.")


def test_state_that_cannot_be_read_ends_with_a_message_and_is_left_alone(home: Path) -> None:
    configure(home, small("a"))
    (home / "state.db").write_bytes(b"not a database" * 100)
    done = sluice("explain", "request.json", cwd=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: the state file state.db ")
    assert (home / "state.db").read_bytes() == b"not a database" * 100
