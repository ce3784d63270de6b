"""The table of providers that speak OpenAI's dialect: where each is, what it can, what to mend, how it tells limits.

Addresses and headers are from the providers' documentation and recorded traffic of November 2026; a line marked (m)
was not seen in either. A capability that only some models of a provider have is left out: a model's own
`capabilities` add it.
"""

import re

from . import quirks
from .azure import AZURE
from .dialect import Provider
from .fireworks_images import FireworksImages
from .images import AirforceImages, ChatImages, FlatImages, OpenAIImages
from .limit_headers import DRAFT, LimitHeaders, standard
from .mistral import as_mistral_has_it
from .openai import OpenAIDialect

_TEXT = frozenset({"tools", "json_schema", "streaming"})
_ALL = _TEXT | {"vision"}

OPENAI = Provider(
    name="openai",
    dialect=OpenAIDialect(knows_developer=True),
    base_url="https://api.openai.com/v1",
    limit_headers=standard("minute", "minute"),
    images=OpenAIImages(),
)

OPENROUTER = Provider(
    name="openrouter",
    dialect=OpenAIDialect(mends=(quirks.reasoning_by_another_name, quirks.finish_twice), knows_developer=True),
    base_url="https://openrouter.ai/api/v1",
    capabilities=_ALL,
    limit_headers=(  # (m) only on a 429
        LimitHeaders("requests", None, "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    ),
    images=ChatImages(),
)

GROQ = Provider(
    name="groq",
    dialect=OpenAIDialect(
        mends=(quirks.reasoning_by_another_name, quirks.usage_in_x_groq), mend_request=quirks.without_reasoning
    ),
    base_url="https://api.groq.com/openai/v1",
    capabilities=_TEXT,
    limit_headers=standard("day", "minute"),  # requests are a day's here, tokens a minute's
)

ARLIAI = Provider(
    name="arliai",
    dialect=OpenAIDialect(mends=quirks.ANY),
    base_url="https://api.arliai.com/v1",
    capabilities=_TEXT,
)

GITHUB = Provider(
    name="github",
    dialect=OpenAIDialect(
        mends=(quirks.no_choices, quirks.no_delta, quirks.filters_without_name),
        codes={"RateLimitReached": 429},
        knows_developer=True,
    ),
    base_url="https://models.github.ai/inference",
    models_url="https://models.github.ai/catalog/models",
    capabilities=_ALL,
    limit_headers=standard(None, None),  # (m)
)

CLOUDFLARE_OPENAI = OpenAIDialect(
    mends=(
        quirks.no_choices,
        quirks.index_of_choice,
        quirks.index_of_call,
        quirks.numeric_content,
        quirks.arguments_as_object,
        quirks.finish_of_calls,
        quirks.finish_twice,
    ),
    codes={
        "3036": 402,  # the day's free neurons are used up, until 00:00 UTC
        "4006": 402,
        "3040": 429,  # out of capacity, for seconds
        "3007": 408,
        "3008": 408,
        "3006": 413,
        "5007": 404,
        "3042": 404,
        "5018": 403,
        "5016": 403,
        "3023": 403,
        "3041": 403,
    },
)

CLOUDFLARE = Provider(
    name="cloudflare",
    dialect=CLOUDFLARE_OPENAI,
    base_url="https://api.cloudflare.com/client/v4/accounts/{account_id}/ai/v1",
    models_url="https://api.cloudflare.com/client/v4/accounts/{account_id}/ai/models/search",
    model_prefix="@",
    capabilities=_TEXT,
    images=FlatImages(
        template="/run/{model}",
        same=("guidance", "negative_prompt", "num_steps", "seed", "steps"),
        takes_sides=True,
        without_sides=re.compile("flux-1-schnell"),
        as_form=re.compile(
            "flux-2-"
        ),  # https://developers.cloudflare.com/changelog/2026-01-28-flux-2-klein-9b-workers-ai/
    ),
    images_base_url="https://api.cloudflare.com/client/v4/accounts/{account_id}/ai",
)

HUGGINGFACE = Provider(
    name="huggingface",
    dialect=OpenAIDialect(mends=(quirks.reasoning_by_another_name, quirks.finish_twice)),
    base_url="https://router.huggingface.co/v1",
    capabilities=_ALL,
    limit_headers=(DRAFT,),
    images=FlatImages(
        template="/hf-inference/models/{model}",
        prompt="inputs",
        same=("guidance_scale", "negative_prompt", "num_inference_steps", "seed"),
        takes_sides=True,
        inside="parameters",
    ),
    images_base_url="https://router.huggingface.co",
)

MISTRAL = Provider(
    name="mistral",
    dialect=OpenAIDialect(
        mends=(quirks.content_in_parts, quirks.calls_without_type, quirks.finish_by_another_name),
        mend_request=as_mistral_has_it,
    ),
    base_url="https://api.mistral.ai/v1",
    capabilities=_ALL,
    limit_headers=(
        LimitHeaders(
            "tokens", "minute", "x-ratelimit-limit-tokens-minute", "x-ratelimit-remaining-tokens-minute"
        ),  # requests are counted over ten seconds, tokens over a month, too: no window of ours
    ),
)

DEEPSEEK = Provider(
    name="deepseek",
    dialect=OpenAIDialect(mend_request=quirks.limit_by_its_older_name),
    base_url="https://api.deepseek.com",
    capabilities=_TEXT - {"json_schema"},  # (m) JSON, but to no schema
)

TOGETHER = Provider(
    name="together",
    dialect=OpenAIDialect(mends=(quirks.reasoning_by_another_name, quirks.finish_by_another_name)),
    base_url="https://api.together.xyz/v1",
    capabilities=_TEXT,
    limit_headers=(
        LimitHeaders("requests", None, "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
        LimitHeaders("tokens", None, "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset"),
    ),
    images=FlatImages(
        template="/images/generations",
        names_model=True,
        same=("guidance_scale", "n", "negative_prompt", "output_format", "seed", "steps"),
        takes_sides=True,
        formats={"b64_json": "base64", "url": "url"},
    ),
)

FIREWORKS = Provider(
    name="fireworks",
    dialect=OpenAIDialect(),
    base_url="https://api.fireworks.ai/inference/v1",
    capabilities=_TEXT,
    limit_headers=standard("minute", None),  # (m)
    images=FireworksImages(),
)

SAMBANOVA = Provider(
    name="sambanova",
    dialect=OpenAIDialect(mends=quirks.ANY),
    base_url="https://api.sambanova.ai/v1",
    capabilities=_TEXT,
    limit_headers=(
        standard("minute", None)[0],
        LimitHeaders(
            "requests",
            "day",
            "x-ratelimit-limit-requests-day",
            "x-ratelimit-remaining-requests-day",
            "x-ratelimit-reset-requests-day",
        ),
    ),
)

CEREBRAS = Provider(
    name="cerebras",
    dialect=OpenAIDialect(mends=(quirks.reasoning_by_another_name,), mend_request=quirks.without_reasoning),
    base_url="https://api.cerebras.ai/v1",
    capabilities=_TEXT,
    limit_headers=(
        LimitHeaders(
            "requests",
            "day",
            "x-ratelimit-limit-requests-day",
            "x-ratelimit-remaining-requests-day",
            "x-ratelimit-reset-requests-day",
        ),
        LimitHeaders(
            "tokens",
            "minute",
            "x-ratelimit-limit-tokens-minute",
            "x-ratelimit-remaining-tokens-minute",
            "x-ratelimit-reset-tokens-minute",
        ),
    ),
)

NVIDIA = Provider(
    name="nvidia",
    dialect=OpenAIDialect(mends=quirks.ANY),
    base_url="https://integrate.api.nvidia.com/v1",
    capabilities=_TEXT,
    images=FlatImages(
        template="/{model}",
        same=("cfg_scale", "mode", "negative_prompt", "seed", "steps"),
        takes_sides=True,
    ),
    images_base_url="https://ai.api.nvidia.com/v1/genai",
)

XAI = Provider(
    name="xai",
    dialect=OpenAIDialect(),
    base_url="https://api.x.ai/v1",
    capabilities=_ALL,
    limit_headers=standard(None, "minute"),  # (m)
    images=FlatImages(
        template="/images/generations",
        names_model=True,
        same=("aspect_ratio", "n", "resolution", "user"),  # a size is an error there
        formats={"b64_json": "b64_json", "url": "url"},
    ),
)

PERPLEXITY = Provider(
    name="perplexity",
    dialect=OpenAIDialect(mends=(quirks.message_beside_delta, quirks.usage_in_every_chunk)),
    base_url="https://api.perplexity.ai",
    models_url="",  # it has no list
    capabilities=frozenset({"json_schema", "streaming", "vision"}),
)

GLAMA = Provider(
    name="glama",
    dialect=OpenAIDialect(mends=quirks.ANY),
    base_url="https://gateway.glama.ai/v1",
    capabilities=_ALL,
)

AIMLAPI = Provider(
    name="aimlapi",
    dialect=OpenAIDialect(mends=quirks.ANY),
    base_url="https://api.aimlapi.com/v1",
    capabilities=_ALL,
    images=FlatImages(
        template="/images/generations",
        names_model=True,
        same=("aspect_ratio", "background", "n", "output_format", "quality", "seed", "size", "style"),  # (m) by model
        formats={"b64_json": "b64_json", "url": "url"},
    ),
)

OLLAMA = Provider(
    name="ollama",
    dialect=OpenAIDialect(
        mends=(
            quirks.reasoning_by_another_name,
            quirks.arguments_as_object,
            quirks.empty_finish,
            quirks.finish_of_calls,
        ),
        mend_request=quirks.limit_by_its_older_name,
    ),
    base_url="http://localhost:11434/v1",
    needs_token=False,
    takes_picture_addresses=False,
    capabilities=_TEXT,
)

AIRFORCE = Provider(
    name="airforce",
    dialect=OpenAIDialect(mends=quirks.ANY),
    needs_token=False,
    images=AirforceImages(),
)

VLLM = Provider(
    name="vllm",
    dialect=OpenAIDialect(mends=(quirks.reasoning_by_another_name, quirks.usage_in_every_chunk)),
    base_url="http://localhost:8000/v1",
    needs_token=False,
    capabilities=_TEXT,
)

ROWS = (
    OPENAI,
    OPENROUTER,
    GROQ,
    ARLIAI,
    GITHUB,
    AZURE,
    CLOUDFLARE,
    HUGGINGFACE,
    MISTRAL,
    DEEPSEEK,
    TOGETHER,
    FIREWORKS,
    SAMBANOVA,
    CEREBRAS,
    NVIDIA,
    XAI,
    PERPLEXITY,
    GLAMA,
    AIMLAPI,
    OLLAMA,
    VLLM,
)
