"""Lines of the log: what stands in them, in which form, and what never does."""

import io
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from core.log_line import fields_of
from core.telemetry import Record, Telemetry
from sluice.log import JsonLog, TerminalLog, make_log

PROMPT = "prompt-canary-zebra"


def record(**fields: Any) -> Record:
    """A request that is over."""
    start = {"request_id": "req_1", "method": "POST", "path": "/chat", "started": time.perf_counter()}
    return Record(**{**start, "status": 200, "total_s": 1.23456, **fields})


ANSWERED = {
    "caller": "app",
    "model": "groq/llama",
    "provider": "groq",
    "first_token_s": 0.43219,
    "prompt_tokens": 12,
    "completion_tokens": 34,
    "attempts": 1,
}


def on_terminal(finished: Record) -> str:
    out = io.StringIO()
    TerminalLog(out).request_done(finished)
    return out.getvalue()


def as_json(finished: Record) -> dict[str, Any]:
    out = io.StringIO()
    JsonLog(out).request_done(finished)
    assert out.getvalue().count("\n") == 1
    fields: dict[str, Any] = orjson.loads(out.getvalue())
    return fields


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            ANSWERED,
            "200  POST /chat  1.23s  first 0.43s  groq/llama via groq  12+34 tokens  1 attempt  key app  req_1",
        ),
        (
            {**ANSWERED, "first_token_s": None, "attempts": 3, "error": "client_left"},
            "200  POST /chat  1.23s  groq/llama via groq  12+34 tokens  3 attempts  key app  error client_left  req_1",
        ),
        (
            {"status": 401, "error": "invalid_api_key"},
            "401  POST /chat  1.23s  error invalid_api_key  req_1",
        ),
        ({"status": None, "total_s": None}, "---  POST /chat  0.00s  req_1"),
        (
            {**ANSWERED, "prompt_tokens": None},
            "200  POST /chat  1.23s  first 0.43s  groq/llama via groq  0+34 tokens  1 attempt  key app  req_1",
        ),
    ],
    ids=["a stream", "one that was left", "refused at the door", "never answered", "half a usage"],
)
def test_the_line_on_a_terminal_has_what_applies_and_no_more(fields: dict[str, Any], expected: str) -> None:
    line = on_terminal(record(**fields))
    assert re.fullmatch(r"\d\d:\d\d:\d\d  ", line[:10])
    assert line[10:] == expected + "\n"


@pytest.mark.parametrize("path", ["/v1/\nforged line", "/v1/\r\x1b[2Jgone", "/v1/\u202egnp.exe", "/v1/\x9b31m"])
def test_a_path_cannot_forge_a_line_or_command_the_terminal(path: str) -> None:
    line = on_terminal(record(path=path))
    assert line.endswith("\n")
    assert line[:-1].isprintable()


def test_a_path_in_any_script_stays_readable() -> None:
    assert "POST /v1/модели  " in on_terminal(record(path="/v1/модели"))


def test_the_json_line_has_all_that_is_known() -> None:
    fields = as_json(record(**ANSWERED))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("timestamp"))
    assert fields == {
        "level": "info",
        "message": "request",
        "request_id": "req_1",
        "method": "POST",
        "path": "/chat",
        "status": 200,
        **ANSWERED,
        "first_token_s": 0.4322,
        "waited_s": 0.0,
        "total_s": 1.2346,
    }


def test_the_json_line_leaves_out_what_is_not_known() -> None:
    fields = as_json(record(status=401, error="invalid_api_key"))
    assert set(fields) == {
        *("timestamp", "level", "message"),
        *("request_id", "method", "path", "status", "total_s", "attempts", "error"),
    }


def test_the_json_line_stays_one_line_whatever_the_path() -> None:
    assert as_json(record(path="/a\nb\x1b"))["path"] == "/a\nb\x1b"


@pytest.mark.parametrize("path", ["/ping", "/ready"])
@pytest.mark.parametrize("log", [TerminalLog, JsonLog])
def test_health_checks_leave_no_line(log: type[TerminalLog | JsonLog], path: str) -> None:
    out = io.StringIO()
    log(out).request_done(record(path=path))
    assert out.getvalue() == ""


def failure() -> Exception:
    try:
        raise ValueError(PROMPT)
    except ValueError as error:
        return error


@pytest.mark.parametrize("log", [TerminalLog, JsonLog])
def test_a_bug_is_told_by_type_and_place_never_by_its_text(
    log: type[TerminalLog | JsonLog], caplog: pytest.LogCaptureFixture
) -> None:
    log(io.StringIO()).unexpected(record(), failure())
    (entry,) = caplog.records
    assert entry.levelname == "ERROR"
    assert re.fullmatch(r"req_1 failed: ValueError in failure \(test_log\.py:\d+\)", entry.getMessage())
    assert entry.exc_info is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def root_logging() -> Iterator[None]:
    """Puts the logging of the process back as it was."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers = []
    yield
    root.handlers = before
    root.setLevel(level)


@pytest.mark.parametrize(("out", "expected"), [(Terminal(), TerminalLog), (io.StringIO(), JsonLog)])
def test_people_get_lines_to_read_and_machines_get_json(
    out: io.StringIO, expected: type[Telemetry], root_logging: None
) -> None:
    assert type(make_log(out)) is expected


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (Terminal(), r"sluice: a warning of 1\n"),
        (
            io.StringIO(),
            r'\{"timestamp":"[^"]+","level":"warning","message":"a warning of 1","logger":"some\.library"\}\n',
        ),
    ],
    ids=["terminal", "elsewhere"],
)
def test_warnings_of_libraries_go_to_stderr_in_the_same_form(
    stderr: io.StringIO, expected: str, root_logging: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", stderr)
    make_log(io.StringIO())
    logging.getLogger("some.library").info("not worth a line")
    logging.getLogger("some.library").warning("a warning of %d", 1)
    assert re.fullmatch(expected, stderr.getvalue())


@pytest.mark.parametrize("stderr", [Terminal(), io.StringIO()], ids=["terminal", "elsewhere"])
def test_of_an_exception_that_a_library_logs_only_type_and_place_are_told(
    stderr: io.StringIO, root_logging: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text, and what stands below the first line, may quote a prompt or a key."""
    monkeypatch.setattr("sys.stderr", stderr)
    make_log(io.StringIO())
    logging.getLogger("asyncio").error("Task failed\ntask: %r", failure(), exc_info=failure())
    assert re.search(r"Task failed: ValueError in failure \(test_log\.py:\d+\)", stderr.getvalue())
    assert PROMPT not in stderr.getvalue()
    assert stderr.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [(Terminal(), "sluice: refused:\nline 2: \\x1b[2J\n"), (io.StringIO(), r"refused:\nline 2: \u001b[2J")],
    ids=["terminal", "elsewhere"],
)
def test_what_the_gateway_itself_has_to_say_is_told_whole(
    stderr: io.StringIO, expected: str, root_logging: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration that is refused while running is named with every problem."""
    monkeypatch.setattr("sys.stderr", stderr)
    make_log(io.StringIO())
    logging.getLogger("sluice").error("refused:\nline 2: \x1b[2J")
    assert expected in stderr.getvalue()


def test_numbers_are_rounded_to_a_tenth_of_a_millisecond() -> None:
    assert fields_of(record(total_s=0.123456789))["total_s"] == 0.1235
