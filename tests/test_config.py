"""The configuration: what loads, and every problem it can have, each with file, line and path, all of them at once."""

import contextlib
import re
import string
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from core.catalog import build_catalog
from core.config import ConfigError, Loaded, load
from core.config.words import WORDS
from core.providers import PROVIDERS

EXAMPLE = (Path(__file__).parents[1] / "config.example.yaml").read_text(encoding="utf-8")
HEAD = "auth: {keys: [{name: app, token: 0123456789abcdef}]}\n"
M1 = "models:\n  - name: m1\n    provider: demo\n"


def good(text: str, **env: str) -> Loaded:
    return load(text, name="config.yaml", env=env)


def problems(text: str, **env: str) -> list[str]:
    """Every line of the refusal, less the file's name, which stands before each."""
    with pytest.raises(ConfigError) as caught:
        good(text, **env)
    lines = caught.value.problems
    assert str(caught.value) == "\n".join(lines)
    assert all(line.startswith("config.yaml:") for line in lines)
    return [line.removeprefix("config.yaml:") for line in lines]


def test_a_problem_is_told_with_file_line_and_path() -> None:
    text = HEAD + "models:\n  - {name: m1, provider: demo}\n  - name: m2\n    provider: demo\n    priority: high\n"
    with pytest.raises(ConfigError) as caught:
        load(text, name="live/config.yaml", env={})
    assert caught.value.problems == ["live/config.yaml:6: models[1].priority: must be a whole number"]


# One setting of a model, written in line 5 -> what is wrong with it.
SETTINGS: list[tuple[str, str]] = [
    # unknown keys
    ("priorty: 1", ".priorty: is not a known key (did you mean priority?)"),
    ("xyzzy: 1", ".xyzzy: is not a known key"),
    ("5: x", ".5: is not a known key"),
    ("~: x", ".~: is not a known key"),
    ("max_requests_lenght: 1", ".max_requests_lenght: is not a known key (did you mean max_request_length?)"),
    ("timeouts: {conect: 1}", ".timeouts.conect: is not a known key (did you mean connect?)"),
    ("http_client_config: {idle: 1}", ".http_client_config.idle: is not a known key"),
    ("demo: {tokenms: 1}", ".demo.tokenms: is not a known key (did you mean token_ms?)"),
    ("dialect: openai", ".dialect: is not a known key"),
    # numbers
    ("priority: high", ".priority: must be a whole number"),
    ("priority: 1.5", ".priority: must be a whole number"),
    ("priority: 1.0", ".priority: must be a whole number"),
    ('priority: "1"', ".priority: must be a whole number"),
    ("priority: true", ".priority: must be a whole number"),
    ("priority: [1]", ".priority: must be a whole number"),
    ("priority:", ".priority: must be a whole number"),
    ("priority: -1", ".priority: must be at least 0"),
    ("requests_per_minute: -1", ".requests_per_minute: must be at least 0"),
    ("requests_per_hour: many", ".requests_per_hour: must be a whole number"),
    ("requests_per_day: false", ".requests_per_day: must be a whole number"),
    ("tokens_per_minute: 1e3", ".tokens_per_minute: must be a whole number"),
    ("max_in_flight: 0", ".max_in_flight: must be at least 1"),
    ("min_interval_ms: -5", ".min_interval_ms: must be at least 0"),
    ("context_tokens: 0", ".context_tokens: must be at least 1"),
    ("timeouts: {idle: 0}", ".timeouts.idle: must be greater than 0"),
    ("timeouts: {idle: -1}", ".timeouts.idle: must be greater than 0"),
    ("timeouts: {idle: soon}", ".timeouts.idle: must be a number"),
    ("timeouts: {idle: true}", ".timeouts.idle: must be a number"),
    ("timeouts: {total: .inf}", ".timeouts.total: must be a number"),
    ("timeouts: {total: .nan}", ".timeouts.total: must be greater than 0"),
    ("http_client_config: {timeout_seconds: 30s}", ".http_client_config.timeout_seconds: must be a number"),
    ("demo: {status: 200}", ".demo.status: must be at least 400"),
    ("demo: {status: 600}", ".demo.status: must be at most 599"),
    # text, lists, mappings, true and false
    ("upstream_model: 4", ".upstream_model: must be text; put it in quotes"),
    ("upstream_model: on", ".upstream_model: must be text; put it in quotes"),
    ("upstream_model: ''", ".upstream_model: must have at least 1 characters"),
    ("api_version: 2024-02-01", ".api_version: must be text; put it in quotes"),
    ("token: 12345678", ".token: must be text; put it in quotes"),
    ("aliases: gpt", ".aliases: must be a list"),
    ("aliases: [1]", ".aliases[0]: must be text; put it in quotes"),
    ("fallbacks: {a: b}", ".fallbacks: must be a list"),
    ("headers: [a]", ".headers: must be a mapping of keys to values"),
    ("headers: {x-a: 1}", ".headers.x-a: must be text; put it in quotes"),
    ("timeouts: 5", ".timeouts: must be a mapping of keys to values"),
    ("optional: yes please", ".optional: must be true or false"),
    ("optional: 1", ".optional: must be true or false"),
    # choices
    ("kind: video", ".kind: must be one of 'chat', 'embedding' or 'image'"),
    (
        "capabilities: [flying]",
        ".capabilities[0]: must be one of 'tools', 'vision', 'json_schema', 'streaming' or 'prefill'",
    ),
    ("store_failure: panic", ".store_failure: must be one of 'local' or 'deny'"),
    # addresses
    ("url: ftp://x/y", ".url: must be an http:// or https:// address"),
    ("url: api.example.com/v1", ".url: must be an http:// or https:// address"),
    ("url: 'https://'", ".url: must be an http:// or https:// address"),
    ("base_url: file:///etc/passwd", ".base_url: must be an http:// or https:// address"),
    ("base_url: 'demo://local'", ".base_url: must be an http:// or https:// address"),
    ("auth_url: mailto:a@b", ".auth_url: must be an http:// or https:// address"),
    # when a day begins
    ("day_starts: midnight", '.day_starts: must be "HH:MM Area/City", for example "00:00 America/Los_Angeles"'),
    ("day_starts: 24:00 Etc/UTC", '.day_starts: must be "HH:MM Area/City", for example "00:00 America/Los_Angeles"'),
    ("day_starts: 0:00 Etc/UTC", '.day_starts: must be "HH:MM Area/City", for example "00:00 America/Los_Angeles"'),
    ("day_starts: 00:60 Etc/UTC", '.day_starts: must be "HH:MM Area/City", for example "00:00 America/Los_Angeles"'),
    ("day_starts: '00:00'", ".day_starts: names a time zone that does not exist: (none)"),
    ("day_starts: 00:00 Mars/Phobos", ".day_starts: names a time zone that does not exist: Mars/Phobos"),
    ("day_starts: 00:00 America", ".day_starts: names a time zone that does not exist: America"),
    ("day_starts: 00:00 ../zone", ".day_starts: names a time zone that does not exist: ../zone"),
    # across keys
    (
        "breaker: {cooldown_seconds: 60, max_cooldown_seconds: 59}",
        ".breaker: has a max_cooldown_seconds below its cooldown_seconds",
    ),
    ("breaker: {cooldown_seconds: 601}", ".breaker: has a max_cooldown_seconds below its cooldown_seconds"),
    ("fallbacks: [m2]", ".fallbacks[0]: is not a model of this configuration"),
    ("fallbacks: [m1]", ".fallbacks[0]: is the model itself"),
    ("aliases: [m1]", ".aliases[0]: is taken already, by m1"),
    ("aliases: [a, a]", ".aliases[1]: is taken already, by m1"),
    ("aliases: [small]", ".aliases[0]: is the name of a category"),
]


