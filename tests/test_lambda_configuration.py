"""Where a function's configuration lies, how it changes without a deploy, and what its references stand for."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest
import yaml
from moto.server import ThreadedMotoServer

from core.auth import LOCAL_TOKEN
from core.config import ConfigError
from functions.configuration import SHIPPED, Configuration
from functions.remote import Remote
from tests.fake_upstream import FakeUpstream
from tests.lambda_function import config_file, function, until_ready
from tests.running_gateway import TOKEN, configuration, model
from tests.runtime_api import Answer, RuntimeApi
from tests.template import RESOURCES, VARIABLES, texts
from tests.test_lambda_stream import event

HERE = "http://127.0.0.1:9"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def aws(aws_credentials: None) -> Iterator[str]:
    """S3, SSM and Secrets Manager on loopback."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        boto3.client("s3").create_bucket(Bucket="conf", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        yield endpoint
    server.stop()


def text(*models: dict[str, Any], **blocks: Any) -> str:
    return yaml.safe_dump(configuration(*models, **blocks))


def put(key: str, body: str) -> None:
    boto3.client("s3").put_object(Bucket="conf", Key=key, Body=body.encode())


def names(loaded: Any) -> list[str]:
    return [entry.name for entry in loaded.config.models]


def test_without_a_place_the_one_that_ships_is_read() -> None:
    env = {"AUTH_TOKEN": TOKEN, "SLUICE_TABLE": "sluice"}
    loaded = Configuration(env).read()
    assert names(loaded) == ["demo/echo", "demo/cut"]
    assert loaded.config.state
    assert (loaded.config.state.store, loaded.config.state.table) == ("dynamodb", "sluice")
    assert Path(SHIPPED).name == "config.yaml"


def test_the_one_that_ships_names_variables_that_the_template_sets() -> None:
    named = set(re.findall(r"\$\{(\w+)", Path(SHIPPED).read_text()))
    assert named == {"AUTH_TOKEN", "SLUICE_STORE", "SLUICE_TABLE", "SLUICE_INSTANCES"}
    assert named <= VARIABLES.keys()


def test_a_file_that_is_not_there_says_so() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        Configuration({"SLUICE_CONFIG": "/nowhere.yaml"}).read()


@pytest.mark.parametrize("time", ["5m", "nan", "inf", "-1"])
def test_a_time_that_is_none_says_so(time: str) -> None:
    with pytest.raises(ConfigError, match=f"SLUICE_CONFIG_TTL: {time} is not a number of seconds"):
        Configuration({"SLUICE_CONFIG_TTL": time})


def test_it_is_read_again_after_its_time_and_only_then(tmp_path: Path) -> None:
    path, clock = config_file(tmp_path, model(HERE, "a")), Clock()
    found = Configuration({"SLUICE_CONFIG": path, "SLUICE_CONFIG_TTL": "60"}, clock=clock)
    assert names(found.read()) == ["a"]
    config_file(tmp_path, model(HERE, "b"))
    clock.now += 59
    assert not found.is_due()
    clock.now += 1
    assert found.is_due()
    assert not found.is_overdue()
    loaded = found.refreshed()
    assert loaded is not None
    assert names(loaded) == ["b"]
    clock.now += 120
    assert found.is_overdue()
    assert found.refreshed() is None, "nothing has changed"
    assert not found.is_due()


def test_a_wrong_new_one_is_refused_once_and_tried_again_later(tmp_path: Path) -> None:
    path, clock = config_file(tmp_path, model(HERE, "a")), Clock()
    found = Configuration({"SLUICE_CONFIG": path}, clock=clock)
    found.read()
    Path(path).write_text("models: 5\n")
    clock.now += 301
    with pytest.raises(ConfigError):
        found.refreshed()
    assert not found.is_due()
    clock.now += 301
    with pytest.raises(ConfigError):
        found.refreshed()
    config_file(tmp_path, model(HERE, "c"))
    clock.now += 301
    loaded = found.refreshed()
    assert loaded is not None
    assert names(loaded) == ["c"]


def test_an_object_in_s3_is_sent_only_when_it_has_changed(aws: str) -> None:
    put("sluice.yaml", text(model(HERE, "a")))
    found = Configuration({"SLUICE_CONFIG": "s3://conf/sluice.yaml"})
    assert names(found.read()) == ["a"]
    statuses = []
    assert found._remote
    found._remote._s3.meta.events.register(
        "after-call.s3.GetObject", lambda http_response, **_: statuses.append(http_response.status_code)
    )
    assert found.refreshed() is None
    put("sluice.yaml", text(model(HERE, "b")))
    loaded = found.refreshed()
    assert loaded is not None
    assert names(loaded) == ["b"]
    assert statuses == [304, 200]


def test_what_was_read_before_a_snapshot_is_read_again_with_new_connections(aws: str) -> None:
    put("sluice.yaml", text(model(HERE, "a")))
    found = Configuration({"SLUICE_CONFIG": "s3://conf/sluice.yaml"}, clock=Clock())
    found.read()
    connected = found._remote
    found.forget()
    assert found.is_overdue()
    assert found.refreshed() is None
    assert found._remote is not connected


def test_an_object_that_is_not_there_says_so(aws: str) -> None:
    with pytest.raises(ConfigError, match=r"s3://conf/other\.yaml cannot be read: NoSuchKey"):
        Configuration({"SLUICE_CONFIG": "s3://conf/other.yaml"}).read()


