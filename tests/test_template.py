"""template.yaml against the code: what it names is there, what it grants is used, and idle costs nothing."""

import importlib.util
import json
import os
import re
import tomllib
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from core.config import ConfigError
from core.store import dynamodb
from core.store.expressions import PRIMARY_KEY
from functions.remote import Remote
from functions.telemetry import NAMESPACE
from tests.served import free_port
from tests.template import FUNCTION, PARAMETERS, RESOURCES, ROOT, TEMPLATE, VARIABLES, texts

DOOR = ROOT / "src" / "functions"
CODE = "\n".join(path.read_text() for path in [*DOOR.rglob("*.py"), *DOOR.glob("*.yaml")])
SWITCHES = [name for name, about in PARAMETERS.items() if about.get("AllowedValues") == ["on", "off"]]
PAID = {"AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard", "AWS::Serverless::Api"}
BOARD: str = RESOURCES["Board"]["Properties"]["DashboardBody"]["Fn::Sub"]
ALARMS = {name: one["Properties"] for name, one in RESOURCES.items() if one["Type"] == "AWS::CloudWatch::Alarm"}
STATEMENTS = RESOURCES["Role"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]


def granted() -> list[dict[str, Any]]:
    """Each statement of the policy, whether a parameter brings it or not."""
    return [one["Fn::If"][1] if "Fn::If" in one else one for one in STATEMENTS]


def actions(service: str) -> set[str]:
    found = [one["Action"] for one in granted()]
    every = [action for one in found for action in ([one] if isinstance(one, str) else one)]
    return {action for action in every if action.startswith(f"{service}:")}


def test_the_handler_is_there() -> None:
    module, _, name = FUNCTION["Handler"].rpartition(".")
    assert importlib.util.find_spec(module)
    assert re.search(rf"^{name} = ", (DOOR / "handler.py").read_text(), re.MULTILINE)


def test_the_variables_are_those_that_the_function_reads() -> None:
    assert {name for name in VARIABLES if name.startswith("SLUICE_")} == set(re.findall(r"SLUICE_[A-Z_]+", CODE))
    assert [name for name in VARIABLES if name not in CODE] == ["AWS_LAMBDA_EXEC_WRAPPER"], "which is Lambda's"


def test_the_wrapper_is_in_the_package_and_can_be_run() -> None:
    path = VARIABLES["AWS_LAMBDA_EXEC_WRAPPER"]
    assert path.startswith("/var/task/")
    wrapper = ROOT / FUNCTION["CodeUri"] / path.removeprefix("/var/task/")
    assert os.access(wrapper, os.X_OK)
    assert wrapper.read_bytes().startswith(b"#!/bin/sh\n")
    assert b"\r" not in wrapper.read_bytes()
    assert wrapper.name != "bootstrap", "Lambda would take it for a runtime of its own"


def test_the_function_is_what_a_stream_needs() -> None:
    assert (FUNCTION["Runtime"], FUNCTION["Architectures"]) == ("python3.13", ["arm64"])
    assert FUNCTION["FunctionUrlConfig"] == {"AuthType": "NONE", "InvokeMode": "RESPONSE_STREAM"}
    assert FUNCTION["AutoPublishAlias"]
    assert FUNCTION["LoggingConfig"]["LogFormat"] == "JSON"
    assert "VpcConfig" not in FUNCTION, "function URLs do not stream inside a VPC"
    assert (PARAMETERS["MemoryMb"]["Default"], PARAMETERS["TimeoutSeconds"]["Default"]) == ("512", "900")


def test_idle_costs_nothing_unless_it_is_asked_for() -> None:
    assert {PARAMETERS[name]["Default"] for name in SWITCHES} == {"off"}
    assert {"SnapStart", "Alarms", "Dashboard", "RestApi"} == set(SWITCHES)
    for name, resource in RESOURCES.items():
        assert (resource["Type"] in PAID) <= ("Condition" in resource), name
    assert FUNCTION["SnapStart"]["Fn::If"][::2] == ["HasSnapStart", {"Ref": "AWS::NoValue"}]


