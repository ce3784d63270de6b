"""What a request needs of a model, read from its body, and the rule that keeps a model from it. Pure."""

from typing import Any

import orjson

from .catalog import Model
from .frozen import frozen
from .limits import Cost

BYTES_A_TOKEN = 4  # of text, as an estimate
DEFAULT_ANSWER_TOKENS = 512  # reserved where the caller sets no limit


@frozen
class Need:
    """`length`: bytes of the body less inline pictures; `answer_tokens`: the most it may say, None: not said."""

    length: int
    features: frozenset[str] = frozenset()
    answer_tokens: int | None = None
    answers: int = 1

    @property
    def prompt_tokens(self) -> int:
        return self.length // BYTES_A_TOKEN

    @property
    def tokens(self) -> int:
        """What is reserved for it: an estimate until the provider has reported."""
        said = DEFAULT_ANSWER_TOKENS if self.answer_tokens is None else self.answer_tokens
        return self.prompt_tokens + said * self.answers

    @property
    def cost(self) -> Cost:
        """What one call takes from the limits."""
        return Cost(1, self.tokens)


def need_of_chat(body: dict[str, Any], length: int, *, answers: int) -> Need:
    features = set()
    if body.get("stream") is True:
        features.add("streaming")
    if body.get("tools") or body.get("functions"):
        features.add("tools")
    if pictures := _pictures(body["messages"]):
        features.add("vision")
        if inline := sum(len(url) for url in pictures if url.startswith("data:")):
            length = len(orjson.dumps(body)) - inline  # as it came, each slash of a picture may have been two bytes
    if _kind(body.get("response_format")) == "json_schema":
        features.add("json_schema")
    return Need(length, frozenset(features), _most_tokens(body), answers)


def need_without_words(length: int) -> Need:
    """Of embeddings and pictures: no token is said in answer."""
    return Need(length=length, answer_tokens=0)


def shortfall(model: Model, need: Need) -> str | None:
    """The rule by which the model cannot take the request, whatever the hour; None when it can."""
    if model.is_off:
        return "off"
    if model.max_request_length is not None and need.length > model.max_request_length:
        return "max_request_length"
    if model.context_tokens is not None and need.prompt_tokens + (need.answer_tokens or 0) > model.context_tokens:
        return "context_tokens"
    return None if need.features <= model.capabilities else min(need.features - model.capabilities)


def is_larger(model: Model, than: Model) -> bool:
    """Whether one takes longer requests than the other, as far as their limits are configured."""
    sizes = ((model.context_tokens, than.context_tokens), (model.max_request_length, than.max_request_length))
    return any(theirs is not None and (mine is None or mine > theirs) for mine, theirs in sizes)


def _pictures(messages: list[Any]) -> list[str]:
    found = []
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if _kind(part) == "image_url":
                image = part.get("image_url")
                found.append(str(image.get("url", "") if isinstance(image, dict) else image))
    return found


def _most_tokens(body: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        most = body.get(name)
        if type(most) is int and most > 0:
            return most
    return None


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None