@pytest.mark.parametrize(("line", "problem"), SETTINGS, ids=[line for line, _ in SETTINGS])
def test_a_wrong_setting_is_told_by_its_path(line: str, problem: str) -> None:
    assert problems(f"{HEAD}{M1}    {line}\n") == [f"5: models[0]{problem}"]


def case(name: str, text: str, *lines: str, **env: str) -> Any:
    """A whole file, every line of its refusal, and what the environment holds."""
    return pytest.param(text, env, list(lines), id=name)


FILES: list[Any] = [
    # the file as a whole
    case("empty", "", "1: the file: must be a mapping with at least `models`"),
    case("only a comment", "# only\n", "1: the file: must be a mapping with at least `models`"),
    case("text", "models", "1: the file: must be a mapping with at least `models`"),
    case("list", "- name: m1\n", "1: the file: must be a mapping with at least `models`"),
    case("two files", HEAD + "---\n" + M1, "2: the file: is not valid YAML: but found another document"),
    case("bracket", HEAD + "a: [1\nb: 2\n", "3: the file: is not valid YAML: did not find expected ',' or ']'"),
    case("tab", HEAD + "\tmodels: 1\n", "2: the file: is not valid YAML: found character that cannot start any token"),
    case("quote", HEAD + 'a: "x\n', "3: the file: is not valid YAML: found unexpected end of stream"),
    case(
        "odd character", "a: \x01\n", "1: the file: is not valid YAML: an odd character, or an anchor that holds itself"
    ),
    case(
        "anchor in itself",
        "a: &a [*a]\n",
        "1: the file: is not valid YAML: an odd character, or an anchor that holds itself",
    ),
    case(
        "merge of itself",
        "a: &a {<<: *a}\n",
        "1: the file: is not valid YAML: an odd character, or an anchor that holds itself",
    ),
    case("unknown anchor", HEAD + "a: *b\n", "2: the file: is not valid YAML: found undefined alias"),
    case(
        "tag",
        HEAD + "a: !foo-bar x\n",
        "2: the file: is not valid YAML: could not determine a constructor for the tag (...)",
    ),
    case("list as a key", HEAD + "? [a]\n: 1\n", "2: the file: is not valid YAML: found unhashable key"),
    case(
        "merge of a number",
        HEAD + M1 + "    <<: 5\n",
        "5: the file: is not valid YAML: expected a mapping or list of mappings for merging, but found scalar",
    ),
    *(
        case(
            f"no such value, {value[:12]}",
            f"{HEAD}{M1}    api_version: {value}\n",
            "5: the file: is not valid YAML: a value is not what its form or its tag says",
        )
        for value in ("2024-13-45", "!!int x", "!!bool x", "!!float x", "!!timestamp x", "1" * 5000)
    ),
    # keys that stand twice
    case("twice in a model", HEAD + M1 + "    name: m2\n", "5: models[0].name: is set twice (first in line 3)"),
    case(
        "twice at the top",
        HEAD + M1 + "models:\n  - {name: m2, provider: demo}\n",
        "5: models: is set twice (first in line 2)",
    ),
    case(
        "provider twice", HEAD + M1 + "providers:\n  a: {}\n  a: {}\n", "7: providers.a: is set twice (first in line 6)"
    ),
    # the top level
    case("unknown block", HEAD + "modles: []\n" + M1, "2: modles: is not a known key (did you mean models?)"),
    case(
        "keys that are no text in YAML",
        HEAD + "~: 1\nyes: 2\n7: 3\n" + M1,
        "2: ~: is not a known key",
        "3: yes: is not a known key",
        "4: 7: is not a known key",
    ),
    case("no models", HEAD, "1: models: must be a list with at least one model"),
    case("null models", HEAD + "models:\n", "2: models: must be a list with at least one model"),
    case("empty models", HEAD + "models: []\n", "2: models: must be a list with at least one model"),
    case("models as a mapping", HEAD + "models: {m1: {}}\n", "2: models: must be a list with at least one model"),
    case("model as text", HEAD + "models: [m1]\n", "2: models[0]: must be a mapping of keys to values"),
    case(
        "empty model", HEAD + "models: [{}]\n", "2: models[0].name: is required", "2: models[0].provider: is required"
    ),
    case(
        "provider as a list",
        HEAD + "models:\n  - name: m1\n    provider: [x]\n",
        "4: models[0].provider: must be text; put it in quotes",
    ),
    case("null server", HEAD + "server:\n" + M1, "2: server: must be a mapping of keys to values"),
    case("null state", HEAD + "state:\n" + M1, "2: state: must be a mapping of keys to values"),
    case(
        "providers as a list", HEAD + "providers: [demo]\n" + M1, "2: providers: must be a mapping of names to entries"
    ),
    case(
        "provider as text",
        HEAD + "providers: {demo: x}\n" + M1,
        "2: providers.demo: must be a mapping of keys to values",
    ),
    # names
    case(
        "names that clash",
        HEAD + M1 + "    aliases: [a]\n  - {name: m1, provider: demo}\n  - {name: a, provider: demo}\n"
        "  - {name: x, provider: demo, aliases: [m1, a]}\n",
        "6: models[1].name: is taken already, by m1",
        "7: models[2].name: is taken already, by m1",
        "8: models[3].aliases[0]: is taken already, by m1",
        "8: models[3].aliases[1]: is taken already, by m1",
    ),
    *(
        case(
            f"a category's name, {name}",
            f"{HEAD}models:\n  - {{name: {name}, provider: demo, model_size: tiny}}\n",
            "3: models[0].name: is the name of a category",
        )
        for name in ("SMALL", "small", "Big", "tiny", "TINY")
    ),
    case(
        "the category of a broken model",
        HEAD + M1 + "  - {name: huge, provider: demo}\n  - {name: m3, provider: demo, model_size: huge, priority: x}\n",
        "5: models[1].name: is the name of a category",
        "6: models[2].priority: must be a whole number",
    ),
    case(
        "fallbacks to nothing",
        HEAD
        + "providers: {demo: {fallbacks: [m2]}}\n"
        + M1
        + "    fallbacks: [m3, m1, m1-alias]\n    aliases: [m1-alias]\n",
        "2: providers.demo.fallbacks[0]: is not a model of this configuration",
        "6: models[0].fallbacks[0]: is not a model of this configuration",
        "6: models[0].fallbacks[1]: is the model itself",
        "6: models[0].fallbacks[2]: is the model itself",
    ),
    # providers
    case(
        "unknown provider without an address",
        HEAD + "models: [{name: m1, provider: acme}]\n",
        "2: models[0].provider: is not a provider that is built in: give it a url or a base_url",
    ),
    case(
        "no token",
        HEAD + "models: [{name: m1, provider: openai}]\n",
        "2: models[0]: needs a token: provider openai asks for one",
    ),
    case(
        "no token by another name",
        HEAD + "providers: {two: {dialect: openai}}\nmodels: [{name: m1, provider: two}]\n",
        "3: models[0]: needs a token: provider two asks for one",
    ),
    case(
        "no account",
        HEAD + "models: [{name: m1, provider: cloudflare, token: t}]\n",
        "2: models[0]: needs an account_id: the address of cloudflare holds it",
    ),
    case(
        "what a broken provider has is not missed in its models",
        HEAD + "providers:\n  acme:\n    base_url: https://acme.example/v1\n    prioritty: 1\n"
        "models: [{name: m1, provider: acme}]\n",
        "5: providers.acme.prioritty: is not a known key (did you mean priority?)",
    ),
    # keys of callers
    case("no auth", M1, "1: auth: is missing and AUTH_TOKEN is not set: callers need a key"),
    case(
        "no auth and an empty AUTH_TOKEN",
        M1,
        "1: auth: is missing and AUTH_TOKEN is not set: callers need a key",
        AUTH_TOKEN="",
    ),
    case(
        "no auth and a short AUTH_TOKEN",
        M1,
        "1: auth.keys[0].token: must have at least 16 characters",
        AUTH_TOKEN="short",
    ),
    case("null auth", "auth:\n" + M1, "1: auth: must be a mapping of keys to values", AUTH_TOKEN="0123456789abcdef"),
    case("empty auth", "auth: {}\n" + M1, "1: auth.keys: is required"),
    case("no keys", "auth: {keys: []}\n" + M1, "1: auth.keys: must have at least one entry"),
    case("keys as text", "auth: {keys: x}\n" + M1, "1: auth.keys: must be a list"),
    case("key as text", "auth: {keys: [x]}\n" + M1, "1: auth.keys[0]: must be a mapping of keys to values"),
    case(
        "unknown key in auth",
        "auth: {keys: [{name: a, token: 0123456789abcdef}], kyes: 1}\n" + M1,
        "1: auth.kyes: is not a known key (did you mean keys?)",
    ),
    case(
        "short token",
        "auth:\n  keys:\n  - {name: a, token: 0123456789abcde}\n" + M1,
        "3: auth.keys[0].token: must have at least 16 characters",
    ),
    case(
        "neither token nor hash",
        "auth:\n  keys:\n  - {name: a}\n" + M1,
        "3: auth.keys[0]: needs either a token or a sha256",
    ),
    case(
        "both token and hash",
        f"auth:\n  keys:\n  - {{name: a, token: 0123456789abcdef, sha256: {'ab' * 32}}}\n" + M1,
        "3: auth.keys[0]: needs either a token or a sha256",
    ),
    case(
        "short hash",
        f"auth:\n  keys:\n  - {{name: a, sha256: {'ab' * 31}}}\n" + M1,
        "3: auth.keys[0].sha256: must be 64 hexadecimal digits",
    ),
    case(
        "no hash",
        f"auth:\n  keys:\n  - {{name: a, sha256: {'xy' * 32}}}\n" + M1,
        "3: auth.keys[0].sha256: must be 64 hexadecimal digits",
    ),
    case(
        "two keys of one name",
        "auth:\n  keys:\n  - {name: a, token: 0123456789abcdef}\n  - {name: a, token: abcdef0123456789}\n" + M1,
        "4: auth.keys[1].name: is the name of another key",
    ),
    case(
        "key for nothing",
        "auth:\n  keys:\n  - {name: a, token: 0123456789abcdef, models: [m1, small, m7]}\n" + M1,
        "3: auth.keys[0].models[2]: is neither a model nor a category",
    ),
    # server and state
    case(
        "server numbers",
        HEAD + "server: {max_body_bytes: 0, max_attempts: 0}\n" + M1,
        "2: server.max_attempts: must be at least 1",
        "2: server.max_body_bytes: must be at least 1",
    ),
    case(
        "http client",
        HEAD + "server: {http_client: curl}\n" + M1,
        "2: server.http_client: must be one of 'aiohttp' or 'httpx'",
    ),
    case(
        "default category",
        HEAD + "server: {default_category: huge}\n" + M1,
        "2: server.default_category: must be one of SMALL, BIG",
    ),
    case(
        "unknown model as a number",
        HEAD + "server: {unknown_model: 500}\n" + M1,
        "2: server.unknown_model: must be text; put it in quotes",
    ),
    case(
        "unknown model",
        HEAD + "server: {unknown_model: huge}\n" + M1,
        "2: server.unknown_model: must be 404 or one of SMALL, BIG",
    ),
    case(
        "store",
        HEAD + "state: {store: redis}\n" + M1,
        "2: state.store: must be one of 'memory', 'sqlite' or 'dynamodb'",
    ),
    case(
        "dynamodb without a table",
        HEAD + "state: {store: dynamodb}\n" + M1,
        "2: state: needs a table for the store dynamodb",
    ),
    case(
        "endpoint",
        HEAD + "state: {endpoint_url: 'localhost:8000'}\n" + M1,
        "2: state.endpoint_url: must be an http:// or https:// address",
    ),
    case(
        "breaker of a provider",
        HEAD + "providers:\n  demo:\n    breaker: {cooldown_seconds: 9, max_cooldown_seconds: 1}\n" + M1,
        "4: providers.demo.breaker: has a max_cooldown_seconds below its cooldown_seconds",
    ),
    # variables
    case(
        "unset variable",
        HEAD + M1 + '    token: "${KEY}"\n',
        "5: models[0].token: needs the variable KEY, which is not set",
    ),
    case(
        "empty variable",
        HEAD + M1 + '    token: "${KEY}"\n',
        "5: models[0].token: needs the variable KEY, which is not set",
        KEY="",
    ),
    case(
        "nothing else is wrong with an unset variable",
        HEAD + M1 + "    priority: ${P}\n    url: ${U}\n    kind: ${K}\n",
        "5: models[0].priority: needs the variable P, which is not set",
        "6: models[0].url: needs the variable U, which is not set",
        "7: models[0].kind: needs the variable K, which is not set",
    ),
    case(
        "nor with a reference or a name",
        HEAD + M1 + '    fallbacks: ["${F}"]\n  - {name: "${N}", provider: demo}\n  - {name: "${N}", provider: demo}\n',
        "5: models[0].fallbacks[0]: needs the variable F, which is not set",
        "6: models[1].name: needs the variable N, which is not set",
        "7: models[2].name: needs the variable N, which is not set",
    ),
    case(
        "a variable that is no number",
        HEAD + M1 + "    priority: ${P}\n",
        "5: models[0].priority: must be a whole number",
        P="high",
    ),
    case(
        "a variable that is no value at all",
        HEAD + M1 + "    priority: ${P}\n",
        "5: models[0].priority: must be a whole number",
        P="2024-13-45",
    ),
    case(
        "a variable that is too small",
        HEAD + M1 + "    priority: ${P}\n",
        "5: models[0].priority: must be at least 0",
        P="-1",
    ),
    case(
        "a variable that is not true or false",
        HEAD + M1 + "    optional: ${P}\n",
        "5: models[0].optional: must be true or false",
        P="2",
    ),
    case(
        "unset in a provider that nobody uses",
        HEAD + "providers: {openai: {token: '${X}'}}\n" + M1,
        "2: providers.openai.token: needs the variable X, which is not set",
    ),
    case(
        "no names of variables",
        HEAD + M1 + "    url: '${}'\n    token: '${1X}'\n",
        "5: models[0].url: must be an http:// or https:// address",
    ),
    # optional entries
    case(
        "nothing is left",
        HEAD + "models:\n  - {name: m1, provider: openai, token: '${X}', optional: true}\n",
        "2: models: are all optional, and none of them has its key",
    ),
    case(
        "not optional",
        HEAD + "models:\n  - {name: m1, provider: openai, token: '${X}', optional: false}\n",
        "3: models[0].token: needs the variable X, which is not set",
    ),
    case(
        "only a missing token makes it optional",
        HEAD + M1 + "  - {name: m2, provider: demo, url: '${X}', token: t, optional: true}\n",
        "5: models[1].url: needs the variable X, which is not set",
    ),
]


