"""The list of providers. A new one is its row (or its file), a line in the list, and its sample bytes."""

from . import quirks
from .demo import DEMO
from .dialect import Provider
from .openai import OpenAIDialect
from .rows import ROWS

PROVIDERS: dict[str, Provider] = {row.name: row for row in (*ROWS, DEMO)}

# They have a language of their own, which is not translated yet: their models load, with a warning, and are not asked.
NOT_YET = frozenset({"google", "gemini", "gigachat", "anthropic", "cohere", "azure", "bedrock"})


def find_provider(name: str) -> Provider:
    """The row of that name; any other name is somebody who speaks OpenAI's dialect at an address of their own."""
    return PROVIDERS.get(name) or Provider(name=name, dialect=OpenAIDialect(mends=quirks.ANY), needs_token=False)
