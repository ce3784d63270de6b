"""The list of providers. A new one is its row (or its file), a line in the list, and its sample bytes."""

from . import quirks
from .anthropic import ANTHROPIC
from .bedrock import BEDROCK
from .cloudflare_run import CLOUDFLARE_RUN
from .cohere import COHERE
from .demo import DEMO
from .dialect import Provider
from .gigachat import GIGACHAT
from .google import GEMINI, GOOGLE, VERTEX
from .openai import OpenAIDialect
from .rows import AIRFORCE, CLOUDFLARE, ROWS

# They have a language of their own, each in a file of its own.
TRANSLATED = (ANTHROPIC, BEDROCK, CLOUDFLARE_RUN, COHERE, GEMINI, GIGACHAT, GOOGLE, VERTEX)

PROVIDERS: dict[str, Provider] = {row.name: row for row in (*ROWS, *TRANSLATED, AIRFORCE, DEMO)}


def find_provider(name: str, url: str = "") -> Provider:
    """The row of that name; any other name is somebody who speaks OpenAI's dialect at an address of their own.

    `url`: the address where it is asked, as far as one is configured. Cloudflare has two languages at two addresses.
    """
    if name == CLOUDFLARE.name and "/ai/run" in url:
        return CLOUDFLARE_RUN
    return PROVIDERS.get(name) or Provider(name=name, dialect=OpenAIDialect(mends=quirks.ANY), needs_token=False)
