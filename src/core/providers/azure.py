"""Azure OpenAI: OpenAI's dialect, at an address that may name the deployment, with a header of its own for the key.

https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle
"""

import re
from urllib.parse import quote

from ..frozen import frozen
from . import quirks
from .dialect import Endpoint, Provider
from .exchange import bearer
from .images import OpenAIImages
from .limit_headers import standard
from .openai import OpenAIDialect

_FORM_IN_BASE = re.compile(r"(/openai/(?:v1|deployments/[^/]+))/openai/v1/")


@frozen
class AzureDialect(OpenAIDialect):
    def address(self, endpoint: Endpoint) -> str:
        """`/openai/v1`; with a dated `api_version` the older form, in which the address names the deployment."""
        url, _, query = _FORM_IN_BASE.sub(r"\1/", endpoint.url).partition("?")
        version = endpoint.api_version or ""
        if version[:1].isdigit():
            url = url.replace("/openai/v1/", f"/openai/deployments/{quote(endpoint.upstream_model, safe='')}/")
        if version and "api-version=" not in query:
            query = "&".join(filter(None, (query, f"api-version={quote(version)}")))
        return f"{url}?{query}" if query else url

    def credentials(self, endpoint: Endpoint) -> dict[str, str]:
        """A token of Entra's, which is a JWT, is a bearer's; a key is not."""
        return bearer(endpoint) if endpoint.token.startswith("eyJ") else {"api-key": endpoint.token}


_DIALECT = AzureDialect(mends=(quirks.no_delta, quirks.filters_without_name), knows_developer=True)
AZURE = Provider(
    name="azure",
    dialect=_DIALECT,
    base_url="https://{account_id}.openai.azure.com",
    chat_path="/openai/v1/chat/completions",
    embeddings_path="/openai/v1/embeddings",
    images=OpenAIImages(_DIALECT, "/openai/v1/images/generations"),
    models_url="",  # its list is what could be deployed, not what is
    # Resets are in milliseconds: of 120 requests a minute one is back after 500 (seen in 2026).
    limit_headers=standard("minute", "minute", reset_unit="ms"),
)
