"""`sluice check`: the route table, its warnings, and no value of any key."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from core.config import load
from sluice.check import route_table
from tests.served import sluice

CANARIES = {
    "AUTH_TOKEN": "caller-canary-0123456789",
    "ONE_KEY": "sk-one-canary-0123456789",
    "TWO_KEY": "sk-two-canary-0123456789",
}
WRITTEN_OUT = "sk-written-out-canary-0123456789"
IN_URL = "sk-in-url-canary-0123456789"
IN_HEADER = "header-canary-0123456789"

CONFIG: dict[str, Any] = {
    "auth": {"keys": [{"name": "app", "token": "${AUTH_TOKEN}"}, {"name": "ci", "sha256": "c0ffee00" * 8}]},
    "providers": {
        "openai": {"token": "${ONE_KEY}", "requests_per_day": 10000, "headers": {"x-org": IN_HEADER}},
        "unused": {"base_url": "https://unused.example/v1", "token": "${TWO_KEY}"},
        "left-out": {"base_url": "https://left-out.example/v1", "token": "${NOT_SET}", "optional": True},
    },
    "models": [
        {"name": "openai/second", "provider": "openai", "model_size": "SMALL", "priority": 20},
        {
            "name": "openai/first",
            "provider": "openai",
            "model_size": "small",
            "priority": 10,
            "requests_per_minute": 500,
            "tokens_per_minute": 200000,
            "max_request_length": 400000,
            "context_tokens": 128000,
            "aliases": ["gpt-first"],
            "fallbacks": ["demo/by-name"],
        },
        {"name": "openai/off", "provider": "openai", "model_size": "SMALL", "priority": 30, "requests_per_hour": 0},
        {"name": "mine/own-key", "provider": "openai", "token": "${TWO_KEY}", "model_size": "TINY"},
        {"name": "mine/in-file", "provider": "openai", "token": WRITTEN_OUT, "model_size": "TINY", "priority": 200},
        {
            "name": "mine/in-url",
            "provider": "mine",
            "url": f"https://mine.example/v1/chat?key={IN_URL}",
            "model_size": "TINY",
            "priority": 300,
            "capabilities": ["vision", "streaming"],
        },
        {"name": "demo/by-name", "provider": "demo"},
        {"name": "mine/painter", "provider": "openai", "kind": "image"},
        {"name": "left-out/gone", "provider": "left-out"},
    ],
}


def table(config: dict[str, Any] = CONFIG, **env: str) -> str:
    loaded = load(yaml.safe_dump(config), name="config.yaml", env={**CANARIES, **env})
    return click.unstyle(route_table(loaded))


def section(title: str, text: str | None = None) -> str:
    """From the line that begins with `title` to the next blank line."""
    found = re.search(rf"^{re.escape(title)}.*?(?=\n\n|\Z)", text or table(), re.MULTILINE | re.DOTALL)
    assert found, title
    return found[0]


def row(name: str, within: str) -> str:
    return re.sub(r" {2,}", " | ", next(line for line in within.splitlines() if f" {name} " in line).strip())


def test_each_category_lists_its_candidates_best_first() -> None:
    found = re.findall(r"^\d+ +(\S+)", section("SMALL: the candidates, in order"), re.MULTILINE)
    assert found == ["openai/first", "openai/second", "openai/off"]


def test_categories_stand_in_the_order_of_their_candidates_tables() -> None:
    assert re.findall(r"^(\w+): the candidates", table(), re.MULTILINE) == ["SMALL", "BIG", "TINY"]


def test_a_model_without_a_category_is_listed_as_one_to_be_called_by_name() -> None:
    assert re.findall(r"^\d+ +(\S+)", section("By name only"), re.MULTILINE) == ["demo/by-name", "mine/painter"]


def test_a_row_tells_limits_sizes_abilities_key_and_fallbacks() -> None:
    small = section("SMALL: the candidates, in order")
    assert row("openai/first", small) == (
        "10 | openai/first | openai | 500 requests/min | 400,000 bytes | json_schema, streaming, tools, vision"
        " | $ONE_KEY | demo/by-name"
    )
    below = small.splitlines()[small.splitlines().index(next(x for x in small.splitlines() if "first" in x)) + 1]
    assert below.split() == ["also", "gpt-first", "200,000", "tokens/min", "128,000", "tokens"]


@pytest.mark.parametrize(
    ("name", "title", "expected"),
    [
        ("openai/second", "SMALL", "none | any length"),
        ("openai/off", "SMALL", "| off |"),
        ("mine/own-key", "TINY", "| $TWO_KEY"),
        ("mine/in-file", "TINY", "| the file"),
        ("mine/in-url", "TINY", "| streaming, vision | none needed"),
        ("demo/by-name", "By name only", "| streaming | none needed"),
        ("mine/painter", "By name only", "| image only | $ONE_KEY"),
    ],
)
def test_a_row_says_what_is_special(name: str, title: str, expected: str) -> None:
    assert expected in row(name, section(title))


def test_limits_that_a_providers_models_share_have_a_table_of_their_own() -> None:
    pools = section("Shared by all models of a provider").splitlines()
    assert [line.split() for line in pools[3:]] == [["openai", "10,000", "requests/day"]]


def test_without_shared_limits_there_is_no_such_table() -> None:
    assert "Shared by all" not in table({**CONFIG, "providers": {}, "models": [CONFIG["models"][6]]})


def test_a_category_without_models_says_so() -> None:
    assert section("BIG: the candidates, in order").splitlines()[1:] == ["(none)"]


def test_warnings_name_what_is_left_out_empty_or_unused() -> None:
    assert section("Warnings").splitlines()[1:] == [
        f"config.yaml:{line_of('left-out/gone')}: left-out/gone is left out: NOT_SET is not set",
        "no model has the size BIG",
        "providers.unused is used by no model",
    ]


def line_of(name: str) -> int:
    """Where the entry of that name begins."""
    lines = yaml.safe_dump(CONFIG).splitlines()
    at = next(number for number, line in enumerate(lines) if f"name: {name}" in line)
    return max(number for number, line in enumerate(lines[: at + 1], start=1) if line.startswith("- "))


def test_an_empty_default_category_is_warned_of() -> None:
    assert "requests without a model go to BIG, which is empty" in table(
        {**CONFIG, "server": {"default_category": "BIG"}}
    )


def test_a_configuration_without_a_flaw_has_no_warnings() -> None:
    sizes = [{"name": f"demo/{size}", "provider": "demo", "model_size": size} for size in ("SMALL", "BIG")]
    text = table({"auth": CONFIG["auth"], "models": sizes})
    assert "Warnings" not in text
    assert text.endswith("\n\nModels: 2. Keys: 2. The configuration is fine.")


def test_the_command_prints_the_table_and_no_value_of_a_key(tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "keys.env").write_text("".join(f"{name}={value}\n" for name, value in CANARIES.items()))
    done = sluice("check", "--config", "routes.yaml", "--env-file", "keys.env", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == table().replace("config.yaml:", "routes.yaml:")
    assert not any(key in done.stdout for key in (*CANARIES.values(), WRITTEN_OUT, IN_URL, IN_HEADER, "c0ffee00"))
