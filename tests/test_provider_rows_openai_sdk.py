"""The official `openai` package in front of every row: what an application gets, whoever is behind the gateway."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.provider_rig import Rig, every_row, in_pieces, named, speaks
from tests.provider_samples import CALLS, REASONING, SAMPLES, TEXT, TOKENS, of_kind
from tests.running_gateway import TOKEN

IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")  # so that one gateway serves all of them
EVERY_ROW = pytest.mark.parametrize("name", SAMPLES)
WITH_TOOLS = [name for name, samples in SAMPLES.items() if "tools" in samples.row.capabilities]

# Providers whose streams hold the usage whether or not it is asked for. It is passed on as it came: to take it out
# would be a change that nobody asked for. Perplexity's, in every chunk, is taken out.
USAGE_UNASKED = {"openrouter", "cloudflare", "mistral", "deepseek", "together", "fireworks", "cerebras"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with every_row() as rig:
        yield rig


@dataclass
class Heard:
    """A stream put together as clients do."""

    text: str
    reasoning: str
    calls: list[tuple[str, Any]]
    finishes: list[str]
    usages: list[tuple[int, int]]


async def listen(rig: Rig, name: str, **body: Any) -> Heard:
    """Asks through the `openai` package. Every choice must have a delta, as that package's types promise."""
    async with AsyncOpenAI(base_url=f"{rig.gateway.url}/v1", api_key=TOKEN, max_retries=0) as client:
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model=named(name), messages=[{"role": "user", "content": "Hello"}], stream=True, **body
            )
        ]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert {choice.index for choice in choices} == {0}
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for call in (call for choice in choices for call in choice.delta.tool_calls or ()):
        assert call.function
        names[call.index] = names.get(call.index, "") + (call.function.name or "")
        arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
    extras = [choice.delta.model_extra or {} for choice in choices]
    return Heard(
        text="".join(choice.delta.content or "" for choice in choices),
        reasoning="".join(extra.get("reasoning_content") or "" for extra in extras),
        calls=[(names[index], orjson.loads(arguments[index])) for index in sorted(names)],
        finishes=[choice.finish_reason for choice in choices if choice.finish_reason],
        usages=[(chunk.usage.prompt_tokens, chunk.usage.completion_tokens) for chunk in chunks if chunk.usage],
    )


@IN_ONE_LOOP
@EVERY_ROW
async def test_openai_client_hears_the_text_once_with_one_finish(rig: Rig, name: str) -> None:
    rig.upstream.script = speaks(name)
    heard = await listen(rig, name)
    assert (heard.text, heard.finishes, heard.calls) == (TEXT, ["stop"], [])
    assert heard.usages == ([TOKENS] if name in USAGE_UNASKED else [])


@IN_ONE_LOOP
@EVERY_ROW
async def test_openai_client_that_asks_for_usage_gets_it_exactly_once(rig: Rig, name: str) -> None:
    rig.upstream.script = speaks(name)
    heard = await listen(rig, name, stream_options={"include_usage": True})
    assert (heard.text, heard.finishes, heard.usages) == (TEXT, ["stop"], [TOKENS])


@IN_ONE_LOOP
@pytest.mark.parametrize("name", WITH_TOOLS)
async def test_openai_client_gets_tool_calls_whole(rig: Rig, name: str) -> None:
    rig.upstream.script = speaks(name)
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    heard = await listen(rig, name, tools=[tool])
    assert (heard.calls, heard.finishes) == (CALLS, ["tool_calls"])


@IN_ONE_LOOP
@pytest.mark.parametrize(("name", "kind"), of_kind("stream_reasoning"))
async def test_openai_client_finds_reasoning_as_reasoning_content(rig: Rig, name: str, kind: str) -> None:
    rig.upstream.script = in_pieces(SAMPLES[name].sent(kind))
    heard = await listen(rig, name)
    assert (heard.reasoning, heard.text, heard.finishes) == (REASONING, TEXT, ["stop"])