def test_a_new_account_can_deploy_it() -> None:
    """Its quota is ten environments, and none of them can be reserved."""
    assert PARAMETERS["ReservedConcurrency"]["Default"] == ""
    assert FUNCTION["ReservedConcurrentExecutions"]["Fn::If"][2] == {"Ref": "AWS::NoValue"}


def test_the_policy_grants_nothing_with_a_star() -> None:
    assert [text for text in texts(STATEMENTS) if "*" in text] == []
    assert "Policies" not in FUNCTION
    assert "ManagedPolicyArns" not in RESOURCES["Role"]["Properties"]


def test_the_policy_grants_the_table_to_what_the_store_asks_of_it() -> None:
    asked = set(re.findall(r"client\.(\w+_item)\b|\"(\w+_item)\"", Path(dynamodb.__file__).read_text()))
    names = {"".join(part.title() for part in (one or other).split("_")) for one, other in asked}
    assert actions("dynamodb") == {f"dynamodb:{name}" for name in names}
    (statement,) = [one for one in granted() if "dynamodb:UpdateItem" in one["Action"]]
    assert statement["Resource"] == {"Fn::GetAtt": "Table.Arn"}


def test_the_policy_grants_each_call_that_reads_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers at that address; what was called is known by then."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "test")
    called: set[str] = set()
    remote = Remote()
    for client in (remote._ssm.client, remote._secrets.client, remote._s3):
        client.meta.events.register("before-call", partial(_note, called))
    with pytest.raises(ConfigError):
        remote.read("s3://bucket/key")
    remote.look_up(frozenset({"ssm:/one", "ssm:/another", "secretsmanager:name"}))
    assert called == actions("ssm") | actions("secretsmanager") | actions("s3")
    assert actions("kms") == {"kms:Decrypt"}, "by them, for a key of one's own"


def _note(called: set[str], *, model: Any, **_: Any) -> None:
    called.add(f"{model.service_model.service_name}:{model.name}")


def test_the_policy_is_the_one_in_the_page_about_state() -> None:
    (found,) = re.findall(r'"Action": (\[.*?\])', (ROOT / "docs" / "state.md").read_text())
    assert actions("dynamodb") == set(json.loads(found))


def test_the_table_is_as_the_store_wants_it() -> None:
    table = RESOURCES["Table"]["Properties"]
    assert table["KeySchema"] == [{"AttributeName": PRIMARY_KEY, "KeyType": "HASH"}]
    assert table["AttributeDefinitions"] == [{"AttributeName": PRIMARY_KEY, "AttributeType": "S"}]
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["TimeToLiveSpecification"] == {"AttributeName": "x", "Enabled": True}
    assert set(table["OnDemandThroughput"]) == {"MaxReadRequestUnits", "MaxWriteRequestUnits"}
    assert PARAMETERS["DeletionProtection"]["Default"] == "true"
    assert table.keys().isdisjoint({"StreamSpecification", "GlobalSecondaryIndexes"})


def test_every_parameter_is_used_and_every_reference_leads_somewhere() -> None:
    everything = {key: TEMPLATE[key] for key in ("Conditions", "Resources", "Outputs")}
    used = {*texts(everything), *(name for text in texts(everything) for name in re.findall(r"\$\{(\w+)", text))}
    assert PARAMETERS.keys() <= used
    assert TEMPLATE["Conditions"].keys() <= used


