"""The sample bytes of each provider, `tests/samples/<provider>/`: what it sends, and what the client must get of it.

    stream.sse             the answer to a chat with `stream` (`.bin` where it is no text)
    stream_usage.sse       the same with `stream_options.include_usage`, where that makes a difference
    stream_tools.sse       an answer with tool calls
    stream_reasoning.sse   an answer with reasoning before it
    stream_logprobs.sse    an answer that says how likely its tokens were
    stream_error.sse       a stream that breaks off in the provider's own way
    answer*.json           whole answers: text, tool calls, reasoning, how likely its tokens were
    errors.json            [{status, headers, body, expect: {class, retry_after_s}}]; a body is JSON, or plain text
    embeddings.json        where it has embeddings in OpenAI's form
    models.json            its list of models, where it has one
    image*                 pictures, where it draws: JSON, or bytes (`.bin`); `test_image_providers.py` says which

`X.client.sse` beside `X.sse` is what the client gets, where that is not the provider's own events byte for byte.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from core.providers import TRANSLATED
from core.providers.dialect import Provider, Stamp
from core.providers.rows import ROWS

FOLDER = Path(__file__).parent / "samples"
NOW = 1795000000.0  # Unix time at which the samples were sent
STAMP = Stamp("chatcmpl-0", int(NOW), "m")

# Rows that speak as another does, at another place.
SPEAKS_AS = {"gemini": "google", "vertex": "google"}

# What all samples say, each in its provider's way.
TEXT = "It is 42 °C."
REASONING = "Six times seven."
CALLS = [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Bergen"})]
TOKENS = (11, 7)
LOGPROBS = [("It is", -0.25), (" 42", -0.5), (" °", 0.0), ("C.", -1.5)]


@dataclass(frozen=True)
class Samples:
    """One provider's samples; a kind is a file's name without its ending."""

    row: Provider

    @property
    def folder(self) -> Path:
        return FOLDER / SPEAKS_AS.get(self.row.name, self.row.name)

    @cached_property
    def kinds(self) -> frozenset[str]:
        names = {path.name for path in self.folder.iterdir()}
        return frozenset(name.partition(".")[0] for name in names)

    def sent(self, kind: str) -> bytes:
        """What the provider sends."""
        return self._file(kind).read_bytes()

    def got(self, kind: str) -> bytes:
        """What the client gets."""
        mended = self._file(kind, ".client")
        if mended.exists():
            return mended.read_bytes()
        return passed_on(self.sent(kind)) if kind.startswith("stream") else self.sent(kind).strip()

    def is_mended(self, kind: str) -> bool:
        return self._file(kind, ".client").exists()

    def json(self, kind: str) -> Any:
        return orjson.loads(self.sent(kind))

    def asked(self, *, wants_usage: bool = False, tools: bool = False) -> str:
        """The kind of stream that answers such a request."""
        if tools:
            return "stream_tools"
        return "stream_usage" if wants_usage and "stream_usage" in self.kinds else "stream"

    def _file(self, kind: str, part: str = "") -> Path:
        binary = self.folder / f"{kind}{part}.bin"
        if binary.exists():
            return binary
        return self.folder / f"{kind}{part}{'.sse' if kind.startswith('stream') else '.json'}"


def passed_on(stream: bytes) -> bytes:
    """A provider's events one by one as they came, without comments and empty ones, up to the end of the answer."""
    events = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: ")]
    chunks = [event for event in events if event.strip() and event != b"[DONE]"]
    return b"".join(b"data: %b\n\n" % event for event in [*chunks, b"[DONE]"])


def data_of(stream: bytes) -> list[Any]:
    """The JSON of each event but `[DONE]`."""
    lines = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: ")]
    return [orjson.loads(line) for line in lines if line.strip() and line != b"[DONE]"]


SAMPLES = {row.name: Samples(row) for row in ROWS}
OF_TRANSLATED = {row.name: Samples(row) for row in TRANSLATED}


def of_kind(*prefixes: str) -> list[tuple[str, str]]:
    """Every (provider, kind) whose kind begins with one of `prefixes`, for a parametrised test."""
    return [
        (name, kind)
        for name, samples in SAMPLES.items()
        for kind in sorted(samples.kinds)
        if kind.startswith(prefixes) and kind != "stream_error"
    ]
