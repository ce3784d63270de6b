"""What GigaChat is asked for a caller's chat, how its token is got and kept, and what only GigaChat says."""

import asyncio
import base64
import time
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest

from core.chat import Chat
from core.embedding import Embedding
from core.errors import Operator, Transient, Unsupported, UpstreamError
from core.providers import PROVIDERS
from core.providers.dialect import Completion, Endpoint, Token
from core.providers.gigachat import AUTH_URL, GigaChatDialect, GigaChatLogin
from core.stream import Chunk
from tests.fake_upstream import Exchange, FakeUpstream, Script, answers, answers_json, events
from tests.provider_samples import NOW, OF_TRANSLATED, STAMP, TEXT
from tests.running_gateway import Clock, running
from tests.translation import (
    BARE_TOOL,
    FAR_PICTURE,
    PICTURE,
    SCHEMA,
    SOUND,
    TOOL,
    TURN,
    USER,
    WEATHER,
    Json,
    call,
    outgoing,
    request_to,
    said_by,
    sent,
)

BARE: Json = {"model": "m", "stream": False, "messages": [USER]}
FUNCTION: Json = {"name": "get_weather", "description": "Looks", "parameters": WEATHER}
ANSWER = OF_TRANSLATED["gigachat"].sent("answer")


def ask(**body: Any) -> Json:
    return sent("gigachat", body)


# --- what it is asked


@pytest.mark.parametrize(
    "url", ["https://g.example/api/v1", "https://g.example/api/v1/", "https://g.example/api/v1/chat/completions"]
)
def test_an_old_address_is_the_base_of_all_paths(url: str) -> None:
    assert request_to("gigachat", url=url).url == "https://g.example/api/v1/chat/completions"


def test_embeddings_are_asked_for_as_openai_does() -> None:
    endpoint = Endpoint(url="https://g.example/api/v1", upstream_model="Embeddings")
    request = GigaChatDialect().embedding_request(endpoint, Embedding({"model": "e", "input": ["a"]}, 0))
    assert request.url == "https://g.example/api/v1/embeddings"
    assert orjson.loads(request.body) == {"model": "Embeddings", "input": ["a"]}


def test_a_bare_chat_does_not_hold_the_key() -> None:
    assert ask() == BARE
    assert ask(stream=True)["stream"] is True
    assert "authorization" not in request_to("gigachat").headers


def test_a_conversation_with_tools_has_one_system_message_and_one_call_a_turn() -> None:
    asked = ask(messages=TURN, tools=[TOOL])
    assert (asked["functions"], asked["function_call"]) == ([FUNCTION], "auto")
    said = {"role": "assistant", "content": "Let me see."}
    assert asked["messages"] == [
        {"role": "system", "content": "Be brief.\n\nAnd kind."},
        {"role": "user", "content": "Oslo and Bergen?"},
        {**said, "function_call": {"name": "get_weather", "arguments": {"city": "Oslo"}}},
        {"role": "function", "name": "get_weather", "content": '{"celsius": 4}'},
        {**said, "content": "", "function_call": {"name": "get_weather", "arguments": {"city": "Bergen"}}},
        {"role": "function", "name": "get_weather", "content": '{"result":"rain"}'},
        {"role": "user", "content": "Thanks."},
    ]


def test_the_state_of_its_functions_goes_back() -> None:
    kept = {"extra_content": {"gigachat": {"functions_state_id": "s-1"}}}
    turn = [USER, {"role": "assistant", "tool_calls": [call("c1", "Oslo", **kept)]}]
    assert ask(messages=turn)["messages"][1]["functions_state_id"] == "s-1"


@pytest.mark.parametrize("part", [PICTURE, FAR_PICTURE, SOUND])
def test_parts_that_it_does_not_take_are_refused(part: Json) -> None:
    assert "vision" not in PROVIDERS["gigachat"].capabilities
    with pytest.raises(Unsupported, match=r"messages\[0\]\.content\[1\]: this provider does not take"):
        ask(messages=[said_by("See", part)])


@pytest.mark.parametrize(
    ("choice", "names", "said"),
    [
        ("auto", ["get_weather", "now"], "auto"),
        ("none", ["get_weather", "now"], "none"),
        ({"type": "function", "function": {"name": "now"}}, ["now"], {"name": "now"}),
    ],
)
def test_tool_choice(choice: Any, names: list[str], said: Any) -> None:
    asked = ask(tools=[TOOL, BARE_TOOL], tool_choice=choice)
    assert ([one["name"] for one in asked["functions"]], asked["function_call"]) == (names, said)


def test_a_call_that_is_required_must_be_of_a_certain_function() -> None:
    assert ask(tools=[TOOL], tool_choice="required")["function_call"] == {"name": "get_weather"}
    with pytest.raises(Unsupported):
        ask(tools=[TOOL, BARE_TOOL], tool_choice="required")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 5, "temperature": 0.5, "top_p": 0.9}, {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9}),
        ({"max_completion_tokens": 6, "n": 2}, {"max_tokens": 6, "n": 2}),
        (
            {"repetition_penalty": 1.1, "reasoning_effort": "low"},
            {"repetition_penalty": 1.1, "reasoning_effort": "low"},
        ),
        ({"response_format": SCHEMA}, {"response_format": {"type": "json_schema", "schema": WEATHER, "strict": True}}),
    ],
)
def test_parameters(body: Json, expected: Json) -> None:
    assert ask(**body) == BARE | expected