def test_a_version_is_published_when_a_parameter_of_the_function_changes() -> None:
    """By its description, at most 256 characters. The topic is the alarms', the policy is not part of a version."""
    named = set(re.findall(r"\$\{(\w+)\}", FUNCTION["Description"]["Fn::Sub"]))
    properties = {name: value for name, value in FUNCTION.items() if name not in ("Description", "Role")}
    refer = {text for text in texts(properties) if text in PARAMETERS}
    refer |= {name for text in texts(properties) for name in re.findall(r"\$\{(\w+)\}", text) if name in PARAMETERS}
    assert refer - {"Empty"} | {"ReservedConcurrency"} == named
    longest = re.sub(r"\$\{(\w+)\}", lambda found: "x" * most_characters(found[1]), FUNCTION["Description"]["Fn::Sub"])
    assert len(longest) + len(" ") <= 256


def most_characters(name: str) -> int:
    about = PARAMETERS[name]
    if name == "ConfigBucket":
        return 63  # the rule for names of buckets
    if about["Type"] == "Number" or name == "ReservedConcurrency":
        return 5
    most: int = about.get("MaxLength") or max(map(len, about["AllowedValues"]))
    return most


@pytest.mark.parametrize("environment", ["default", "prod"])
def test_samconfig_sets_only_what_there_is(environment: str) -> None:
    config = tomllib.loads((ROOT / "samconfig.toml").read_text())
    overrides = dict(one.split("=", 1) for one in config[environment]["deploy"]["parameters"]["parameter_overrides"])
    assert overrides.keys() <= PARAMETERS.keys()
    for name, value in overrides.items():
        allowed = PARAMETERS[name].get("AllowedValues")
        assert allowed is None or value in map(str, allowed), name


def test_dev_and_prod_share_no_token() -> None:
    config = tomllib.loads((ROOT / "samconfig.toml").read_text())
    tokens = [
        [
            one
            for one in config[name]["deploy"]["parameters"]["parameter_overrides"]
            if one.startswith("TokenParameter=")
        ]
        for name in ("default", "prod")
    ]
    assert tokens[0] != tokens[1]


def shown() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Namespace, metric and dimensions of all that the dashboard shows. A dot is what stood there in the row before."""
    for widget in json.loads(re.sub(r"\$\{.*?\}", "x", BOARD))["widgets"]:
        before: list[str] = []
        for row in widget["properties"]["metrics"]:
            words = [word for word in row if isinstance(word, str)]
            if not words:
                (found,) = re.findall(r"SEARCH\('\{(\w+),([\w,]+)\} MetricName=\"(\w+)\"", row[0]["expression"])
                yield found[0], found[2], tuple(found[1].split(","))
                continue
            before = before if words == ["..."] else [b if w == "." else w for w, b in zip_longest(words, before)]
            yield before[0], before[1], tuple(before[2::2])


def test_alarms_and_dashboard_look_at_metrics_as_they_are_sent() -> None:
    sent = set(re.findall(r'"(\w+)", "(?:Count|Milliseconds)"', CODE))
    with_dimension = {name: ("service", by) for name, by in re.findall(r'"(\w+)", "Count", .*\], (\w+)=', CODE)}
    expected = {(NAMESPACE, name, with_dimension.get(name, ("service",))) for name in sent}
    assert {one for one in shown() if one[0] == NAMESPACE} == expected
    assert len(with_dimension) == 3
    for alarm in ALARMS.values():
        names = tuple(dimension["Name"] for dimension in alarm["Dimensions"])
        assert alarm["Namespace"] != NAMESPACE or (NAMESPACE, alarm["MetricName"], names) in expected


def test_there_is_an_alarm_for_each_thing_that_an_operator_should_hear_of() -> None:
    assert {(one["Namespace"], one["MetricName"]) for one in ALARMS.values()} == {
        ("AWS/Lambda", "Errors"),
        ("AWS/Lambda", "Throttles"),
        ("AWS/Lambda", "Duration"),
        ("AWS/DynamoDB", "WriteThrottleEvents"),
        ("Sluice", "ConfigurationRefused"),
    }
    assert ALARMS["LongInvocations"]["ExtendedStatistic"] == "p99"
