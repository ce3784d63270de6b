"""A gateway with a model of every row of the table of providers, at an upstream that speaks as each of them does."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from core.catalog import Catalog, build_catalog
from core.config import load
from core.providers.dialect import Provider
from core.providers.rows import ROWS
from tests.fake_upstream import Exchange, FakeUpstream, Received, Script, events
from tests.provider_samples import SAMPLES
from tests.running_gateway import RunningGateway, configuration, running

ACCOUNT = "acc-1"

# A model as the configuration names it, as the provider knows it, and where the provider is really asked for it.
REAL = {
    "openai": ("gpt-4o-mini", "gpt-4o-mini", "https://api.openai.com/v1/chat/completions"),
    "openrouter": (
        "meta-llama/llama-3.3-70b-instruct:free",
        "meta-llama/llama-3.3-70b-instruct:free",
        "https://openrouter.ai/api/v1/chat/completions",
    ),
    "groq": ("openai/gpt-oss-120b", "openai/gpt-oss-120b", "https://api.groq.com/openai/v1/chat/completions"),
    "arliai": (
        "Mistral-Nemo-12B-Instruct-2407",
        "Mistral-Nemo-12B-Instruct-2407",
        "https://api.arliai.com/v1/chat/completions",
    ),
    "github": ("openai/gpt-4.1", "openai/gpt-4.1", "https://models.github.ai/inference/chat/completions"),
    "azure": ("gpt-4o-mini", "gpt-4o-mini", "https://acc-1.openai.azure.com/openai/v1/chat/completions"),
    "cloudflare": (
        "cf/meta/llama-3.1-8b-instruct",
        "@cf/meta/llama-3.1-8b-instruct",
        "https://api.cloudflare.com/client/v4/accounts/acc-1/ai/v1/chat/completions",
    ),
    "huggingface": (
        "meta-llama/Llama-3.1-8B-Instruct:novita",
        "meta-llama/Llama-3.1-8B-Instruct:novita",
        "https://router.huggingface.co/v1/chat/completions",
    ),
    "mistral": ("mistral-small-latest", "mistral-small-latest", "https://api.mistral.ai/v1/chat/completions"),
    "deepseek": ("deepseek-chat", "deepseek-chat", "https://api.deepseek.com/chat/completions"),
    "together": (
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "https://api.together.xyz/v1/chat/completions",
    ),
    "fireworks": (
        "accounts/fireworks/models/llama-v3p1-8b-instruct",
        "accounts/fireworks/models/llama-v3p1-8b-instruct",
        "https://api.fireworks.ai/inference/v1/chat/completions",
    ),
    "sambanova": (
        "Meta-Llama-3.3-70B-Instruct",
        "Meta-Llama-3.3-70B-Instruct",
        "https://api.sambanova.ai/v1/chat/completions",
    ),
    "cerebras": ("gpt-oss-120b", "gpt-oss-120b", "https://api.cerebras.ai/v1/chat/completions"),
    "nvidia": (
        "meta/llama-3.1-8b-instruct",
        "meta/llama-3.1-8b-instruct",
        "https://integrate.api.nvidia.com/v1/chat/completions",
    ),
    "xai": ("grok-3-mini", "grok-3-mini", "https://api.x.ai/v1/chat/completions"),
    "perplexity": ("sonar", "sonar", "https://api.perplexity.ai/chat/completions"),
    "glama": ("openai/gpt-4o", "openai/gpt-4o", "https://gateway.glama.ai/v1/chat/completions"),
    "aimlapi": ("openai/gpt-4o", "openai/gpt-4o", "https://api.aimlapi.com/v1/chat/completions"),
    "ollama": ("llama3.2", "llama3.2", "http://localhost:11434/v1/chat/completions"),
    "vllm": ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "http://localhost:8000/v1/chat/completions"),
}


def named(name: str) -> str:
    """The row's model, with the provider in front."""
    return f"{name}/{REAL[name][0]}"


def embedder(name: str) -> str:
    return f"{name}/embed"


def key_of(name: str) -> str:
    return f"key-of-{name}-0123456789"


def key_in(headers: Mapping[str, str]) -> str | None:
    """The key that a request was sent with, in the header that its provider wants."""
    bearer = headers.get("authorization", "").removeprefix("Bearer ")
    return headers.get("api-key") or bearer or None


def base_path(row: Provider) -> str:
    return urlsplit(row.base_url.format(account_id=ACCOUNT)).path


def entry_of(row: Provider, upstream_url: str = "") -> dict[str, Any]:
    """The provider's entry in a configuration; with `upstream_url` at that host instead of its own."""
    entry = {"token": key_of(row.name)} if row.needs_token else {}
    if upstream_url:
        return {**entry, "base_url": upstream_url + base_path(row)}
    return {**entry, "account_id": ACCOUNT} if "{account_id}" in row.base_url else entry


def catalog_of(*models: dict[str, Any], **providers: dict[str, Any]) -> Catalog:
    text = yaml.safe_dump(configuration(*models, providers=providers))
    return build_catalog(load(text, name="test.yaml", env={}))


@dataclass
class Rig:
    """One gateway with a chat model of every row, all at one upstream, whose script a test sets."""

    upstream: FakeUpstream
    gateway: RunningGateway

    async def chat(self, name: str, script: Script, **body: Any) -> bytes:
        """What the client gets when the row's provider answers by `script`."""
        self.upstream.script = script
        response = await self.gateway.chat(model=named(name), **body)
        assert response.status_code == 200, response.text
        assert response.headers["x-sluice-model"] == named(name)
        return response.content

    @property
    def asked(self) -> Received:
        return self.upstream.requests[-1]


@contextlib.asynccontextmanager
async def every_row() -> AsyncIterator[Rig]:
    models = [{"name": named(row.name), "provider": row.name} for row in ROWS]
    models += [{"name": embedder(row.name), "provider": row.name, "kind": "embedding"} for row in ROWS]
    async with FakeUpstream() as upstream:
        providers = {row.name: entry_of(row, upstream.url) for row in ROWS}
        async with running(*models, providers=providers) as gateway:
            yield Rig(upstream, gateway)


def one_row(name: str, upstream: FakeUpstream, **entry: Any) -> contextlib.AbstractAsyncContextManager[RunningGateway]:
    """A gateway of its own, for a test after which the provider may be out of favour."""
    provider = {**entry_of(SAMPLES[name].row, upstream.url), **entry}
    return running({"name": named(name), "provider": name}, providers={name: provider})


def in_pieces(body: bytes, size: int = 61) -> Script:
    """A stream that comes in pieces that end anywhere, also inside a character."""
    return events(*(body[at : at + size] for at in range(0, len(body), size)))


def speaks(name: str) -> Script:
    """The provider itself: it looks at the request, and streams as it would to that."""

    async def script(exchange: Exchange) -> None:
        asked = exchange.request.json
        wants_usage = asked.get("stream_options", {}).get("include_usage", False)
        kind = SAMPLES[name].asked(wants_usage=wants_usage, tools="tools" in asked)
        await in_pieces(SAMPLES[name].sent(kind))(exchange)

    return script
