"""`sluice state` as people call it: what the store knows of each scope, clear one, make the table."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.config.schema import State
from core.plan import Plan
from core.store import make_store
from core.store.dynamodb_client import make_client
from core.store.port import StateStore
from tests.canaries import CALLER
from tests.dynamodb_endpoint import CREDENTIALS, fresh_table
from tests.proxy import Proxy
from tests.served import sluice

TOKEN = CALLER
MODELS = [
    {"name": "demo/a", "provider": "demo", "requests_per_minute": 30, "tokens_per_day": 50_000, "aliases": ["quick"]},
    {"name": "demo/b", "provider": "demo", "max_in_flight": 4},
    {"name": "other/c", "provider": "other"},
]
PROVIDERS = {"demo": {"requests_per_day": 1000}, "other": {"dialect": "demo"}}
KEYS = [{"name": "app", "token": TOKEN, "requests_per_hour": 60}, {"name": "free", "token": TOKEN[::-1]}]


@dataclass
class Command:
    """`sluice state ARGS` in a folder with a configuration, and the store that it looks into."""

    folder: Path
    state: State

    def __call__(self, *args: str) -> tuple[int, str]:
        done = sluice("state", *args, cwd=self.folder, env=CREDENTIALS)
        return done.returncode, done.stdout + done.stderr

    def with_store(self, work: Callable[[StateStore], Coroutine[Any, Any, Any]]) -> Any:
        async def run() -> Any:
            store = make_store(self.state)
            try:
                return await work(store)
            finally:
                await store.aclose()

        return asyncio.run(run())

    def write(self, key: str, **values: Any) -> None:
        sets = {name: value for name, value in values.items() if isinstance(value, frozenset)}
        plans = [Plan(set={name: value for name, value in values.items() if name not in sets})]
        plans += [Plan(include={name: member}) for name, value in sets.items() for member in value]

        async def write(store: StateStore) -> None:
            for plan in plans:
                await store.write(key, plan)

        self.with_store(write)


@pytest.fixture(params=["sqlite", "dynamodb"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    if request.param == "dynamodb":
        state = fresh_table(request.getfixturevalue("dynamodb"))
    else:
        state = State(path=str(tmp_path / "state.db"))
    write_config(tmp_path, state)
    return Command(tmp_path, state)


def write_config(folder: Path, state: State, **more: Any) -> None:
    blocks = {"state": state.model_dump(exclude_none=True), "providers": PROVIDERS, "models": MODELS, **more}
    text = yaml.safe_dump({"auth": {"keys": KEYS}, **blocks})
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def test_every_scope_of_the_configuration_is_listed_with_what_is_used_and_what_there_is(command: Command) -> None:
    now = time.time()
    minute = int(now // 60)
    command.write(
        "m#demo/a", lr=int(now * 1000) - 5000, **{f"rm{minute}": 7, f"rm{minute + 1}": 7, f"rm{minute - 1}": 9}
    )
    leases = frozenset({f"{int(now * 1000) + 60_000}.x", "9.dead"})
    command.write("m#demo/b", q=leases, f=3, u=int(now * 1000) + 60_000, c=int(now * 1000) + 90_000)
    code, out = command("--json")
    assert code == 0, out
    rows = {row["scope"]: row for row in json.loads(out)}
    assert list(rows) == ["m#demo/a", "m#demo/b", "m#other/c", "p#demo", "k#app"]
    a, b = rows["m#demo/a"], rows["m#demo/b"]
    assert a["limits"] == {
        "requests_per_minute": {"used": 7, "limit": 30},
        "tokens_per_day": {"used": 0, "limit": 50_000},
    }
    assert abs(datetime.fromisoformat(a["last_request"]).timestamp() - now + 5) < 1
    assert (a["open_until"], a["cooling_until"], a["in_flight"]) == (None, None, 0)
    assert b["in_flight"] == 1, "the other one's process died"
    assert abs(datetime.fromisoformat(b["open_until"]).timestamp() - now - 60) < 1
    assert abs(datetime.fromisoformat(b["cooling_until"]).timestamp() - now - 90) < 1
    assert rows["m#other/c"]["limits"] == {}
    assert rows["p#demo"]["limits"]["requests_per_day"]["limit"] == 1000
    assert rows["k#app"]["limits"]["requests_per_hour"] == {"used": 0, "limit": 60}


def test_the_table_says_the_same_to_people(command: Command) -> None:
    now = time.time()
    command.write("m#demo/a", lr=int(now * 1000), **{f"rm{int(now // 60)}": 7, f"rm{int(now // 60) + 1}": 7})
    later = int(now * 1000) + 60_000
    command.write("m#demo/b", f=3, u=later, q=frozenset({f"{later}.x"}))
    code, out = command()
    assert code == 0, out
    lines = out.splitlines()
    assert re.fullmatch(r"scope +used +in flight +health +last request", lines[0].strip())
    [a] = [line for line in lines if line.startswith("m#demo/a")]
    [b] = [line for line in lines if line.startswith("m#demo/b")]
    assert "7 of 30 requests/minute" in a
    assert "fine" in a
    assert datetime.fromtimestamp(now, UTC).astimezone().strftime("%Y-%m-%d") in a
    assert " 1 of 4 " in b
    assert re.search(r"open until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", b)
    assert TOKEN not in out


@pytest.mark.parametrize(
    ("name", "cleared"),
    [
        ("demo/a", ["m#demo/a"]),
        ("quick", ["m#demo/a"]),
        ("demo", ["m#demo/a", "m#demo/b", "p#demo"]),
        ("other", ["m#other/c"]),
    ],
)
def test_reset_clears_breaker_and_cooldown_and_keeps_what_was_counted(
    command: Command, name: str, cleared: list[str]
) -> None:
    keys, later = ["m#demo/a", "m#demo/b", "m#other/c", "p#demo"], int(time.time() * 1000) + 60_000
    for key in keys:
        command.write(key, f=3, u=later, l=1, c=later, rd1=5, nx=3)
    code, out = command("reset", name)
    assert (code, out.strip()) == (0, f"cleared: {', '.join(cleared)}")
    images = command.with_store(lambda store: store.snapshot(keys))
    for key in keys:
        counted = {"rd1": 5, "nx": 3}
        assert images[key] == (counted if key in cleared else {**counted, "f": 3, "u": later, "l": 1, "c": later})


@pytest.mark.parametrize(
    "args", [("--config", "sub/config.yaml", "reset", "demo/a"), ("reset", "demo/a", "--config", "sub/config.yaml")]
)
def test_the_configuration_may_be_named_before_the_subcommand_or_behind_it(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    state = State(path=str(tmp_path / "state.db"))
    (tmp_path / "sub").mkdir()
    write_config(tmp_path / "sub", state)
    assert Command(tmp_path, state)(*args) == (0, "cleared: m#demo/a\n")


def test_reset_of_what_is_not_there_names_it(command: Command) -> None:
    code, out = command("reset", "demo/z")
    assert code == 1
    assert "demo/z is neither a model nor a provider of this configuration" in out


def test_memory_is_only_known_to_the_process_that_serves(tmp_path: Path) -> None:
    write_config(tmp_path, State(store="memory"))
    code, out = Command(tmp_path, State(store="memory"))()
    assert code == 1
    assert "only the serving process knows it" in out


def test_create_table_makes_it_once_and_says_when_it_was_there(tmp_path: Path, dynamodb: str) -> None:
    state = State(store="dynamodb", table="new-table", region="eu-west-1", endpoint_url=dynamodb, timeout_ms=5000)
    write_config(tmp_path, state)
    command = Command(tmp_path, state)
    code, out = command()
    assert code == 1
    assert "the table new-table cannot be used: ResourceNotFoundException: no such table in this region" in out
    assert command("create-table") == (0, "table new-table: made\n")
    assert command("create-table") == (0, "table new-table: is there already\n")
    assert command()[0] == 0
    lifetime = make_client(state).describe_time_to_live(TableName="new-table")["TimeToLiveDescription"]
    assert (lifetime["TimeToLiveStatus"], lifetime["AttributeName"]) == ("ENABLED", "x")


@pytest.mark.parametrize(
    ("region", "credentials", "says"),
    [
        ("eu-west-1", {}, "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
        (None, CREDENTIALS, "no region: set state.region, or AWS_DEFAULT_REGION"),
    ],
)
@pytest.mark.parametrize("args", [(), ("create-table",)], ids=["show", "create-table"])
def test_what_is_missing_to_reach_the_table_is_named(
    tmp_path: Path, region: str | None, credentials: dict[str, str], says: str, args: tuple[str, ...]
) -> None:
    write_config(tmp_path, State(store="dynamodb", table="t", region=region, endpoint_url="http://127.0.0.1:9"))
    done = sluice("state", *args, cwd=tmp_path, env={"AWS_EC2_METADATA_DISABLED": "true", **credentials})
    assert (done.returncode, done.stderr) == (1, f"Error: the store dynamodb has {says}\n")


def test_create_table_is_for_dynamodb_alone(tmp_path: Path) -> None:
    write_config(tmp_path, State(path=str(tmp_path / "state.db")))
    code, out = Command(tmp_path, State())("create-table")
    assert code == 1
    assert "only dynamodb has a table to make" in out


@pytest.fixture
async def proxy(dynamodb: str) -> AsyncIterator[Proxy]:
    async with Proxy(dynamodb) as proxy:
        yield proxy


async def test_it_asks_for_the_keys_of_the_configuration_and_never_scans(
    tmp_path: Path, dynamodb: str, proxy: Proxy
) -> None:
    state = fresh_table(dynamodb).model_copy(update={"endpoint_url": proxy.url})
    write_config(tmp_path, state)
    code, out = await asyncio.to_thread(Command(tmp_path, state), "--json")
    assert code == 0, out
    assert proxy.operations == {"BatchGetItem": 1}