@pytest.mark.parametrize(("text", "env", "expected"), FILES)
def test_a_broken_file_is_refused_with_every_problem(text: str, env: dict[str, str], expected: list[str]) -> None:
    assert problems(text, **env) == expected


def test_a_dialect_that_does_not_exist_is_answered_with_those_that_do() -> None:
    (line,) = problems(HEAD + "providers: {two: {dialect: klingon}}\n" + M1)
    assert line == f"2: providers.two.dialect: must be one of {', '.join(sorted(PROVIDERS))}"


@pytest.mark.parametrize("words", sorted(set(WORDS.values())))
def test_every_verdict_that_we_have_words_for_can_be_reached(words: str) -> None:
    said = [problem for _, problem in SETTINGS] + [line for row in FILES for line in row.values[2]]
    fixed = [part for part, *_ in string.Formatter().parse(words)]
    assert any(all(part in line for part in fixed) for line in said)


BROKEN = """\
server: {max_attempts: zero, colour: red}
auth:
  keys:
    - {name: app, token: short}
    - {name: app, sha256: "${HASH}"}
state: {store: dynamodb, timeout_ms: -1}
providers:
  openai: {token: "${OPENAI_API_KEY}", max_in_flight: 0}
  acme: {}
models:
  - {name: a, provider: openai, requests_per_minute: -1}
  - {name: b, provider: acme}
  - provider: demo
    prioriti: 1
  - {name: big, provider: demo, fallbacks: [a, b, c]}
modelz: []
"""


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    """A problem in one entry hides none in another, and what is wrong with `a` is not told of those that name it."""
    assert problems(BROKEN) == [
        "1: server.colour: is not a known key",
        "1: server.max_attempts: must be a whole number",
        "4: auth.keys[0].token: must have at least 16 characters",
        "5: auth.keys[1].sha256: needs the variable HASH, which is not set",
        "6: state.timeout_ms: must be at least 1",
        "8: providers.openai.max_in_flight: must be at least 1",
        "8: providers.openai.token: needs the variable OPENAI_API_KEY, which is not set",
        "11: models[0].requests_per_minute: must be at least 0",
        "12: models[1].provider: is not a provider that is built in: give it a url or a base_url",
        "13: models[2].name: is required",
        "14: models[2].prioriti: is not a known key (did you mean priority?)",
        "15: models[3].fallbacks[2]: is not a model of this configuration",
        "15: models[3].name: is the name of a category",
        "16: modelz: is not a known key (did you mean models?)",
    ]


