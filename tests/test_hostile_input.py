"""Requests that nobody meant: made up from our own OpenAPI document, and from no document at all.

No 5xx, no hang, every refusal in OpenAI's form, and a gateway that answers as before when it is over.
"""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.running_gateway import TOKEN, running

MODELS = [
    {"name": "demo/a", "provider": "demo", "model_size": "SMALL", "demo": {"first_token_ms": 0, "token_ms": 0}},
    {"name": "demo/b", "provider": "demo", "model_size": "BIG", "demo": {"first_token_ms": 0, "token_ms": 0}},
    {"name": "demo/c", "provider": "demo", "model_size": "BIG", "kind": "image", "demo": {"first_token_ms": 0}},
]
HEADERS = {"authorization": f"Bearer {TOKEN}"}
LONGEST_S = 5


@dataclass(frozen=True)
class Gateway:
    url: str
    client: httpx.Client
    document: dict[str, Any]

    def post(self, path: str, raw: bytes) -> httpx.Response:
        return self.client.post(path, content=raw)

    def send(self, raw: bytes) -> bytes:
        """Whatever bytes, and all that comes back until the gateway hangs up, or has said what it has to."""
        with socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), timeout=LONGEST_S) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            pieces = []
            while piece := connection.recv(65536):
                pieces.append(piece)
            return b"".join(pieces)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """In a thread of its own: schemathesis waits for answers."""
    started, ended, found = threading.Event(), asyncio.Event(), []

    async def serve() -> None:
        async with running(*MODELS) as gateway:
            found.append((gateway.url, asyncio.get_running_loop()))
            started.set()
            await ended.wait()
            assert gateway.telemetry.errors == [], "a bug of ours"

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    [(url, loop)] = found
    with httpx.Client(base_url=url, headers=HEADERS, timeout=LONGEST_S, trust_env=False) as client:
        yield Gateway(url, client, client.get("/openapi.json").json())
        assert client.get("/ping").text == "OK"
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_whatever_the_document_allows_or_forbids_has_an_answer(gateway: Gateway, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(gateway.document)
    schema.config.update(base_url=gateway.url)
    asked = set()
    for operation in (found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)):

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def ask(case: schemathesis.Case[Any]) -> None:
            response = case.call(headers=HEADERS, timeout=LONGEST_S)
            assert response.status_code < 500
            if response.status_code >= 400 and case.path != "/ready":
                assert {"message", "type", "param", "code"} <= set(response.json()["error"])
            assert "x-request-id" in response.headers

        with contextlib.suppress(Unsatisfiable):  # a path without anything that could be wrong
            ask()
            asked.add(operation.path)
    assert {"/v1/chat/completions", "/v1/images/generations", "/image"} <= asked


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
FIELDS = ("model", "stream", "stream_options", "n", "max_tokens", "tools", "response_format", "stop")
bodies = st.fixed_dictionaries(
    {"messages": st.lists(json_values, max_size=3) | json_values},
    optional=dict.fromkeys(FIELDS, json_values),
)


@given(bodies)
@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_json_is_an_answer_or_the_clients_own_fault(gateway: Gateway, body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()  # which writes NaN and numbers of any size, too
    answer = gateway.post("/v1/chat/completions", raw)
    assert answer.status_code in (200, 400, 404)
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]


@given(st.binary(max_size=300))
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_body_is_an_answer_or_the_clients_own_fault(gateway: Gateway, body: bytes) -> None:
    answer = gateway.post("/v1/embeddings", body)
    assert answer.status_code in (400, 404)


@given(
    st.binary(max_size=200) | st.text(max_size=100).map(lambda line: f"GET {line} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
)
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_at_all_are_answered_or_hung_up_on(gateway: Gateway, raw: bytes) -> None:
    answer = gateway.send(raw)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200"))