def test_it_may_lie_in_a_parameter(aws: str) -> None:
    boto3.client("ssm").put_parameter(Name="/sluice/config", Value=text(model(HERE, "p")), Type="String")
    assert names(Configuration({"SLUICE_CONFIG": "ssm:/sluice/config"}).read()) == ["p"]
    with pytest.raises(ConfigError, match="ssm:/sluice/none cannot be read"):
        Configuration({"SLUICE_CONFIG": "ssm:/sluice/none"}).read()


def test_references_are_what_they_stand_for_and_follow_a_key_that_changes(
    aws: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ssm, secrets, clock = boto3.client("ssm"), boto3.client("secretsmanager"), Clock()
    ssm.put_parameter(Name="/sluice/groq", Value="canary-groq-1", Type="SecureString")
    ssm.put_parameter(Name="/sluice/auth", Value="canary-auth-0123456789", Type="SecureString")
    secrets.create_secret(Name="sluice/openai", SecretString="canary-openai")
    models = [
        {**model(HERE, "a"), "token": "ssm:/sluice/groq"},
        {**model(HERE, "b"), "token": "${OPENAI_KEY}"},
    ]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"models": models, "state": {"store": "memory"}}))
    env = {
        "SLUICE_CONFIG": str(path),
        "AUTH_TOKEN": "ssm:/sluice/auth",
        "OPENAI_KEY": "secretsmanager:sluice/openai",
    }
    found = Configuration(env, clock=clock)
    loaded = found.read()
    assert [entry.token for entry in loaded.config.models] == ["canary-groq-1", "canary-openai"]
    assert [key.token for key in loaded.config.auth.keys] == ["canary-auth-0123456789"]
    assert loaded.key_sources[("models", 0, "token")] == "ssm:/sluice/groq"
    ssm.put_parameter(Name="/sluice/groq", Value="canary-groq-2", Type="SecureString", Overwrite=True)
    clock.now += 301
    changed = found.refreshed()
    assert changed is not None
    assert changed.config.models[0].token == "canary-groq-2"
    assert "canary" not in caplog.text
    assert "canary" not in repr(loaded)


def test_a_reference_to_nothing_is_a_problem_with_its_line(aws: str, tmp_path: Path) -> None:
    path = config_file(tmp_path, {**model(HERE, "a"), "token": "ssm:/sluice/missing"})
    with pytest.raises(ConfigError, match=r"models\[0\]\.token: ssm:/sluice/missing cannot be read"):
        Configuration({"SLUICE_CONFIG": path}).read()


def test_a_token_in_the_environment_may_be_a_reference_that_is_not_there(aws: str, tmp_path: Path) -> None:
    path = config_file(tmp_path, model(HERE, "a"))
    with pytest.raises(ConfigError, match="AUTH_TOKEN: ssm:/sluice/none cannot be read"):
        Configuration({"SLUICE_CONFIG": path, "AUTH_TOKEN": "ssm:/sluice/none"}).read()


def test_parameters_are_read_ten_at_a_time_and_all_of_them(aws: str) -> None:
    wanted = {f"ssm:/many/{number}": f"value {number}" for number in range(23)}
    for reference, value in wanted.items():
        boto3.client("ssm").put_parameter(Name=reference.removeprefix("ssm:"), Value=value, Type="SecureString")
    remote, calls = Remote(), []
    remote._ssm.client.meta.events.register("before-call", lambda model, **_: calls.append(model.name))
    assert remote.look_up(frozenset({*wanted, "ssm:/many/none"})) == wanted
    assert calls == ["GetParameters"] * 3
    assert "ssm:GetParameters" in texts(RESOURCES["Role"])


EXAMPLE = {"auth": {"keys": [{"name": "me", "token": LOCAL_TOKEN}]}}


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"state": None}, "config.yaml:1: state: must be set"),
        (EXAMPLE, "config.yaml:1: auth.keys: me has the example's token"),
    ],
)
def test_what_is_right_at_home_is_refused_in_a_function(tmp_path: Path, wrong: dict[str, Any], problem: str) -> None:
    blocks = {name: value for name, value in {**configuration(model(HERE)), **wrong}.items() if value is not None}
    write(str(tmp_path / "config.yaml"), yaml.safe_dump(blocks))
    env = {"SLUICE_CONFIG": str(tmp_path / "config.yaml")}
    with pytest.raises(ConfigError) as caught:
        Configuration(env).read()
    assert caught.value.problems[0].startswith(problem)
    assert Configuration({**env, "AWS_SAM_LOCAL": "true"}).read()


# --- beside a request


async def test_a_running_function_takes_a_new_configuration_and_refuses_a_wrong_one(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    config = config_file(tmp_path, model(upstream.url, "a"))
    async with RuntimeApi() as api, function(api, config, SLUICE_CONFIG_TTL="0.001") as process:
        await until_ready(api)
        assert await listed(api) == ["a"]
        config_file(tmp_path, model(upstream.url, "b"))
        await listed(api)
        assert await listed(api) == ["b"]
        write(config, "models: 5\n")
        await listed(api)
        assert await listed(api) == ["b"]
        printed = await process.stop()
    rows = [orjson.loads(line) for line in printed.splitlines()]
    assert [row for row in rows if "ConfigurationRefused" in row]
    refused = [row for row in rows if row.get("message", "").startswith("The old configuration stays")]
    assert {(row["level"], row["logger"]) for row in refused} == {("ERROR", "sluice")}


def write(path: str, words: str) -> None:
    Path(path).write_text(words)


async def listed(api: RuntimeApi) -> list[str]:
    answer: Answer = api.invoke(event("models"))
    await answer.until(lambda a: a.is_over.is_set())
    return [row["id"] for row in orjson.loads(answer.body)["data"]]