@pytest.mark.parametrize(
    ("written", "env", "value"),
    [
        ("'${X}'", {"X": "a"}, "a"),
        ("${X}", {"X": "a"}, "a"),
        ("${X}", {"X": "12345"}, "12345"),
        ("${X}", {"X": "true"}, "true"),
        ("'a-${X}-${Y}'", {"X": "1", "Y": "2"}, "a-1-2"),
        ("${X:-fallback}", {}, "fallback"),
        ("${X:-fallback}", {"X": ""}, "fallback"),
        ("${X:-fallback}", {"X": "a"}, "a"),
        ("'${X:-a:-b c}'", {}, "a:-b c"),
        ("'-${X:-}-'", {}, "--"),
        ("'$${X}'", {"X": "a"}, "${X}"),
        ("'$$${X}'", {"X": "a"}, "$${X}"),
        ("'$${X}${X}'", {"X": "a"}, "${X}a"),
        ("'$X $(X) ${X-a} ${}'", {"X": "a"}, "$X $(X) ${X-a} ${}"),
        ("'${X}'", {"X": "${Y}", "Y": "b"}, "${Y}"),
        ("'${X}'", {"X": "a: [b"}, "a: [b"),
        ("|\n      ${X}\n      end", {"X": "a"}, "a\nend\n"),
        ("'${x_1}'", {"x_1": "a"}, "a"),
    ],
)
def test_variables_fill_text_in(written: str, env: dict[str, str], value: str) -> None:
    """What a variable holds is never read as a variable again, nor as YAML where text is asked for."""
    loaded = good(f"{HEAD}{M1}    upstream_model: {written}\n", **env)
    assert loaded.config.models[0].upstream_model == value


