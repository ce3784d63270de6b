"""SnapStart: what is in a snapshot, and what must not be the same in two environments that are made of it."""

from pathlib import Path

from tests.lambda_function import config_file, snapshot
from tests.running_gateway import model


def test_a_snapshot_holds_all_modules_and_no_socket_and_what_is_made_of_it_differs(tmp_path: Path) -> None:
    state = {"store": "dynamodb", "table": "sluice", "region": "eu-west-1"}
    found = snapshot(config_file(tmp_path, model("http://127.0.0.1:9"), state=state))
    assert found["at_start"] == [], "nothing that the first request may not need"
    assert found["loaded"] == ["boto3", "aws_lambda_powertools", "fastapi"]
    assert found["sockets"] == []
    one, other = found["made_of_it"]
    assert not set(one) & set(other)
