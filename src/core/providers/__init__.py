"""The list of providers. A new one is a line here, its row or its file, and its sample bytes."""

from .demo import DEMO
from .dialect import Provider
from .openai import OPENAI, OpenAIDialect

PROVIDERS: dict[str, Provider] = {row.name: row for row in (OPENAI, DEMO)}


def find_provider(name: str) -> Provider:
    """The row of that name; any other name is somebody who speaks OpenAI's dialect at an address of their own."""
    return PROVIDERS.get(name) or Provider(name=name, dialect=OpenAIDialect(), needs_token=False)