@pytest.mark.parametrize(
    ("setting", "value"),
    [("priority: ${X}", 30), ("requests_per_minute: ${X}", 30), ("timeouts: {total: 9}\n    context_tokens: ${X}", 30)],
)
def test_a_variable_may_hold_a_number_where_one_is_asked_for(setting: str, value: int) -> None:
    (model,) = good(f"{HEAD}{M1}    {setting}\n", X="30").config.models
    assert value in (model.priority, model.requests_per_minute, model.context_tokens)


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("7", 7.0)])
def test_a_variable_may_hold_seconds_or_true_and_false(text: str, value: float) -> None:
    loaded = good(f"{HEAD}{M1}    timeouts:\n      idle: ${{X}}\n    optional: ${{Y}}\n", X=text, Y="true")
    (model,) = loaded.config.models
    assert model.timeouts is not None
    assert (model.timeouts.idle, model.optional) == (value, True)


def test_quotes_make_a_variable_text() -> None:
    assert problems(f"{HEAD}{M1}    priority: '${{X}}'\n", X="30") == ["5: models[0].priority: must be a whole number"]


def test_a_number_may_be_a_default_too() -> None:
    assert good(f"{HEAD}{M1}    priority: ${{X:-7}}\n").config.models[0].priority == 7


def test_anchors_aliases_and_merge_keys_are_plain_yaml() -> None:
    loaded = good(
        HEAD
        + """\
models:
  - &first
    name: m1
    provider: demo
    priority: 1
    timeouts: &slow {total: 900}
    upstream_model: &up "$${NOT_A_VARIABLE}"
  - <<: *first
    name: m2
    timeouts: {<<: *slow, idle: 9}
  - <<: [{priority: 3}, *first]
    name: m3
    model_size: *up
"""
    )
    one, two, three = loaded.config.models
    assert (one.priority, two.priority, three.priority) == (1, 1, 3)
    assert two.timeouts is not None
    assert (two.timeouts.idle, two.timeouts.total) == (9, 900)
    assert three.timeouts == one.timeouts
    assert one.upstream_model == two.upstream_model == "${NOT_A_VARIABLE}"
    assert three.model_size == "${NOT_A_VARIABLE}"


