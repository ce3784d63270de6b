"""What SAM makes of the template: it is valid, it builds for Lambda's machine, and its routes are found."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from scripts.artifact import MOST_ZIPPED, Artifact, look_at, report
from tests.function_url import EVENTS
from tests.lambda_function import STOCK, function
from tests.runtime_api import RuntimeApi
from tests.sam import ask_sam, environment, needs_sam, sam
from tests.template import FUNCTION, ROOT, VARIABLES

pytestmark = needs_sam

PYTHON_313 = b"\xf3\r\r\n"  # what its bytecode begins with
UNCHECKED_HASH = b"\x01\x00\x00\x00"  # PEP 552: never compared with the source
ARM64 = (b"\x7fELF", 183)  # what a shared object begins with, and e_machine

TRANSLATE = """
import json, sys
from samcli.yamlhelper import yaml_parse
from samtranslator.translator.transform import transform
template = yaml_parse(open("template.yaml").read())
template["Resources"]["Gateway"]["Properties"]["CodeUri"] = "s3://bucket/key"
class NoPolicies:
    def load(self): return {}
print(json.dumps(transform(template, json.loads(sys.argv[1]), NoPolicies())))
"""

ROUTES = """
import json
from samcli.lib.providers.api_provider import ApiProvider
from samcli.lib.providers.sam_stack_provider import SamLocalStackProvider
stacks, _ = SamLocalStackProvider.get_stacks("template.yaml")
routes = ApiProvider(stacks, cwd=".").routes
print(json.dumps([[route.function_name, route.path, sorted(route.methods)] for route in routes]))
"""

ENVIRONMENT = """
import json
from samcli.commands.local.lib.local_lambda import LocalLambdaRunner
from samcli.lib.providers.sam_function_provider import SamFunctionProvider
from samcli.lib.providers.sam_stack_provider import SamLocalStackProvider
class Runtime:
    def is_debugging(self): return False
stacks, _ = SamLocalStackProvider.get_stacks("template.yaml")
functions = SamFunctionProvider(stacks)
runner = LocalLambdaRunner(Runtime(), functions, ".", ".", env_vars_values=json.load(open("local.env.json")))
runner.get_aws_creds = lambda *_: {}
print(json.dumps(runner._make_env_vars(functions.get("Gateway")).resolve()))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def built(home: Path) -> Path:
    """The folder that goes to Lambda."""
    sam(home, "build", "--build-dir", str(home / "build"))
    return home / "build" / "Gateway"


@pytest.fixture(scope="module")
def artifact(built: Path) -> Artifact:
    return look_at(built)


def translated(home: Path, **parameters: str) -> Mapping[str, Any]:
    resources: Mapping[str, Any] = ask_sam(home, TRANSLATE, json.dumps(parameters))["Resources"]
    return resources


def version_of(resources: Mapping[str, Any]) -> str:
    (name,) = [name for name, one in resources.items() if one["Type"] == "AWS::Lambda::Version"]
    return name


def test_the_template_is_valid_and_without_lint(home: Path) -> None:
    sam(home, "validate", "--lint")


