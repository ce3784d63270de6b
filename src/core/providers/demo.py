"""The built-in provider that needs no key and no network; `http_client/demo.py` answers for it."""

from .dialect import Provider
from .images import OpenAIImages
from .openai import OpenAIDialect

DEMO = Provider(
    name="demo",
    dialect=OpenAIDialect(),
    base_url="demo://local/v1",
    needs_token=False,
    capabilities=frozenset({"streaming"}),
    images=OpenAIImages(edits=False),
)