def test_a_problem_in_what_is_merged_is_told_of_every_model_it_reaches() -> None:
    text = HEAD + "models:\n  - &a\n    name: m1\n    provider: demo\n    priority: x\n    token: ${T}\n"
    text += "  - <<: *a\n    name: m2\n  - <<: *a\n    name: m3\n    priority: 1\n    token: own\n"
    assert problems(text) == [
        "6: models[0].priority: must be a whole number",
        "6: models[1].priority: must be a whole number",
        "7: models[0].token: needs the variable T, which is not set",
        "7: models[1].token: needs the variable T, which is not set",
    ]


OPTIONAL = """\
auth: {keys: [{name: app, token: 0123456789abcdef, models: [kept, gone, vast]}]}
server: {default_category: VAST}
providers:
  acme: {base_url: "https://acme.example/v1", token: "${ACME_KEY}", optional: true, priority: 7}
  spare: {base_url: "https://spare.example/v1", token: "${SPARE_KEY}"}
models:
  - {name: gone, provider: openai, token: "${OPENAI_KEY}", optional: true, aliases: [gone-too]}
  - {name: gone-with-acme, provider: acme, model_size: vast, priority: 1}
  - {name: spared, provider: spare, optional: true}
  - {name: kept, provider: demo, fallbacks: [gone, gone-too, gone-with-acme]}
  - {name: own-key, provider: acme, token: own-key}
"""


def test_what_is_optional_is_left_out_with_a_warning_until_its_key_is_there() -> None:
    """Who names what was left out (a fallback, a caller's key, the default category) is not at fault."""
    loaded = good(OPTIONAL)
    assert [model.name for model in loaded.config.models] == ["kept", "own-key"]
    assert loaded.warnings == [
        "config.yaml:7: gone is left out: OPENAI_KEY is not set",
        "config.yaml:8: gone-with-acme is left out: ACME_KEY is not set",
        "config.yaml:9: spared is left out: SPARE_KEY is not set",
    ]
    assert loaded.config.models[0].fallbacks == ["gone", "gone-too", "gone-with-acme"]


def test_a_model_with_a_key_of_its_own_keeps_the_rest_of_an_optional_provider() -> None:
    loaded = good(OPTIONAL)
    assert list(loaded.config.providers) == ["acme"]
    assert loaded.config.providers["acme"].token is None
    own = build_catalog(loaded).by_name["own-key"]
    assert (own.endpoint.url, own.endpoint.token, own.priority) == (
        "https://acme.example/v1/chat/completions",
        "own-key",
        7,
    )


def test_what_is_optional_is_there_when_its_key_is() -> None:
    loaded = good(OPTIONAL, OPENAI_KEY="a", ACME_KEY="b", SPARE_KEY="c")
    assert [model.name for model in loaded.config.models] == ["gone", "gone-with-acme", "spared", "kept", "own-key"]
    assert loaded.warnings == []
    assert list(loaded.config.providers) == ["acme", "spare"]


def test_problems_of_what_is_left_are_told_in_their_own_lines_and_places() -> None:
    text = OPTIONAL.replace("{name: kept, provider: demo, ", "{name: kept, provider: nobody, ")
    assert problems(text) == ["10: models[3].provider: is not a provider that is built in: give it a url or a base_url"]


def test_problems_of_what_is_left_out_are_not_told() -> None:
    text = OPTIONAL.replace("optional: true, aliases", "optional: true, url: '${NO_URL}', aliases")
    assert len(good(text).warnings) == 3


def test_where_a_token_comes_from_is_known_by_the_place_of_its_entry() -> None:
    """`sluice check` shows it. An entry that was left out does not lend its variable to the one that took its place."""
    sources = good(OPTIONAL, ACME_KEY="b").key_sources
    assert sources[("providers", "acme", "token")] == "$ACME_KEY"
    assert not [path for path in sources if path[0] == "models"]
    keys = "auth: {keys: [{name: a, sha256: '${H}'}, {name: b, token: '${A}${B:-c}'}]}\n"
    sources = good(keys + M1, H="ab" * 32, A="0123456789abcdef").key_sources
    assert sources[("auth", "keys", 1, "token")] == "$A, $B"


def test_a_reference_is_what_the_door_finds_for_it_and_all_are_asked_for_at_once() -> None:
    asked: list[frozenset[str]] = []

    def look_up(references: frozenset[str]) -> dict[str, str]:
        asked.append(references)
        return {"ssm:/acme": "canary-acme", "secretsmanager:openai": "5"}

    models = """\
models:
  - {name: a, provider: acme, base_url: "https://acme.example", token: &key "ssm:/acme"}
  - {name: b, provider: openai, token: "${KEY}"}
  - {name: c, provider: acme, base_url: "https://acme.example", token: *key}
  - {name: d, provider: openai, token: "not ssm:/acme"}
"""
    loaded = load(HEAD + models, name="config.yaml", env={"KEY": "secretsmanager:openai"}, look_up=look_up)
    assert [entry.token for entry in loaded.config.models] == ["canary-acme", "5", "canary-acme", "not ssm:/acme"]
    assert asked == [{"ssm:/acme", "secretsmanager:openai"}]
    origins = {path[1]: origin for path, origin in loaded.key_sources.items()}
    assert origins == {0: "ssm:/acme", 1: "secretsmanager:openai", 2: "ssm:/acme"}


def test_a_reference_to_what_cannot_be_read_is_a_problem_in_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load(HEAD + M1 + "    token: ssm:/none\n", name="config.yaml", env={}, look_up=lambda _: {})
    assert caught.value.problems == ["config.yaml:5: models[0].token: ssm:/none cannot be read"]