def test_the_url_is_on_the_alias_and_open_to_callers_by_both_permissions(home: Path) -> None:
    resources = translated(home)
    url, alias = resources["GatewayUrl"]["Properties"], {"Ref": "GatewayAliaslive"}
    assert (url["TargetFunctionArn"], url["InvokeMode"]) == (alias, "RESPONSE_STREAM")
    permissions = [one["Properties"] for one in resources.values() if one["Type"] == "AWS::Lambda::Permission"]
    mine = [one for one in permissions if one["Principal"] == "*"]
    assert {one["Action"] for one in mine} == {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
    assert all(one["FunctionName"] == alias for one in permissions)
    assert resources["GatewayAliaslive"]["Properties"]["FunctionVersion"] == {
        "Fn::GetAtt": [version_of(resources), "Version"]
    }


def test_a_parameter_reaches_the_alias_by_a_version_of_its_own(home: Path) -> None:
    before, again = version_of(translated(home)), version_of(translated(home, Alarms="on"))
    after = version_of(translated(home, ConfigTtlSeconds="60"))
    assert before == again
    assert before != after


def test_the_rest_api_streams_answers_and_hands_on_the_bytes_of_a_form(home: Path) -> None:
    """What it does not know for bytes it takes for text, and a picture in a form would not survive that."""
    (api,) = [one for one in translated(home, RestApi="on").values() if one["Type"] == "AWS::ApiGateway::RestApi"]
    body = api["Properties"]["Body"]
    methods = [path["x-amazon-apigateway-any-method"] for path in body["paths"].values()]
    assert [one["x-amazon-apigateway-integration"]["responseTransferMode"] for one in methods] == ["STREAM"] * 2
    assert body["x-amazon-apigateway-binary-media-types"] == ["multipart/form-data"]


def test_the_build_holds_all_that_the_function_imports(built: Path) -> None:
    """As it is loaded here, by this machine's Python; shared objects go by another name there."""
    code = (
        "import sys, core.http_client.aiohttp, core.http_client.httpx, functions.remote, functions.lambda_stream.loop;"
        "from functions.handler import handler; [hook() for hook in handler.before_snapshot];"
        "print(*(module.__file__ for module in sys.modules.values() if getattr(module, '__file__', None)), sep='\\n')"
    )
    env = {"AUTH_TOKEN": "0123456789abcdef", "SLUICE_TABLE": "sluice", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT / "src", env=env, capture_output=True, text=True, check=True)
    homes = [ROOT / "src", *(path for path in map(Path, sys.path) if path.name == "site-packages")]
    theirs = {
        path.relative_to(home) for path in map(Path, done.stdout.split()) for home in homes if path.is_relative_to(home)
    }
    packages = {path.name.partition(".")[0] for path in built.iterdir()}  # httpx takes what else it finds here, as rich
    names = {path.with_name(path.name.partition(".")[0]) for path in theirs if path.parts[0] in packages}
    missing = {name for name in names if not list(built.joinpath(name.parent).glob(f"{name.name}.*"))}
    assert {name for name in missing if name.parts[:2] != ("pydantic", "v1")} == set()
    assert len(names) > 500


@pytest.mark.parametrize("service", ["dynamodb", "s3", "secretsmanager", "ssm", "sts"])
def test_the_build_knows_each_service_that_is_asked(built: Path, service: str) -> None:
    """With nothing of this machine's but the interpreter: `-S` leaves its packages out."""
    code = f"import boto3; boto3.client('{service}', region_name='eu-west-1')"
    env = {"PYTHONPATH": str(built), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-S", "-c", code], env=env, check=True, timeout=60)


def test_no_other_service_is_asked() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    asked = set(re.findall(r"\.client\(\s*\"(\w+)\"", sources))
    kept = set(re.findall(r"^SERVICES := (.*)", (ROOT / "src" / "Makefile").read_text(), re.MULTILINE)[0].split())
    assert asked <= kept


def test_the_build_is_for_arm64_and_python_3_13(built: Path) -> None:
    objects = list(built.rglob("*.so"))
    assert objects
    for path in objects:
        head = path.read_bytes()[:20]
        assert (head[:4], int.from_bytes(head[18:20], "little")) == ARM64, path
        assert "cpython-313-" in path.name or ".abi3." in path.name, path
    assert (FUNCTION["Runtime"], FUNCTION["Architectures"]) == ("python3.13", ["arm64"])


def test_the_build_has_bytecode_that_is_used_as_it_is(built: Path, artifact: Artifact) -> None:
    """A zip changes the times of files, and bytecode that is compared by them is thrown away."""
    if not any(built.rglob("*.pyc")):
        pytest.skip("there is no Python 3.13 on this machine to compile with")
    assert artifact.has_bytecode
    for path in built.rglob("*.pyc"):
        assert path.read_bytes()[:8] == PYTHON_313 + UNCHECKED_HASH, path
    assert b"/var/task/core/app.py" in (built / "core" / "__pycache__" / "app.cpython-313.pyc").read_bytes()


def test_without_a_python_3_13_the_build_says_what_that_costs_and_works(tmp_path: Path) -> None:
    env = environment(tmp_path) | {"PATH": "/usr/bin:/bin", "PYENV_ROOT": str(tmp_path)}
    if shutil.which("python3.13", path=env["PATH"]):
        pytest.skip("this system's own Python is 3.13")
    command = ["make", "-C", str(ROOT / "src"), "build-Gateway", f"ARTIFACTS_DIR={tmp_path}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    assert "No Python 3.13" in done.stderr
    assert "WITHOUT bytecode" in report(look_at(tmp_path))


def test_the_build_is_small_and_its_report_names_each_module(artifact: Artifact) -> None:
    assert artifact.total < MOST_ZIPPED
    said = report(artifact)
    assert "MB zipped" in said.splitlines()[-1]
    assert {"core", "functions", "botocore", "aiohttp"} <= {line.split(" ", 1)[0] for line in said.splitlines()}


def test_the_build_is_ours_and_what_the_list_pins(built: Path) -> None:
    pinned = re.findall(r"^([\w.-]+)==([^ ]+) \\$", (ROOT / "src" / "requirements.txt").read_text(), re.MULTILINE)
    there = {path.name.removesuffix(".dist-info") for path in built.glob("*.dist-info")}
    assert {f"{name.replace('-', '_')}-{version}" for name, version in pinned} == {name.lower() for name in there}
    assert (built / "functions" / "stream").stat().st_mode & 0o111
    assert not (built / "sluice").exists(), "the other door"


def test_the_pinned_list_depends_on_no_machine() -> None:
    """pip takes markers from the Python that it runs on, not from the one that it installs for."""
    assert ";" not in (ROOT / "src" / "requirements.txt").read_text()


def test_sam_local_finds_every_route(home: Path) -> None:
    methods = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
    assert sorted(ask_sam(home, ROUTES)) == [["Gateway", "/", methods], ["Gateway", "/{proxy+}", methods]]


async def test_sam_local_answers_as_a_whole_from_the_package_alone(home: Path) -> None:
    """Lambda's own runtime with the environment that SAM would give a container: no wrapper, no table, no network."""
    env = {name: value for name, value in ask_sam(home, ENVIRONMENT).items() if name in VARIABLES}
    assert env["AWS_LAMBDA_EXEC_WRAPPER"] == ""
    async with RuntimeApi() as api, function(api, env.pop("SLUICE_CONFIG"), command=STOCK, **env):
        for name, end in (("api-gateway-rest", "}"), ("stream", "data: [DONE]\n\n")):
            answer = api.invoke((EVENTS / f"{name}.json").read_bytes())
            await answer.until(lambda a: a.is_over.is_set(), 30)
            assert answer.mode == "", "a stream would be announced"
            assert orjson.loads(answer.body)["statusCode"] == 200
            assert orjson.loads(answer.body)["body"].endswith(end)


def test_the_variables_for_sam_local_are_the_template_s() -> None:
    """SAM passes over others without a word."""
    assert json.loads((ROOT / "local.env.json").read_text())["Gateway"].keys() <= VARIABLES.keys()