def test_what_only_advises_is_left_out_and_said() -> None:
    assert outgoing("gigachat", {"seed": 1, "user": "u"}).dropped == ("seed", "user")


@pytest.mark.parametrize("body", [{"stop": "x"}, {"logprobs": True}, {"response_format": {"type": "json_object"}}])
def test_what_decides_the_answer_and_it_cannot_do_is_refused(body: Json) -> None:
    with pytest.raises(Unsupported):
        ask(**body)


# --- what it answers


def test_the_state_of_its_functions_is_kept_with_the_call() -> None:
    samples, kept = OF_TRANSLATED["gigachat"], {"gigachat": {"functions_state_id": "77d3fb14-state"}}
    found = PROVIDERS["gigachat"].dialect.completion(samples.sent("answer_tools"), Chat({}, 0), STAMP)
    assert isinstance(found, Completion)
    assert found.body["choices"][0]["message"]["tool_calls"][0]["extra_content"] == kept
    decoder = PROVIDERS["gigachat"].dialect.decoder(Chat({}, 0), STAMP)
    first = decoder.feed(samples.sent("stream_tools"))[0]
    assert isinstance(first, Chunk)
    assert first.body["choices"][0]["delta"]["tool_calls"][0]["extra_content"] == kept


@pytest.mark.parametrize(
    ("reason", "finish"), [("length", "length"), ("blacklist", "content_filter"), ("error", None), (None, None)]
)
def test_reasons_to_finish(reason: str | None, finish: str | None) -> None:
    choice = {"index": 0, "message": {"content": "So"}, "finish_reason": reason}
    found = PROVIDERS["gigachat"].dialect.completion(orjson.dumps({"choices": [choice]}), Chat({}, 0), STAMP)
    if finish is None:
        assert isinstance(found, Transient)
    else:
        assert isinstance(found, Completion)
        assert found.body["choices"][0]["finish_reason"] == finish


# --- how it is logged in to

LOGIN = GigaChatLogin()


@pytest.mark.parametrize("token", ["id:secret", base64.b64encode(b"id:secret").decode()])
def test_the_key_may_be_both_halves_or_base64_of_them(token: str) -> None:
    request = LOGIN.request(Endpoint(url="x", upstream_model="m", token=token), "uuid-1")
    assert request.url == AUTH_URL
    assert request.headers["authorization"] == "Basic " + base64.b64encode(b"id:secret").decode()
    assert request.headers["rquid"] == "uuid-1"
    assert request.body == b"scope=GIGACHAT_API_PERS"


def test_scope_and_address_are_the_configurations() -> None:
    endpoint = Endpoint(
        url="x", upstream_model="m", token="a:b", scope="GIGACHAT_API_CORP", auth_url="https://a.example"
    )
    request = LOGIN.request(endpoint, "u")
    assert (request.url, request.body) == ("https://a.example", b"scope=GIGACHAT_API_CORP")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"access_token": "t", "expires_at": 1795001800000}, Token("t", 1795001800.0)),
        (200, {"tok": "t", "exp": 1795001800}, Token("t", 1795001800.0)),
        (200, {"access_token": "t"}, Transient),
        (200, [], Transient),
        (400, {"code": 5, "message": "scope is empty"}, Operator),
        (400, {"code": 7, "message": "scope from db not fully includes consumed scope"}, Operator),
        (401, {"code": 6, "message": "credentials doesn't match db data"}, Operator),
        (500, "down", Transient),
    ],
)
def test_answers_of_the_login(status: int, body: Any, expected: Any) -> None:
    found = LOGIN.token(status, {}, orjson.dumps(body), now=NOW)
    if isinstance(expected, Token):
        assert found == expected
        assert isinstance(found, Token)
        assert "t" not in repr(found).replace("Token", "").replace("expires_at", "")
    else:
        assert isinstance(found, expected)


class Account:
    """GigaChat's two addresses on one socket. `issued`: tokens in order; `valid`: those that are accepted."""

    def __init__(self, upstream: FakeUpstream, *, lives_s: float = 1800.0) -> None:
        self.upstream, self.lives_s = upstream, lives_s
        self.issued: list[str] = []
        self.valid: set[str] = set()
        self.login: Script | None = None
        upstream.script = self._play

    async def _play(self, exchange: Exchange) -> None:
        if exchange.request.path == "/oauth":
            if self.login is not None:
                return await self.login(exchange)
            name = base64.b64decode(exchange.request.headers["authorization"].removeprefix("Basic ")).decode()
            (scope,) = parse_qs(exchange.request.body.decode())["scope"]
            token = f"token-{len(self.issued)}-of-{name}-for-{scope}"
            self.issued.append(token)
            self.valid.add(token)
            until_ms = int((time.time() + self.lives_s) * 1000)
            return await answers_json({"access_token": token, "expires_at": until_ms})(exchange)
        said = exchange.request.headers["authorization"].removeprefix("Bearer ")
        if said not in self.valid:
            return await answers_json({"status": 401, "message": "Token has expired"}, 401)(exchange)
        if exchange.request.json["stream"]:
            return await events(OF_TRANSLATED["gigachat"].sent("stream"))(exchange)
        return await answers(ANSWER)(exchange)

    def model(self, name: str = "m1", token: str = "id:secret", **more: Any) -> Json:
        url = self.upstream.url
        return {"name": name, "provider": "gigachat", "token": token, "url": url, "auth_url": f"{url}/oauth", **more}

    @property
    def bearers(self) -> list[str]:
        chats = [one for one in self.upstream.requests if one.path != "/oauth"]
        return [one.headers["authorization"].removeprefix("Bearer ") for one in chats]