def test_without_auth_there_is_one_key_from_the_environment() -> None:
    loaded = good(M1, AUTH_TOKEN="0123456789abcdef")
    (key,) = loaded.config.auth.keys
    assert (key.name, key.token, key.models) == ("default", "0123456789abcdef", None)
    assert loaded.key_sources[("auth", "keys", 0, "token")] == "$AUTH_TOKEN"


def test_with_auth_the_environments_key_means_nothing() -> None:
    assert [key.token for key in good(HEAD + M1, AUTH_TOKEN="fedcba9876543210").config.auth.keys] == [
        "0123456789abcdef"
    ]


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (None, "is not a file"),
        (b"no certificate", "holds no certificates in PEM form"),
    ],
)
def test_a_ca_bundle_that_cannot_be_used_is_told_at_start(tmp_path: Path, contents: bytes | None, problem: str) -> None:
    bundle = tmp_path / "ca.pem"
    if contents is not None:
        bundle.write_bytes(contents)
    assert problems(f"{HEAD}{M1}    ca_bundle: {bundle}\n") == [f"5: models[0].ca_bundle: {problem}"]


@pytest.mark.parametrize("token", ["id:secret", "aWQ6c2VjcmV0"])
def test_a_gigachat_token_is_id_and_secret_or_base64_of_them(token: str) -> None:
    assert len(good(HEAD + M1 + f"  - {{name: m2, provider: gigachat, token: '{token}'}}\n").config.models) == 2


@pytest.mark.parametrize("token", ["id:", "aWQ=", "not base64!"])
def test_another_gigachat_token_is_refused(token: str) -> None:
    text = HEAD + M1 + f"  - {{name: m2, provider: gigachat, token: '{token}'}}\n"
    assert problems(text) == ["5: models[1].token: must be client_id:client_secret, or base64 of it"]


def test_an_empty_token_is_none_and_a_time_out_of_zero_is_none() -> None:
    text = HEAD + "models:\n  - {name: m1, provider: demo, token: '', http_client_config: {timeout_seconds: 0}}\n"
    (model,) = good(text).config.models
    assert model.token is None
    assert model.http_client_config is not None
    assert model.http_client_config.timeout_seconds is None


OLD = """\
models:
  - name: deepseek/deepseek-chat:free
    provider: openrouter
    priority: 1
    requests_per_minute: 20
    requests_per_hour: 100
    requests_per_day: 200
    url: https://openrouter.ai/api/v1/chat/completions
    token: or-token
    max_request_length: 128000
    model_size: BIG
    http_client_config:
      timeout_seconds: 30
      idle_conn_timeout_seconds: 90
  - name: cloudflare/cf/black-forest-labs/flux-1-schnell
    provider: cloudflare
    priority: 1
    requests_per_minute: 0
    url: https://api.cloudflare.com/client/v4/accounts/0123/ai/run/@cf/black-forest-labs/flux-1-schnell
    token: cf-token
    max_request_length: 0
    model_size: SMALL
  - name: google/gemini-flash
    provider: google
    url: https://generativelanguage.googleapis.com/v1beta/models/gemini-flash:generateContent?key=google-key
    model_size: SMALL
  - name: GigaChat
    provider: gigachat
    url: https://gigachat.devices.sberbank.ru/api/v1
    token: "id:secret"
  - name: flux
    provider: airforce
    url: https://api.airforce/v1/imagine2
    max_request_length: 0
"""


def test_the_keys_of_old_configurations_load_unchanged() -> None:
    loaded = good(OLD, AUTH_TOKEN="0123456789abcdef")
    written = yaml.safe_load(OLD)["models"]
    read = [model.model_dump(exclude_unset=True) for model in loaded.config.models]
    assert read == written
    assert len(build_catalog(loaded).models) == len(written)


def example(**env: str) -> Loaded:
    return load(EXAMPLE, name="config.example.yaml", env=env)


WRITTEN = [(model["name"], model["provider"]) for model in yaml.safe_load(EXAMPLE)["models"]]


def test_the_example_works_as_it_is_with_no_key() -> None:
    """The demo answers; every real provider waits for its key, and the start says for which."""
    loaded = example()
    assert [model.name for model in loaded.config.models] == [name for name, of in WRITTEN if of == "demo"]
    assert len(loaded.warnings) == len([name for name, of in WRITTEN if of != "demo"])
    assert all(
        re.fullmatch(r"config\.example\.yaml:\d+: \S+ is left out: [A-Z_]+ is not set", w) for w in loaded.warnings
    )
    catalog = build_catalog(loaded)
    assert {model.category for model in catalog.models} >= {"SMALL", "BIG"}


def test_the_example_takes_a_real_provider_in_when_its_key_is_there() -> None:
    loaded = example(OPENAI_API_KEY="sk-test")
    assert [model.name for model in loaded.config.models] == [name for name, of in WRITTEN if of in ("demo", "openai")]
    assert "OPENAI_API_KEY" not in "".join(loaded.warnings)
    model = build_catalog(loaded).by_name["gpt-4o"]
    assert (model.endpoint.token, model.key_source) == ("sk-test", "$OPENAI_API_KEY")


def test_the_example_serves_every_model_when_all_its_keys_are_there() -> None:
    loaded = example(**dict.fromkeys(re.findall(r"\$\{([A-Z_]+)\}", EXAMPLE), "key:0123456789abcdef"))
    assert loaded.warnings == []
    assert [model.name for model in build_catalog(loaded).models] == [name for name, _ in WRITTEN]


