"""Azure's addresses, in both forms and however they are configured, and the header that has the key."""

from typing import Any

import pytest

from core.chat import Chat
from core.embedding import Embedding
from core.http_client.port import HttpRequest
from core.providers.openai import OpenAIDialect
from tests.provider_rig import catalog_of
from tests.running_gateway import ask

RESOURCE = "https://work.openai.azure.com"
V1 = f"{RESOURCE}/openai/v1/chat/completions"
DEPLOYED = f"{RESOURCE}/openai/deployments/gpt-4o/chat/completions"
DATED = "2024-10-21"


def request_to(**settings: Any) -> HttpRequest:
    model = catalog_of({"name": "azure/gpt-4o", "provider": "azure"}, azure={"token": "k" * 32, **settings}).models[0]
    return model.row.dialect.request(model.endpoint, Chat(ask(), 0)).request


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({"account_id": "work"}, V1),
        ({"base_url": RESOURCE}, V1),
        ({"base_url": f"{RESOURCE}/"}, V1),
        ({"base_url": f"{RESOURCE}/openai/v1"}, V1),
        ({"base_url": f"{RESOURCE}/openai/v1/"}, V1),
        ({"url": V1}, V1),
        ({"account_id": "work", "api_version": "preview"}, f"{V1}?api-version=preview"),
        ({"account_id": "work", "api_version": DATED}, f"{DEPLOYED}?api-version={DATED}"),
        ({"base_url": RESOURCE, "api_version": DATED}, f"{DEPLOYED}?api-version={DATED}"),
        (
            {"base_url": f"{RESOURCE}/openai/deployments/gpt-4o", "api_version": DATED},
            f"{DEPLOYED}?api-version={DATED}",
        ),
        ({"url": DEPLOYED, "api_version": DATED}, f"{DEPLOYED}?api-version={DATED}"),
        ({"url": f"{DEPLOYED}?api-version={DATED}"}, f"{DEPLOYED}?api-version={DATED}"),
        ({"url": f"{DEPLOYED}?api-version={DATED}", "api_version": "2025-01-01"}, f"{DEPLOYED}?api-version={DATED}"),
        ({"url": f"{DEPLOYED}?tenant=a", "api_version": DATED}, f"{DEPLOYED}?tenant=a&api-version={DATED}"),
        ({"url": "https://proxy.example/azure/chat"}, "https://proxy.example/azure/chat"),
    ],
)
def test_address_has_the_form_that_the_version_says_and_a_whole_one_stays(
    settings: dict[str, Any], address: str
) -> None:
    assert request_to(**settings).url == address


def test_embeddings_are_asked_for_beside_the_chat() -> None:
    entry = {"token": "k" * 32, "account_id": "work", "api_version": DATED}
    model = catalog_of({"name": "azure/small", "provider": "azure", "kind": "embedding"}, azure=entry).models[0]
    assert isinstance(model.row.dialect, OpenAIDialect)
    request = model.row.dialect.embedding_request(model.endpoint, Embedding({"input": "a"}, 0))
    assert request.url == f"{RESOURCE}/openai/deployments/small/embeddings?api-version={DATED}"
    assert request.headers["api-key"] == "k" * 32


def test_a_key_has_a_header_of_its_own_and_a_token_of_entras_is_a_bearers() -> None:
    by_key, by_token = request_to(account_id="work"), request_to(account_id="work", token="eyJ0eXAi.eyJhdWQi.c2ln")
    assert (by_key.headers["api-key"], by_key.headers.get("authorization")) == ("k" * 32, None)
    assert (by_token.headers.get("api-key"), by_token.headers["authorization"]) == (
        None,
        "Bearer eyJ0eXAi.eyJhdWQi.c2ln",
    )