async def test_one_token_serves_many_requests_even_at_once(upstream: FakeUpstream) -> None:
    account = Account(upstream)
    async with running(account.model()) as gateway:
        answers = await asyncio.gather(*(gateway.chat() for _ in range(12)))
        assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {TEXT}
        assert (await gateway.chat(stream=True)).text.endswith("data: [DONE]\n\n")
    assert len(account.issued) == 1
    assert set(account.bearers) == set(account.issued)


async def test_two_accounts_and_two_scopes_stand_side_by_side(upstream: FakeUpstream) -> None:
    account = Account(upstream)
    models = [
        account.model("m1", "one:secret"),
        account.model("m2", "two:secret"),
        account.model("m3", "two:secret", scope="GIGACHAT_API_CORP"),
    ]
    async with running(*models) as gateway:
        for _ in range(2):
            for name in ("m1", "m2", "m3"):
                assert (await gateway.chat(model=name)).status_code == 200
    assert account.bearers[:3] == account.bearers[3:] == account.issued
    assert [token.partition("-of-")[2] for token in account.issued] == [
        "one:secret-for-GIGACHAT_API_PERS",
        "two:secret-for-GIGACHAT_API_PERS",
        "two:secret-for-GIGACHAT_API_CORP",
    ]


async def test_a_token_is_renewed_a_minute_before_its_end(upstream: FakeUpstream) -> None:
    clock = Clock(time.time())
    account = Account(upstream)
    async with running(account.model(), door={"clock": clock}) as gateway:
        await gateway.chat()
        clock.advance(1730)
        await gateway.chat()
        assert len(account.issued) == 1
        clock.advance(15)
        await gateway.chat()
    assert len(account.issued) == 2


async def test_a_token_that_is_refused_is_renewed_once(upstream: FakeUpstream) -> None:
    account = Account(upstream)
    async with running(account.model()) as gateway:
        await gateway.chat()
        account.valid.clear()
        assert (await gateway.chat()).status_code == 200
        assert account.bearers == [account.issued[0], account.issued[0], account.issued[1]]


async def test_a_provider_that_refuses_every_token_is_not_asked_for_ever(upstream: FakeUpstream) -> None:
    account = Account(upstream)
    account.valid = _Nothing()
    async with running(account.model()) as gateway:
        answer = await gateway.chat()
    assert answer.status_code == 502
    assert len(account.bearers) == 2
    assert len(account.issued) == 2


class _Nothing(set[str]):
    def __contains__(self, _: object) -> bool:
        return False


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"code": 7, "message": "scope: secret"}, "upstream_refused"),
        (401, {"code": 6, "message": "credentials secret"}, "upstream_refused"),
        (500, {}, "upstream_error"),
    ],
)
async def test_a_login_that_fails_is_an_attempt_that_failed(
    upstream: FakeUpstream, status: int, body: Json, code: str
) -> None:
    account = Account(upstream)
    account.login = answers_json(body, status)
    async with running(account.model()) as gateway:
        answer = await gateway.chat()
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == code
    assert "secret" not in answer.text
    assert account.bearers == []


async def test_while_the_login_is_down_a_token_that_still_holds_is_used(upstream: FakeUpstream) -> None:
    clock = Clock(time.time())
    account = Account(upstream)
    async with running(account.model(), door={"clock": clock}) as gateway:
        await gateway.chat()
        clock.advance(1760)
        account.login = answers_json({}, 500)
        assert (await gateway.chat()).status_code == 200


async def test_who_leaves_does_not_take_the_token_from_those_who_wait(upstream: FakeUpstream) -> None:
    account, may_answer = Account(upstream), asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        await may_answer.wait()
        account.login = None
        await account._play(exchange)

    account.login = slowly
    async with running(account.model()) as gateway:
        first = asyncio.create_task(gateway.chat())
        async with asyncio.timeout(5):
            await upstream.asked.wait()
        second = asyncio.create_task(gateway.chat())
        await gateway.client.get("/ping")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await gateway.next_record(2)
        may_answer.set()
        assert (await second).status_code == 200
    assert len(account.issued) == 1


def test_a_failure_of_the_login_is_an_upstream_error() -> None:
    assert isinstance(LOGIN.token(502, {}, b"<html>", now=NOW), UpstreamError)