CANARY = "canary"  # every secret below holds it, and nothing else does
ENV = {
    "TOKEN": "canary-0123456789-token",
    "HASH": "canary-hash",
    "PATTERN": "${canary",
    "DATE": "2026-13-canary",
    "TAGGED": "!!int canary",
}
LEAKY = [
    # a token of every wrong type and at every wrong place
    ("auth: {keys: [{name: a, token: canary-short}]}", M1),
    ("auth: {keys: [{name: a, token: [canary-0123456789]}]}", M1),
    ("auth: {keys: [{name: a, token: {canary-0123456789: 1}}]}", M1),
    ("auth: {keys: [{name: a, sha256: canary-no-hash}]}", M1),
    ("auth: {keys: [{name: a, sha256: '${HASH}', token: '${TOKEN}'}]}", M1),
    ("auth: {keys: [{name: a, token: '${NOT_SET}${TOKEN}'}]}", M1),
    ("auth: {keys: [canary-0123456789-token]}", M1),
    ("auth: {keys: canary-0123456789-token}", M1),
    ("auth: canary-0123456789-token", M1),
    ("auth: ['${TOKEN}']", M1),
    *(
        (HEAD, f"{M1}    {line}\n    priority: wrong")
        for line in (
            "token: [canary-token]",
            "token: !canary x",
            "token: !!int canary",
            "token: !!binary canary",
            "token: *canary",
            "token: @canary",
            "token: %canary",
            "token: `canary",
            "token: 'canary",
            'token: "canary\\q"',
            "token: canary: canary",
            "token: ${TOKEN}",
            "token: '${NOT_SET:-canary}${ALSO_NOT_SET}'",
            "priority: ${TOKEN}",
            "priority: ${PATTERN}",
            "priority: ${DATE}",
            "priority: ${TAGGED}",
            "timeouts: {idle: canary}",
            "timeouts: canary",
            "kind: ${TOKEN}",
            "capabilities: ['${TOKEN}']",
            "store_failure: canary",
            "optional: canary",
            "url: canary://x?key=canary",
            "url: 'https://x/y?key=canary'",
            "base_url: 'ftp://canary:canary@x'",
            "base_url: 'https://canary:canary@x'",
            "auth_url: '${TOKEN}'",
            "headers: {x-api-key: [canary]}",
            "headers: {x-api-key: canary}",
            "headers: canary",
            "fallbacks: ['${TOKEN}']",
            "http_client_config: {timeout_seconds: canary}",
            "demo: {status: canary}",
        )
    ),
    (HEAD, "providers: {openai: {token: canary-token, priority: canary}}\n" + M1),
    (HEAD, "providers: {openai: {token: [canary-token], url: canary, headers: {a: [canary]}}}\n" + M1),
    (HEAD, "providers: {openai: canary-token}\n" + M1),
    (HEAD, "providers: [canary-token]\n" + M1),
    (HEAD, "state: {store: canary, endpoint_url: 'canary'}\nserver: {http_client: canary}\n" + M1),
    (HEAD, "models: canary-token"),
    (HEAD, "models: [canary-token]"),
    (HEAD, "canary-token"),
]


@pytest.mark.parametrize(("head", "rest"), LEAKY, ids=[f"{head}|{rest}" for head, rest in LEAKY])
def test_no_secret_is_printed_with_a_problem(head: str, rest: str) -> None:
    """Nor is it in the exception that the problem is raised with, or in any that came before it."""
    with pytest.raises(ConfigError) as caught:
        good(f"{head}\n{rest}\n", **ENV)
    error = caught.value
    told = [*error.problems, str(error), repr(error), *traceback.format_exception_only(error)]
    assert (error.__cause__, error.__context__) == (None, None)
    assert [text for text in told if CANARY in text] == []


GOOD = """\
auth:
  keys:
    - {name: app, token: "${TOKEN}"}
    - {name: ci, token: canary-0123456789-written}
providers:
  openai: {token: canary-provider, headers: {x-org: canary-header}}
  acme: {url: "https://acme.example/chat?key=canary-url", auth_url: "https://acme.example/auth"}
models:
  - {name: m1, provider: openai}
  - {name: m2, provider: openai, token: "${TOKEN}", headers: {X-Key: canary-header}}
  - {name: m3, provider: acme, base_url: "https://canary:canary@acme.example"}
  - {name: m4, provider: acme, token: "${NOT_SET:-canary-default}"}
  - {name: m5, provider: acme}
  - {name: m6, provider: openai, token: "${NOT_SET}", optional: true, headers: {x: canary}}
  - {name: m7, provider: google, token: canary-google, url: "https://google.example/x?key=canary"}
"""


def test_no_secret_is_in_what_a_configuration_prints_as() -> None:
    loaded = good(GOOD, **ENV)
    catalog = build_catalog(loaded)
    parts: list[Any] = [loaded, loaded.config, loaded.warnings, loaded.key_sources, catalog, catalog.models]
    parts += [*loaded.config.auth.keys, *loaded.config.models, *loaded.config.providers.values()]
    assert len(loaded.warnings) == 1
    assert [part for part in parts if CANARY in f"{part!s} {part!r}"] == []
    assert CANARY in catalog.models[0].endpoint.token  # it was there all the time


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "m1", "demo", "${X}", "BIG", "404", "a: b"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["name", "provider", "token", "keys", "optional", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
_DATA = st.dictionaries(
    st.sampled_from(["auth", "models", "providers", "server", "state", "x"]), _VALUES | st.lists(_VALUES), max_size=4
)


@settings(deadline=None)
@given(_DATA)
def test_any_configuration_loads_or_is_refused_with_its_problems(data: Any) -> None:
    """Whatever a person writes by mistake: never a traceback."""
    with contextlib.suppress(ConfigError):
        assert good(yaml.safe_dump(data)).config.models


@settings(deadline=None)
@given(st.text(st.sampled_from("models:auth-&*!?|>'\"{}[],#%@`~<$\n\t 0"), max_size=40))
def test_any_text_is_refused_with_its_problems(text: str) -> None:
    assert problems(text)
